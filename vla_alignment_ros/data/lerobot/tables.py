"""The parquet tables of a LeRobot folder: episodes, tasks and frames, checked as they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vla_alignment_ros.data.lerobot.layout import Feature, Info, OWN_COLUMNS, TASKS
from vla_alignment_ros.errors import DatasetError

# columns that have to be there -> what pyarrow calls their type
INDEX = {
    'episode_index': 'int64',
    'frame_index': 'int64',
    'index': 'int64',
    'task_index': 'int64',
    'timestamp': 'double',
}
EPISODE = {
    'episode_index': 'int64',
    'length': 'int64',
    'tasks': pa.list_(pa.string()),
    'data/chunk_index': 'int64',
    'data/file_index': 'int64',
}
VIDEO = {'chunk_index': 'int64', 'file_index': 'int64', 'from_timestamp': 'double'}


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """What pyarrow raises, as a DatasetError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise DatasetError(f'{file} is missing: the folder is not whole') from None
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DatasetError(
            f'{file} cannot be read, it is truncated or damaged: {reason}'
        ) from error


def read_tasks(root: Path) -> dict[int, str]:
    """task_index -> instruction."""
    file = root / TASKS
    with reading(file):
        table = pq.read_table(file, partitioning=None)
        texts = next((c for c in ('task', '__index_level_0__') if c in table.column_names), None)
        if texts is None or 'task_index' not in table.column_names:
            raise ValueError('it has no columns "task" and "task_index"')
        numbers, texts = table['task_index'].cast('int64').to_pylist(), table[texts].to_pylist()
        if not all(isinstance(text, str) for text in texts):
            raise ValueError('a task is no text')
    return dict(zip(numbers, texts))


def read_episodes(root: Path, info: Info) -> pa.Table:
    """A row per episode, in order: its length, tasks, and where its rows and frames are.

    Raises:
        DatasetError: a file is missing or damaged, or they are not the episodes that info says.
    """
    folder = root / 'meta' / 'episodes'
    files = sorted(folder.glob('*/*.parquet'))
    if not files:
        raise DatasetError(f'{folder} has no parquet file: the folder is not whole')
    wanted = dict(EPISODE)
    for key, feature in info.features.items():
        if feature.dtype == 'video':
            wanted |= {f'videos/{key}/{part}': kind for part, kind in VIDEO.items()}
    parts = []
    for file in files:
        with reading(file):
            there = pq.read_schema(file).names
            absent = [name for name in wanted if name not in there]
            if absent:
                raise ValueError(f'it has no column {", ".join(absent)}')
            types = wanted | {name: t for name, t in OWN_COLUMNS.items() if name in there}
            table = pq.read_table(file, columns=[*types], partitioning=None)
            parts.append(_typed(table, types))
    with reading(folder):
        table = pa.concat_tables(parts, promote_options='permissive').combine_chunks()
        numbers = table['episode_index'].to_numpy()
        if len(numbers) != info.episodes or (numbers != np.arange(len(numbers))).any():
            raise ValueError(
                f'it lists {len(numbers)} episodes, info.json says {info.episodes} counted from 0'
            )
        if table['length'].null_count or pc.min(table['length']).as_py() < 1:
            raise ValueError('it lists an episode without frames')
    return table


def read_rows(file: Path, number: int, length: int, columns: Sequence[str]) -> pa.Table:
    """The frames of one episode, a row each.

    Raises:
        DatasetError: the file is missing or damaged, or the rows are not the episode's.
    """
    with reading(file):
        there = pq.read_schema(file).names
        absent = [name for name in (*INDEX, *columns) if name not in there]
        if absent:
            raise ValueError(f'it has no column {", ".join(absent)}')
        table = pq.read_table(
            file,
            columns=[*dict.fromkeys((*INDEX, *columns))],
            filters=[('episode_index', '==', number)],
            partitioning=None,
        ).combine_chunks()
        table = _typed(table, INDEX)
        if len(table) != length:
            raise ValueError(f'{len(table)} of {length} frames of episode {number} are there')
        if not np.array_equal(table['frame_index'].to_numpy(), np.arange(length)):
            raise ValueError(f'the frames of episode {number} are not in order')
    return table


def _typed(table: pa.Table, types: Mapping[str, pa.DataType | str]) -> pa.Table:
    """The table with some of its columns as these types; ArrowInvalid where they cannot be."""
    for name, kind in types.items():
        column = table[name].cast(kind)
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def numbers(table: pa.Table, key: str, feature: Feature | None, file: Path) -> np.ndarray:
    """A column as (T, D), in its own type.

    Raises:
        DatasetError: it is not as many numbers in every row as the feature says.
    """
    size = 1 if feature is None else feature.size
    with reading(file):
        column = table[key].combine_chunks()
        if pa.types.is_fixed_size_list(column.type) or pa.types.is_list(column.type):
            lengths = pc.unique(pc.list_value_length(column)).to_pylist()
            if lengths != [size]:
                raise ValueError(f'{key!r} has {lengths} numbers a row, info.json says {size}')
            column = pc.list_flatten(column)
        elif size != 1:
            raise ValueError(f'{key!r} has one number a row, info.json says {size}')
        if column.null_count:
            raise ValueError(f'{key!r} has {column.null_count} numbers that are not there')
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            if not pa.types.is_boolean(column.type):
                raise ValueError(f'{key!r} holds {column.type}, which is no number')
        return column.to_numpy(zero_copy_only=False).reshape(len(table), size)


def image_bytes(table: pa.Table, key: str, row: int, file: Path) -> bytes:
    """An image that lies in the table itself, as its PNG or JPEG bytes."""
    value: Any = table[key][row].as_py()
    data = value.get('bytes') if isinstance(value, dict) else None
    if not data:
        raise DatasetError(f'{file}: {key!r} has no image in row {row} of the episode')
    return data
