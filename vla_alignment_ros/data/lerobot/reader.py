"""An episode of a LeRobot folder as the messages that a recording of it would hold.

Training, checks and bags read these messages as they read a bag's, through the same codecs: there
is one way from messages to samples. Frame i gives, all with one stamp, the instruction and whether
a person drives where these change, an image per camera, the joint states and the command.

Stamps are those of our own `tick_ns`; of other folders 1 s plus `timestamp`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
import json
from pathlib import Path
import re
from typing import Any

import cv2
import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.control.codecs import make_codec
from vla_alignment_ros.data.bag_format import EpisodeInfo
from vla_alignment_ros.data.lerobot import layout, tables
from vla_alignment_ros.data.lerobot.keys import image_size, LeRobotKeys, Plan, plan
from vla_alignment_ros.data.lerobot.video import read_frames
from vla_alignment_ros.data.source import LEROBOT
from vla_alignment_ros.embodiment import (
    BOOL,
    Camera,
    Embodiment,
    INTERVENTION_TOPIC,
    JOINT_STATE,
    STRING,
)
from vla_alignment_ros.errors import DatasetError, EmbodimentError
from vla_alignment_ros.observation import MAX_INSTRUCTION_CHARS
from vla_alignment_ros.pixels import decompress_rgb

START_NS = 1_000_000_000  # stamp of the first frame where the folder has none: 0 means "not set"
MAX_S = 2**31  # a stamp holds no more
_NAME = re.compile(r'episode_(\d{6,})')
Message = tuple[str, str, int, bytes]


class LeRobotFolder:
    """A folder in the layout v3.0, its tables checked; frames are read when they are asked for.

    Raises:
        DatasetError: it is none, of another version, or damaged.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).resolve()
        self.info = layout.read_info(self.root)
        self.tasks = tables.read_tasks(self.root)
        self.episodes = tables.read_episodes(self.root, self.info)
        self.embodiment = _sidecar(self.root)
        self._rows: tuple[Any, Any] = (None, None)  # the newest: an episode is read twice
        self._plan: tuple[Any, Any] = (None, None)  # the newest: all episodes share it

    def plan(self, embodiment: Embodiment, keys: LeRobotKeys) -> Plan:
        """Where everything of the robot is: see `keys.plan`."""
        asked = (embodiment.digest(), keys.digest())
        if self._plan[0] != asked:
            self._plan = (asked, plan(self.info, embodiment, keys, str(self.root)))
        return self._plan[1]

    def row(self, number: int) -> dict[str, Any]:
        """What the table of episodes says about one."""
        return self.episodes.slice(number, 1).to_pylist()[0]

    def data_file(self, number: int) -> Path:
        """The parquet file that holds an episode's frames."""
        return self._file(self.info.data_path, self.row(number), 'data')

    def video_file(self, number: int, key: str) -> Path:
        """The mp4 file that holds an episode's frames of a camera."""
        return self._file(self.info.video_path, self.row(number), f'videos/{key}', video_key=key)

    def frames(self, number: int, columns: tuple[str, ...]) -> Any:
        """The table of an episode's frames: see `tables.read_rows`."""
        if self._rows[0] != (number, columns):
            length = self.row(number)['length']
            table = tables.read_rows(self.data_file(number), number, length, columns)
            self._rows = ((number, columns), table)
        return self._rows[1]

    def metadata_files(self) -> list[Path]:
        """Every file that all episodes depend on."""
        named = [self.root / name for name in (layout.INFO, layout.TASKS, layout.SIDECAR)]
        tables_ = sorted((self.root / 'meta' / 'episodes').glob('*/*.parquet'))
        return [file for file in (*named, *tables_) if file.is_file()]

    def _file(self, template: str, row: dict[str, Any], part: str, **names: str) -> Path:
        chunk, file = row[f'{part}/chunk_index'], row[f'{part}/file_index']
        if chunk is None or file is None or min(chunk, file) < 0:
            raise DatasetError(f'{self.root}: the table of episodes does not say where {part} is')
        return self.root / template.format(chunk_index=int(chunk), file_index=int(file), **names)


