"""What a LeRobot folder says about itself: names of files, features, and the checks on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import json
import math
from pathlib import Path, PurePosixPath
import re
import string
from typing import Any

from vla_alignment_ros.errors import DatasetError
from vla_alignment_ros.fields import is_number

VERSION = 'v3.0'
INFO, STATS, TASKS = 'meta/info.json', 'meta/stats.json', 'meta/tasks.parquet'
SIDECAR = 'meta/vla_alignment_ros.json'
SIDECAR_VERSION = 1
EPISODES = 'meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet'
DATA = 'data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet'
VIDEO = 'videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4'

FILES_PER_CHUNK = 1000
DATA_FILE_MB, VIDEO_FILE_MB = 100, 200
MAX_JSON_BYTES = 64 << 20
MAX_FEATURES = 10_000

STATE, ACTION, IMAGES = 'observation.state', 'action', 'observation.images.'
TICK, INTERVENTION = 'tick_ns', 'intervention'
OWN_COLUMNS = {  # of an episode -> what pyarrow calls its type
    'vla/name': 'string',
    'vla/success': 'bool',
    'vla/instruction': 'string',
    'vla/extra': 'string',
}

# without the last word it would upload what it makes
CONVERT = (
    'python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=NAME --root={root} '
    '--push-to-hub=false'
)


@dataclass(frozen=True)
class Feature:
    """One column of a folder."""

    dtype: str  # of numpy, or 'video', 'image', 'string', …
    shape: tuple[int, ...]
    names: tuple[str, ...] | None  # of a vector's numbers, where they have any
    depth: bool = False

    @property
    def is_image(self) -> bool:
        return self.dtype in ('video', 'image')

    @property
    def size(self) -> int | None:
        """How many numbers it has; None where it is no vector of numbers."""
        numeric = re.fullmatch(r'float\d+|u?int\d+|bool', self.dtype)
        return self.shape[0] if numeric and len(self.shape) == 1 else None


@dataclass(frozen=True)
class Info:
    """`meta/info.json`, checked."""

    fps: float
    features: dict[str, Feature]
    episodes: int
    data_path: str
    video_path: str

    @property
    def images(self) -> tuple[str, ...]:
        return tuple(key for key, feature in self.features.items() if feature.is_image)


def read_info(root: Path) -> Info:
    """Read and check `meta/info.json`.

    Raises:
        DatasetError: missing, damaged, of another version of the layout, or contradictory.
    """
    if not root.is_dir():
        raise DatasetError(f'no folder {root}: give the LeRobot folder that holds meta/info.json')
    file = root / INFO
    data = read_json(file)
    version = str(data.get('codebase_version', 'none'))
    if re.match(r'v[12](\.|$)', version):
        older = '' if version == 'v2.1' else ' (which takes v2.1: an older LeRobot makes that)'
        raise DatasetError(
            f'{root} has the LeRobot layout {version}, read is {VERSION}: convert it first with '
            f'{CONVERT.format(root=root)}{older}'
        )
    if not re.match(r'v3(\.|$)', version):
        raise DatasetError(
            f'{file}: codebase_version is {version!r}, read is {VERSION}: export the dataset with '
            f'a LeRobot that writes it'
        )
    try:
        features = data['features']
        if not isinstance(features, dict) or not 0 < len(features) <= MAX_FEATURES:
            raise ValueError('features must be a mapping, not empty')
        info = Info(
            fps=_positive(data['fps'], 'fps'),
            features={_key(key): _feature(key, item) for key, item in features.items()},
            episodes=int(_positive(data['total_episodes'], 'total_episodes')),
            data_path=_template(data.get('data_path') or DATA, {'chunk_index', 'file_index'}),
            video_path=_template(
                data.get('video_path') or VIDEO, {'video_key', 'chunk_index', 'file_index'}
            ),
        )
    except KeyError as error:
        raise DatasetError(f'{file} lacks {error.args[0]!r}: it is not whole') from None
    except (TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f'{file} is damaged: {error}') from error
    return info


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file; DatasetError where there is none or it is damaged."""
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise DatasetError(f'{file} is larger than {MAX_JSON_BYTES >> 20} MiB')
        data = json.loads(file.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise DatasetError(f'{file} is missing: this is not a whole LeRobot folder') from None
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f'{file} is damaged: {error}') from error
    if not isinstance(data, dict):
        raise DatasetError(f'{file} is damaged: it must hold an object, not a {type(data)}')
    return data


def flat_names(names: Any) -> tuple[str, ...] | None:
    """Names of a vector's numbers from the ways in which folders write them; None without."""
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return tuple(names)
    if isinstance(names, Mapping) and names:
        values = list(names.values())
        if all(isinstance(v, list) for v in values):
            return flat_names([name for value in values for name in value])
        if all(isinstance(v, int) for v in values):
            return tuple(map(str, sorted(names, key=names.get)))
    return None


def _feature(key: str, item: Any) -> Feature:
    shape = item['shape']
    if not isinstance(shape, list) or not all(type(n) is int and 0 < n < 2**31 for n in shape):
        raise ValueError(f'feature {key!r} has the shape {shape!r}')
    names = flat_names(item.get('names'))
    if names is not None and (len(shape) != 1 or len(names) != shape[0]):
        names = None
    notes = [item.get('info') or {}, item.get('video_info') or {}]
    depth = any(n.get('is_depth_map') or n.get('video.is_depth_map') for n in notes)
    return Feature(str(item['dtype']), tuple(shape), names, bool(depth))


def _key(key: str) -> str:
    if '/' in key or '\\' in key or key.strip('.') == '':
        raise ValueError(f'{key!r} is no name of a feature')
    return key


def _positive(value: Any, name: str) -> float:
    if not is_number(value) or not 0 < value or math.isinf(value):
        raise ValueError(f'{name} must be a number above 0, got {value!r}')
    return value


def _template(text: Any, allowed: set[str]) -> str:
    """A path template that stays inside the folder and names nothing but indices and keys."""
    for _, name, spec, conversion in string.Formatter().parse(text):
        if name is None:
            continue
        if name not in allowed or conversion or not re.fullmatch(r'(0?\dd)?', spec):
            raise ValueError(f'{text!r} is no template of a path')
    path = PurePosixPath(text)
    if path.is_absolute() or '..' in path.parts:
        raise ValueError(f'{text!r} leads out of the folder')
    return text
