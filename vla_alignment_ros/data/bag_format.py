"""What an episode bag says about itself: its names, message definitions and custom data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
import json
from pathlib import Path, PurePath
import re
from typing import Any
import unicodedata

from rosbags.interfaces import (
    MessageDefinition,
    MessageDefinitionFormat,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.typesys import get_typestore, Stores
import yaml

from vla_alignment_ros.embodiment import Embodiment, INTERVENTION_TOPIC
from vla_alignment_ros.errors import BagError, EmbodimentError

FORMAT_VERSION = 1
METADATA = 'metadata.yaml'
MAX_NAME_CHARS = 100
MAX_METADATA_BYTES = 64 << 20
MAX_DEPTH = 64  # of lists and mappings in each other
INSTRUCTION_FROM, RELABELLED = 'instruction_from', 'relabelled'  # a note, and what it may say

PREFIX = 'vla.'
_RESERVED = ('embodiment', 'instruction', 'success', 'format_version')
SUCCESS_TEXTS = {True: 'true', False: 'false', None: 'unknown'}
SAFE_LOADER = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)  # both are safe loaders


@dataclass(frozen=True)
class OfferedQos:
    """The quality of service that a topic was published with; `ros2 bag play` offers it again.

    Discovery does not tell depths: 0 is one that is not known.
    """

    reliable: bool = True
    transient_local: bool = False
    depth: int = 10


SENSOR_QOS = OfferedQos(reliable=False, depth=5)
LATCHED_QOS = OfferedQos(transient_local=True, depth=1)


@dataclass(frozen=True)
class EpisodeInfo:
    """What a bag says about itself, known without reading its messages."""

    path: Path
    instruction: str  # '' where the bag does not say
    success: bool | None  # None: nobody judged it
    embodiment: Embodiment | None  # None: not recorded by this package
    duration_s: float  # first to last message, by log time
    message_counts: dict[str, int]  # topic -> messages
    message_types: dict[str, str]  # topic -> type
    extra: dict[str, str]  # custom data beside the above, without its `vla.` prefix
    files: tuple[str, ...] = ()  # storage files in the folder, in order of time
    files_compressed: bool = False  # whole files or single messages are; chunks do not count
    title: str = ''  # its name, where that is not the last part of the path

    @property
    def name(self) -> str:
        return self.title or self.path.name

    @property
    def relabelled(self) -> bool:
        """Whether `instruction` was set after the recording, over what the messages say."""
        return self.extra.get(INSTRUCTION_FROM) == RELABELLED


def sanitize_name(name: str) -> str:
    """A name that is safe as a folder on every file system; '' where nothing usable is left."""
    text = unicodedata.normalize('NFKD', name)
    text = re.sub(r'[^A-Za-z0-9._-]+', '_', text).removesuffix('.partial')
    return text.strip('._-')[:MAX_NAME_CHARS]


def topic_spelling(embodiment: Embodiment | None) -> dict[str, str]:
    """Topic without leading slash -> the topic as the embodiment spells it."""
    return {} if embodiment is None else {t.lstrip('/'): t for t in embodiment.recorded_topics()}


def spell(topic: str, spelling: Mapping[str, str]) -> str:
    bare = topic.lstrip('/')
    return spelling.get(bare, bare)


# -- qualities of service and message definitions -----------------------------------------------


def default_qos(embodiment: Embodiment) -> dict[str, OfferedQos]:
    qos = {camera.topic: SENSOR_QOS for camera in embodiment.cameras}
    qos |= dict.fromkeys(embodiment.segmentation_topics(), SENSOR_QOS)
    qos[embodiment.instruction_topic] = qos[INTERVENTION_TOPIC] = LATCHED_QOS
    return qos


def rosbag_qos(qos: OfferedQos) -> Qos:
    forever = QosTime(9223372036, 854775807)  # rosbag2's "no limit"
    return Qos(
        QosHistory.KEEP_LAST if qos.depth else QosHistory.UNKNOWN,
        qos.depth,
        QosReliability.RELIABLE if qos.reliable else QosReliability.BEST_EFFORT,
        QosDurability.TRANSIENT_LOCAL if qos.transient_local else QosDurability.VOLATILE,
        forever,
        forever,
        QosLiveliness.AUTOMATIC,
        forever,
        False,
    )


@cache
def message_definition(msgtype: str) -> tuple[MessageDefinition, str]:
    """Definition and RIHS01 digest of a message type, as a bag stores them."""
    store = _typestore()
    if msgtype not in store.types:
        raise BagError(f'message type {msgtype!r} is not a standard one; it cannot be recorded')
    text, _ = store.generate_msgdef(msgtype, ros_version=2)
    definition = MessageDefinition(MessageDefinitionFormat.MSG, text)
    return definition, store.hash_rihs01(msgtype)


@lru_cache(maxsize=1)
def _typestore() -> Any:
    return get_typestore(Stores.ROS2_JAZZY)


# -- custom data --------------------------------------------------------------------------------


def custom_data(
    embodiment: Embodiment | None, instruction: str, success: bool | None, extra: Mapping[str, str]
) -> dict[str, str]:
    custom = {
        'instruction': instruction,
        'success': SUCCESS_TEXTS[success],
        'format_version': str(FORMAT_VERSION),
    }
    if embodiment is not None:
        custom['embodiment'] = json.dumps(embodiment.to_dict(), sort_keys=True)
    for key, value in extra.items():
        bare = key.removeprefix(PREFIX)
        if bare in _RESERVED or not isinstance(value, str):
            raise BagError(f'extra {key!r}: {value!r} must be a string, the name not reserved')
        try:
            f'{bare}{value}'.encode()
        except UnicodeEncodeError as error:
            raise BagError(f'extra {key!r}: {value!r} cannot be written: {error}') from error
        custom[bare] = value
    return {f'{PREFIX}{key}': value for key, value in custom.items()}


def read_info(path: Path, spelled_by: Embodiment | None = None) -> EpisodeInfo:
    file = path / METADATA
    try:
        if file.stat().st_size > MAX_METADATA_BYTES:
            raise BagError(f'{file} is larger than {MAX_METADATA_BYTES >> 20} MiB')
        text = file.read_text(encoding='utf-8')
        check_depth(text)
        document = yaml.load(text, Loader=SAFE_LOADER)  # noqa: S506
        data = document['rosbag2_bagfile_information']
        custom = {_text(k): _text(v) for k, v in (data.get('custom_data') or {}).items()}
        embodiment = _parse_embodiment(custom.get(f'{PREFIX}embodiment', ''))
        spelling = topic_spelling(spelled_by or embodiment)
        counts: dict[str, int] = {}
        types: dict[str, str] = {}
        for item in data['topics_with_message_count']:
            topic = spell(item['topic_metadata']['name'], spelling)
            counts[topic] = counts.get(topic, 0) + int(item['message_count'])
            types[topic] = item['topic_metadata']['type']
        duration_s = int(data['duration']['nanoseconds']) * 1e-9
        files = tuple(PurePath(name).name for name in data['relative_file_paths'])
        compressed = str(data.get('compression_mode') or 'none').lower() != 'none'
    except FileNotFoundError:
        raise BagError(f'{path} is not a bag: it has no {METADATA}') from None
    except (
        OSError, yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError, RecursionError
    ) as error:  # fmt: skip
        raise BagError(f'{file} is damaged: {error!r}') from error
    except EmbodimentError as error:
        raise BagError(f'{file} holds an embodiment that is not valid: {error}') from error
    version = custom.get(f'{PREFIX}format_version', str(FORMAT_VERSION))
    if version not in map(str, range(FORMAT_VERSION + 1)):
        raise BagError(f'{path} has format {version}, this package reads up to {FORMAT_VERSION}')
    verdicts = {text: verdict for verdict, text in SUCCESS_TEXTS.items()}
    bare = {k.removeprefix(PREFIX): v for k, v in custom.items()}
    return EpisodeInfo(
        path=path,
        instruction=bare.get('instruction', ''),
        success=verdicts.get(bare.get('success', 'unknown')),
        embodiment=embodiment,
        duration_s=duration_s,
        message_counts=counts,
        message_types=types,
        extra={k: v for k, v in bare.items() if k not in _RESERVED},
        files=files,
        files_compressed=compressed,
    )


def check_depth(text: str) -> None:
    """Refuse YAML that is nested without end: the C loader recurses, and would end the process."""
    depth = 0
    for event in yaml.parse(text, Loader=SAFE_LOADER):  # events alone do not recurse
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise ValueError(f'nested more than {MAX_DEPTH} deep')


def _text(value: Any) -> str:
    # aliases in YAML can make a list that is endless once it is written out
    if isinstance(value, (list, dict, set, tuple)):
        raise ValueError(f'custom data must be texts, got a {type(value).__name__}')
    return str(value)


@lru_cache(maxsize=64)
def _parse_embodiment(text: str) -> Embodiment | None:
    # every bag of a session holds the same text: it is validated once
    return Embodiment.from_dict(json.loads(text)) if text else None