@lru_cache(maxsize=4)
def open_folder(root: str) -> LeRobotFolder:
    """The folder, read once per process: its episodes share it."""
    return LeRobotFolder(root)


def find_lerobot_episodes(
    root: str, embodiment: Embodiment | None = None, keys: LeRobotKeys | None = None
) -> list[LeRobotEpisode]:
    """All episodes of a folder.

    Args:
        embodiment: the robot; without it the one that the folder was exported with.
        keys: which feature is what, where names do not tell.

    Raises:
        DatasetError: the folder is damaged, or does not fit the robot.
    """
    open_folder.cache_clear()  # it may have been written anew
    episodes = open_folder(root).info.episodes
    return [LeRobotEpisode(root, number, embodiment, keys) for number in range(episodes)]


def open_lerobot_episode(
    path: str, embodiment: Embodiment | None = None, keys: LeRobotKeys | None = None
) -> LeRobotEpisode:
    """One episode by `FOLDER/episode_000012`."""
    root, _, name = path.rpartition('/')
    match = _NAME.fullmatch(name)
    if not match or not root:
        raise DatasetError(
            f'{LEROBOT}{path} names no episode: write {LEROBOT}FOLDER/episode_000012'
        )
    return LeRobotEpisode(root, int(match[1]), embodiment, keys)


