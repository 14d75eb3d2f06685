"""The parquet tables of a LeRobot folder as they are written: features, types and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla_alignment_ros.data.lerobot import layout
from vla_alignment_ros.embodiment import Embodiment

# one number a frame: time since the episode began (frame / fps, s), the indices, whether a person
# had taken over (as lerobot-rollout says it), our stamp
SCALARS = {
    'timestamp': np.float32,
    'frame_index': np.int64,
    'episode_index': np.int64,
    'index': np.int64,
    'task_index': np.int64,
    layout.INTERVENTION: np.bool_,
    layout.TICK: np.int64,
}


def describe_features(embodiment: Embodiment, state_names: Sequence[str]) -> dict[str, Any]:
    """`features` of info.json, without what is known of the videos once they are written."""
    features: dict[str, Any] = {
        layout.ACTION: _vector(embodiment.action.names),
        layout.STATE: _vector(state_names),
    }
    for camera in embodiment.cameras:
        features[f'{layout.IMAGES}{camera.name}'] = {
            'dtype': 'video',
            'shape': [camera.height, camera.width, 3],
            'names': ['height', 'width', 'channels'],
        }
    for name, dtype in SCALARS.items():
        features[name] = {'dtype': np.dtype(dtype).name, 'shape': [1], 'names': None}
    return features


def _vector(names: Sequence[str]) -> dict[str, Any]:
    return {'dtype': 'float32', 'shape': [len(names)], 'names': list(names)}


def frame_table(arrays: Mapping[str, np.ndarray]) -> pa.Table:
    """A row per frame: feature -> (T,) or (T, D)."""
    columns = {}
    for name, array in arrays.items():
        column = pa.array(np.ascontiguousarray(array).reshape(-1))
        if array.ndim == 2:
            column = pa.FixedSizeListArray.from_arrays(column, array.shape[1])
        columns[name] = column
    return pa.table(columns)


def episode_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A row per episode; a column of ours keeps its type also where nothing is known."""
    columns = {n: pa.array([r[n] for r in rows], layout.OWN_COLUMNS.get(n)) for n in rows[0]}
    return pa.table(columns)


def task_table(tasks: Mapping[str, int]) -> pa.Table:
    """Instruction -> index, the instruction as what pandas calls the index of the table."""
    index = {'name': 'task', 'field_name': 'task', 'pandas_type': 'unicode'}
    number = {'name': 'task_index', 'field_name': 'task_index', 'pandas_type': 'int64'}
    notes = {
        'index_columns': ['task'],
        'column_indexes': [],
        'columns': [
            {**number, 'numpy_type': 'int64', 'metadata': None},
            {**index, 'numpy_type': 'object', 'metadata': None},
        ],
    }
    table = pa.table(
        {
            'task_index': pa.array(list(tasks.values()), pa.int64()),
            'task': pa.array(list(tasks), pa.string()),
        }
    )
    return table.replace_schema_metadata({'pandas': json.dumps(notes)})


class ParquetFiles:
    """Files of one kind; the next is begun where a table would make the present one too large.

    Args:
        root: folder of the dataset.
        template: path of a file in it.
        max_bytes: of one file, uncompressed.
    """

    def __init__(self, root: Path, template: str, max_bytes: int) -> None:
        self._root, self._template, self._max_bytes = root, template, max_bytes
        self._writer: pq.ParquetWriter | None = None
        self._number, self._bytes = -1, 0

    def write(self, table: pa.Table, where: str) -> dict[str, int]:
        """Append a table as a group of rows.

        Returns:
            `<where>/chunk_index` and `<where>/file_index` of the file it went into.
        """
        place = self.place(table.nbytes, where)
        self.append(table)
        return place

    def place(self, size: int, where: str) -> dict[str, int]:
        """The same, of the file that the next so many bytes belong into."""
        if self._number < 0 or (self._bytes and self._bytes + size > self._max_bytes):
            self.close()
            self._number += 1
            self._bytes = 0
        chunk, file = divmod(self._number, layout.FILES_PER_CHUNK)
        return {f'{where}/chunk_index': chunk, f'{where}/file_index': file}

    def append(self, table: pa.Table) -> None:
        """Append to the file that `place` named."""
        if self._writer is None:
            chunk, file = divmod(self._number, layout.FILES_PER_CHUNK)
            path = self._root / self._template.format(chunk_index=chunk, file_index=file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(path, table.schema, compression='snappy')
        self._writer.write_table(table)
        self._bytes += table.nbytes

    def close(self) -> None:
        """Write the end of the file that is open."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def abort(self) -> None:
        """Let go of the file that is open; it is not whole."""
        with suppress(OSError, pa.ArrowException):
            self.close()
