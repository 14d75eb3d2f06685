"""LeRobot folders: written from bags, and read as if they were bags.

The layout is LeRobotDataset v3.0 (`codebase_version` "v3.0"), checked against version 0.6.2 of
huggingface/lerobot (commit 7427f31): docs/source/lerobot-dataset-v3.mdx, and in
src/lerobot/datasets utils.py (paths and sizes), feature_utils.py, compute_stats.py,
dataset_writer.py and dataset_reader.py; `intervention` is that of src/lerobot/rollout/context.py.

    meta/info.json                              fps, features, totals, path templates, splits
    meta/stats.json                             statistics of every feature
    meta/tasks.parquet                          instruction -> task_index
    meta/episodes/chunk-000/file-000.parquet    a row per episode: where its rows and frames are
    data/chunk-000/file-000.parquet             a row per frame, many episodes to a file
    videos/<feature>/chunk-000/file-000.mp4     frames of many episodes, one after the other
    meta/vla_alignment_ros.json                 ours, ignored by others: the embodiment

Ours are also one feature of a frame, `tick_ns` (the exact stamp; `timestamp` is frame / fps as
LeRobot wants it), and four columns of an episode: `vla/name`, `vla/success`, `vla/instruction`
and `vla/extra`. LeRobot carries them along and looks at none of them.

It needs pyarrow and PyAV, which nothing else here does: call `require` before its modules are
imported.
"""

from __future__ import annotations

from importlib.util import find_spec

from vla_alignment_ros.errors import DatasetError

PACKAGES = ('av', 'pyarrow')


def require() -> None:
    """Raise DatasetError, with what to install, where a package is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise DatasetError(
            f"LeRobot folders need {' and '.join(missing)}: pip install "
            f"'vla_alignment_ros[lerobot]'"
        )