class LeRobotEpisode:
    """One episode: see `source.Episode`.

    Raises:
        DatasetError: there is no such episode, nobody says which robot it is of, or it does not
            fit the robot.
    """

    def __init__(
        self,
        root: str,
        number: int,
        embodiment: Embodiment | None = None,
        keys: LeRobotKeys | None = None,
    ) -> None:
        self._arguments = (root, number, embodiment, keys)
        self._folder = folder = open_folder(root)
        self._number = number
        if not 0 <= number < folder.info.episodes:
            raise DatasetError(f'{root} has the episodes 0 to {folder.info.episodes - 1}')
        self._embodiment = embodiment or folder.embodiment
        if self._embodiment is None:
            raise DatasetError(
                f'{root} does not say which robot it is of: name its embodiment (--embodiment '
                f'FILE), and where its names differ the keys (--lerobot-keys FILE)'
            )
        self._plan = folder.plan(self._embodiment, keys or LeRobotKeys())
        self.reading = '' if keys is None else keys.digest()
        self.info = self._describe()

    def __reduce__(self) -> tuple[Any, ...]:
        return LeRobotEpisode, self._arguments  # another process reads the folder for itself

    def files(self) -> list[Path]:
        """Every file that the messages depend on."""
        folder, number = self._folder, self._number
        videos = {
            folder.video_file(number, key)
            for key in self._plan.cameras.values()
            if folder.info.features[key].dtype == 'video'
        }
        files = [*folder.metadata_files(), folder.data_file(number), *sorted(videos)]
        for file in files:
            if not file.is_file():
                raise DatasetError(f'{file} is missing: the folder is not whole')
        return files

    def messages(self, topics: Iterable[str] | None = None) -> Iterator[Message]:
        """(topic, type, time in ns, CDR bytes): see `source.Episode`.

        Raises:
            DatasetError: a file is missing or damaged; it is named.
        """
        return self._messages(topics, heads=False)

    def heads(self, topics: Iterable[str]) -> Iterator[Message]:
        """The same, images without their pixels."""
        return self._messages(topics, heads=True)

    def some(self, numbers: Mapping[str, Collection[int]]) -> Iterator[tuple[str, int, bytes]]:
        """(topic, number, CDR bytes) of some of each topic's messages: see `source.Episode`."""
        last = dict.fromkeys(numbers, -1)  # a video is decoded from its beginning all the same
        for topic, _, _, raw in self.messages(numbers):
            last[topic] += 1
            if last[topic] in numbers[topic]:
                yield topic, last[topic], raw

    # -- messages -------------------------------------------------------------------------------

    def _messages(self, topics: Iterable[str] | None, heads: bool) -> Iterator[Message]:
        e = self._embodiment
        bare = None if topics is None else {topic.lstrip('/') for topic in topics}
        topics_ = (*e.topics(), INTERVENTION_TOPIC)
        wanted = {t for t in topics_ if bare is None or t.lstrip('/') in bare}
        codec = make_codec(e)
        ticks, texts, driven, positions, actions = self._numbers()
        names = (*e.joint_names, e.gripper.joint)
        cameras = [c for c in e.cameras if c.topic in wanted]
        images = {} if heads else {c.name: self._images(c, ticks) for c in cameras}
        said, drove = None, False
        for i, ts_ns in enumerate(ticks.tolist()):
            if texts[i] != said and e.instruction_topic in wanted:
                yield e.instruction_topic, STRING, ts_ns, wire.encode_string(texts[i])
            if driven[i] != drove and INTERVENTION_TOPIC in wanted:
                raw = wire.encode_bool(driven[i])
                yield INTERVENTION_TOPIC, BOOL, ts_ns, raw
            said, drove = texts[i], driven[i]
            for c in cameras:
                raw = (
                    wire.encode(wire.header(ts_ns, c.name)) if heads
                    else _image_message(c, next(images[c.name]), ts_ns)
                )  # fmt: skip
                yield c.topic, c.message_type, ts_ns, raw
            if e.joint_states_topic in wanted:
                raw = wire.encode_joint_state(ts_ns, names, positions[i])
                yield e.joint_states_topic, JOINT_STATE, ts_ns, raw
            for topic, raw in codec.encode(actions[i], ts_ns).items():
                if topic in wanted:
                    yield topic, codec.topics[topic], ts_ns, raw

    def _table(self) -> Any:
        info, found = self._folder.info, self._plan
        embedded = [k for k in found.cameras.values() if info.features[k].dtype == 'image']
        own = [layout.TICK] if self._is_ours else []
        taken_over = [layout.INTERVENTION] if self._tells_interventions else []
        columns = (*found.numeric, *embedded, *own, *taken_over)
        return self._folder.frames(self._number, tuple(sorted(set(columns))))

    @property
    def _is_ours(self) -> bool:
        folder = self._folder
        return folder.embodiment is not None and layout.TICK in folder.info.features

    @property
    def _tells_interventions(self) -> bool:
        """Whether it has the feature that lerobot-rollout records in its strategy DAgger."""
        feature = self._folder.info.features.get(layout.INTERVENTION)
        return feature is not None and (feature.dtype, feature.shape) == ('bool', (1,))

    def _numbers(self) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray, np.ndarray]:
        """Stamps (T,) ns, instructions (T,), driven (T,), positions (T, J + 1), actions (T, 7)."""
        table, file = self._table(), self._folder.data_file(self._number)
        features, rows = self._folder.info.features, len(table)
        found = self._plan
        values = {key: tables.numbers(table, key, features[key], file) for key in found.numeric}
        joints = [column.of(values, rows) for column in found.joints]
        gripper = found.gripper.of(values, rows)
        if found.gripper_is_opening:
            gripper = self._embodiment.gripper.position(gripper)
        actions = np.stack([column.of(values, rows) for column in found.action], axis=1)
        texts = []
        for number in table['task_index'].to_pylist():
            if number not in self._folder.tasks:
                raise DatasetError(f'{file} names task {number}, which {layout.TASKS} has not')
            texts.append(self._folder.tasks[number][:MAX_INSTRUCTION_CHARS])
        positions = np.stack([*joints, gripper], axis=1)
        if not (np.isfinite(positions).all() and np.isfinite(actions).all()):
            raise DatasetError(f'{file}: a number of episode {self._number} is not finite')
        driven = np.zeros(rows, bool)
        if self._tells_interventions:
            driven = tables.numbers(table, layout.INTERVENTION, None, file)[:, 0] != 0
        return self._ticks(table, file), texts, driven, positions, actions

    def _times_s(self, table: Any, file: Path) -> np.ndarray:
        """(T,) float64 `timestamp`: time since the episode began, s."""
        return tables.numbers(table, 'timestamp', None, file)[:, 0]

    def _ticks(self, table: Any, file: Path) -> np.ndarray:
        if self._is_ours:
            ticks = tables.numbers(table, layout.TICK, None, file)[:, 0].astype(np.int64)
        else:
            seconds = np.nan_to_num(self._times_s(table, file), nan=-1.0)
            ticks = START_NS + np.round(np.clip(seconds, -2, MAX_S) * 1e9).astype(np.int64)
        if (np.diff(ticks) <= 0).any() or ticks[0] < 0 or ticks[-1] >= MAX_S * 10**9:
            raise DatasetError(
                f'{file}: the stamps of episode {self._number} do not ascend, or are no times'
            )
        return ticks

    def _images(self, camera: Camera, ticks: np.ndarray) -> Iterator[np.ndarray | bytes]:
        """Every image of a camera: pixels, or the PNG or JPEG that lies in the table."""
        key, folder = self._plan.cameras[camera.name], self._folder
        feature, file = folder.info.features[key], folder.data_file(self._number)
        table = self._table()
        if feature.dtype == 'image':
            for row in range(len(ticks)):
                yield tables.image_bytes(table, key, row, file)
            return
        begin_s = folder.row(self._number)[f'videos/{key}/from_timestamp']
        if begin_s is None or not 0 <= begin_s < 1e9:
            raise DatasetError(f'{folder.root}: episode {self._number} of {key!r} has no time')
        yield from read_frames(
            folder.video_file(self._number, key),
            begin_s + self._times_s(table, file),
            1 / folder.info.fps,
            image_size(feature),
        )

    # -- what it says about itself --------------------------------------------------------------

    def _describe(self) -> EpisodeInfo:
        e, row = self._embodiment, self._folder.row(self._number)
        path = f'{LEROBOT}{self._folder.root}/episode_{self._number:06d}'
        tasks, frames = [text or '' for text in row['tasks'] or ['']], row['length']
        types = e.topics()
        instruction = row.get('vla/instruction')
        return EpisodeInfo(
            path=Path(path),
            instruction=(tasks[0] if instruction is None else instruction)[:MAX_INSTRUCTION_CHARS],
            success=row.get('vla/success'),
            embodiment=e,
            duration_s=max(0, frames - 1) / self._folder.info.fps,
            message_counts=dict.fromkeys(types, frames) | {e.instruction_topic: len(tasks)},
            message_types=types,
            extra=_extra(row.get('vla/extra'), path),
            title=row.get('vla/name') or '',
        )


