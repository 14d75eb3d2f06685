"""The scalars that a training run wrote for TensorBoard, read back for a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vla_alignment_ros.errors import ConfigError

LOG_FOLDER = 'tensorboard'  # of a run, beside its checkpoint
SHOWN = (
    'loss/total',
    'loss/action',
    'validation/action_l1',
    'validation/vl_auroc',
    'validation/keyframe_mm',
    'validation/swap_sensitivity',
)
MORE = 'loss/align'  # and the losses of the alignment, as many as there is room for
PANELS = 12


def read_scalars(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name → (steps (n,), values (n,)) of all scalars of a run's event files.

    A step that was written twice, because a run was resumed, counts as written last. Raises
    ConfigError where there are no event files.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not list(folder.glob('events.out.tfevents.*')):
        raise ConfigError(f'no TensorBoard event files in {folder}; give the folder that has them')
    events = EventAccumulator(str(folder), size_guidance={'scalars': 0})
    events.Reload()
    found = {}
    for name in events.Tags()['scalars']:
        by_step = {event.step: event.value for event in events.Scalars(name)}
        steps = np.array(sorted(by_step), np.int64)
        found[name] = steps, np.array([by_step[step] for step in steps], np.float64)
    return found


def worth_showing(
    scalars: dict[str, tuple[np.ndarray, np.ndarray]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The curves that tell how a training went, at most PANELS of them."""
    names = [name for name in SHOWN if name in scalars]
    names += [name for name in scalars if name.startswith(MORE)]
    return {name: scalars[name] for name in names[:PANELS]}