def _sidecar(root: Path) -> Embodiment | None:
    """The embodiment that we wrote beside the folder's own files; None where we did not."""
    file = root / layout.SIDECAR
    if not file.is_file():
        return None
    data = layout.read_json(file)
    if data.get('format_version') != layout.SIDECAR_VERSION:
        raise DatasetError(
            f'{file} has format {data.get("format_version")!r}, this package reads '
            f'{layout.SIDECAR_VERSION}'
        )
    try:
        return Embodiment.from_dict(data.get('embodiment'))
    except EmbodimentError as error:
        raise DatasetError(f'{file} holds an embodiment that is not valid: {error}') from error


def _extra(text: str | None, where: str) -> dict[str, str]:
    try:
        extra = json.loads(text or '{}')
    except (ValueError, RecursionError) as error:
        raise DatasetError(f'{where}: its notes are damaged: {error}') from error
    if not isinstance(extra, dict) or not all(isinstance(v, str) for v in extra.values()):
        raise DatasetError(f'{where}: its notes must be texts')
    return extra


def _image_message(camera: Camera, image: np.ndarray | bytes, ts_ns: int) -> bytes:
    """An image as the camera's topic carries it; a PNG or JPEG stays what it is where it can."""
    if not camera.compressed:
        if isinstance(image, bytes):
            image = decompress_rgb(np.frombuffer(image, np.uint8))
        return wire.encode_image(image, ts_ns, camera.name)
    if not isinstance(image, bytes):
        _, coded = cv2.imencode('.png', np.ascontiguousarray(image[..., ::-1]))
        image = coded.tobytes()
    return wire.encode(
        wire.make(
            'sensor_msgs/msg/CompressedImage',
            header=wire.header(ts_ns, camera.name),
            format='png' if image.startswith(b'\x89PNG') else 'jpeg',
            data=np.frombuffer(image, np.uint8),
        )
    )
