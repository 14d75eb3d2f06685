"""One episode as control-rate samples: an index from time stamps, then a stream of observations.

How an episode is sampled:

* Ticks are the stamps of the commands where these come at about the embodiment's rate; otherwise
  a regular grid at that rate.
* Every source is taken as-of the tick: the newest message stamped at or before it. Header stamps
  count; log time stands in where there is none, or it was left at zero.
* A command topic without a header (the gripper of the twist codec) belongs to the command it was
  published with.
* Ticks at which a source is missing or older than `max_age_s` are dropped and counted; so are
  ticks whose command is older than two control periods.
* An action chunk never reaches over a gap in the commands or past the end of the episode.
* A tick is a correction where the newest message on `intervention` says that a person drives.
* The instruction is the one that was said, as the messages have it; that of the bag's custom data
  where nothing was said, or where somebody relabelled the episode.

Observations come from `ObservationAssembler`, the code the live policy uses, on the same bytes.
It is read twice, first for the stamps, then for the pixels: memory does not grow with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.control.codecs import gripper_index, make_codec
from vla_alignment_ros.data import align
from vla_alignment_ros.data.bag import EpisodeInfo
from vla_alignment_ros.data.source import Episode, open_episode
from vla_alignment_ros.embodiment import ACTION_DIM, BOOL, Embodiment, INTERVENTION_TOPIC
from vla_alignment_ros.errors import BagError, ControlError, DatasetError, WireError
from vla_alignment_ros.observation import (
    EE_POSITION,
    normalize_instruction,
    Observation,
    ObservationAssembler,
)

COMMAND_MAX_AGE_PERIODS = 2.0


@dataclass(frozen=True)
class EpisodeIndex:
    """Which messages make which sample. T samples, A actions (A ≥ T)."""

    episode: Episode
    embodiment: Embodiment
    ticks_ns: np.ndarray  # (T,) int64
    picks: dict[str, np.ndarray]  # topic -> (T,) int64, the how-manieth message of the topic
    instructions: tuple[bytes, ...]  # the messages that picks[instruction_topic] points into
    actions: np.ndarray  # (A, 7) float32, one per tick with a command
    chunk_start: np.ndarray  # (T,) int64 into actions: the action that answers the sample
    chunk_stop: np.ndarray  # (T,) int64 into actions: where its chunk must end
    correction: np.ndarray  # (T,) bool: a person had taken over from the policy
    dropped: dict[str, int]  # reason -> ticks

    def __len__(self) -> int:
        return len(self.ticks_ns)

    @property
    def info(self) -> EpisodeInfo:
        return self.episode.info

    def rows(self, rows: np.ndarray) -> EpisodeIndex:
        """Some of the samples, (R,) ascending."""
        return replace(
            self,
            ticks_ns=self.ticks_ns[rows],
            picks={topic: pick[rows] for topic, pick in self.picks.items()},
            chunk_start=self.chunk_start[rows],
            chunk_stop=self.chunk_stop[rows],
            correction=self.correction[rows],
        )


@dataclass(frozen=True)
class EpisodeData:
    """A whole episode in memory. T samples, A actions, S state width."""

    index: EpisodeIndex
    images: dict[str, np.ndarray]  # camera name -> (T, height, width, 3) uint8
    state: np.ndarray  # (T, S) float32
    instructions: tuple[str, ...]  # (T,) normalised
    keyframe_position: np.ndarray | None  # (T, 3) float32 m, base_link
    keyframe_gripper: np.ndarray  # (T,) float32, commanded opening at the keyframe


@dataclass(frozen=True)
class Scan:
    """Stamps of one bag: topic -> (N,) arrays in order of arrival, and the small messages."""

    stamps: dict[str, np.ndarray]
    logs: dict[str, np.ndarray]
    has_header: dict[str, bool]
    kept: dict[str, list[bytes]]  # all but the images


def index_episode(
    episode: Episode | Path | str, embodiment: Embodiment | None = None
) -> EpisodeIndex:
    """Align one episode.

    Args:
        episode: what `open_episode` gives, or the path that it takes.
        embodiment: instead of the one in the bag (needed for bags recorded without one).

    Raises:
        DatasetError: the bag is damaged, lacks a topic, or gives no sample; it is named.
    """
    is_path = isinstance(episode, (Path, str))
    path = Path(episode) if is_path else episode.info.path
    try:
        if is_path:
            episode = open_episode(path, embodiment)
        embodiment = embodiment or episode.info.embodiment
        if embodiment is None:
            raise DatasetError('the bag names no embodiment; give the one it was recorded with')
        check_topics(episode.info, embodiment)
        return index_scan(episode, embodiment, scan_episode(episode, embodiment))
    except (BagError, WireError, ControlError, DatasetError) as error:
        raise DatasetError(f'episode {path}: {error}') from error


def observations(
    index: EpisodeIndex, assembler: ObservationAssembler
) -> Iterator[tuple[int, Observation]]:
    """(row, observation) of every sample, each as soon as its messages have been read.

    Rows come in order unless messages arrived out of order. Images may be views of buffers that
    are freed when the observation is.

    Raises:
        DatasetError: a message is broken; episode and topic are named.
    """
    path = index.info.path
    said = index.embodiment.instruction_topic
    uses = {topic: _uses(picks) for topic, picks in index.picks.items() if topic != said}
    waiting: dict[int, dict[str, bytes]] = {}  # row -> messages read so far
    try:
        for topic, number, raw in index.episode.some(uses):
            for row in uses[topic][number]:
                found = waiting.setdefault(row, {})
                found[topic] = raw
                if len(found) < len(uses):
                    continue
                del waiting[row]
                found[said] = index.instructions[index.picks[said][row]]
                yield row, assembler.assemble(int(index.ticks_ns[row]), found)
    except (BagError, WireError) as error:
        raise DatasetError(f'episode {path}: {error}') from error
    if waiting:
        raise DatasetError(f'episode {path} changed while it was read')


def read_episode(path: Path | str, embodiment: Embodiment | None = None) -> EpisodeData:
    """A whole episode in memory: for looking at one, and for tests."""
    index = index_episode(path, embodiment)
    assembler = ObservationAssembler(index.embodiment)
    images = {
        c.name: np.empty((len(index), c.height, c.width, 3), np.uint8)
        for c in index.embodiment.cameras
    }
    state = np.empty((len(index), assembler.state_dim), np.float32)
    texts = [''] * len(index)
    for row, observation in observations(index, assembler):
        for name, image in observation.images.items():
            images[name][row] = image
        state[row] = observation.state
        texts[row] = observation.instruction
    position, gripper = keyframes(index, state, assembler.state_names)
    return EpisodeData(index, images, state, tuple(texts), position, gripper)


def keyframes(
    index: EpisodeIndex, state: np.ndarray, state_names: tuple[str, ...]
) -> tuple[np.ndarray | None, np.ndarray]:
    """Where the hand has to be next, after the keyframes of C2F-ARM (James et al. 2022).

    A keyframe is where the commanded gripper changes between open and closed, or the episode's
    end. For every sample: the next keyframe, at or after it.

    Args:
        state: (T, S) of the samples.

    Returns:
        (T, 3) float32 end-effector position there, None where the state has no end effector;
        (T,) float32 gripper command there.
    """
    _, gripper = _next_changes(index)
    if not set(EE_POSITION) <= set(state_names):
        return None, gripper
    position = state[:, [state_names.index(name) for name in EE_POSITION]]  # (T, 3)
    return position[keyframe_rows(index)].astype(np.float32), gripper


def keyframe_rows(index: EpisodeIndex) -> np.ndarray:
    """(T,) for every sample the one at its next keyframe; see `keyframes`."""
    # a change may fall on a dropped tick: the first sample at or after it stands for it
    row = np.searchsorted(index.chunk_start, _next_changes(index)[0], side='left')
    return np.minimum(row, len(index) - 1)


def _next_changes(index: EpisodeIndex) -> tuple[np.ndarray, np.ndarray]:
    """(T,) for every sample the next action that changes the gripper, and the gripper then."""
    column = gripper_index(index.embodiment)
    told = index.actions[:, column] if column is not None else np.ones(len(index.actions))
    change = align.next_change(told)[index.chunk_start]
    return change, told[change].astype(np.float32)


# -- the index ----------------------------------------------------------------------------------


def check_topics(info: EpisodeInfo, embodiment: Embodiment) -> None:
    """Raise DatasetError where a bag lacks a topic of the embodiment, or has another type."""
    for topic, msgtype in embodiment.topics().items():
        if topic == embodiment.instruction_topic and info.instruction:
            continue
        if not info.message_counts.get(topic):
            present = ', '.join(t for t, n in info.message_counts.items() if n) or 'nothing'
            raise DatasetError(
                f'no message on topic {topic!r}, which embodiment {embodiment.name!r} needs; '
                f'recorded were {present}'
            )
        if info.message_types[topic] != msgtype:
            raise DatasetError(
                f'topic {topic!r} carries {info.message_types[topic]}, '
                f'embodiment {embodiment.name!r} says {msgtype}'
            )
    flag = info.message_types.get(INTERVENTION_TOPIC, BOOL)
    if flag != BOOL:
        raise DatasetError(
            f'topic {INTERVENTION_TOPIC!r} carries {flag}, not the {BOOL} that says '
            f'when a person took over'
        )


def scan_episode(
    episode: Episode,
    embodiment: Embodiment,
    messages: Iterable[tuple[str, str, int, bytes]] | None = None,
) -> Scan:
    """The stamps of every topic of the embodiment, in one clock, and the messages without pixels.

    Args:
        episode: that is scanned.
        embodiment: whose topics count.
        messages: its own, where somebody else looks at them in the same pass.

    Raises BagError, WireError: it is damaged, or a message has no room for its stamp.
    """
    topics = {**embodiment.topics(), INTERVENTION_TOPIC: BOOL}
    small = set(topics) - {camera.topic for camera in embodiment.cameras}
    headers: dict[str, list[int]] = {topic: [] for topic in topics}
    logs: dict[str, list[int]] = {topic: [] for topic in topics}
    kept: dict[str, list[bytes]] = {topic: [] for topic in small}
    for topic, msgtype, log_ns, raw in episode.heads(topics) if messages is None else messages:
        if topic not in topics:
            continue
        stamp = wire.stamp_ns(raw, msgtype)
        headers[topic].append(log_ns if stamp is None else stamp)
        logs[topic].append(log_ns)
        if topic in small:
            kept[topic].append(raw)
    logged = {topic: np.array(values, np.int64) for topic, values in logs.items()}
    has_header = {topic: topics[topic] in wire.STAMPED for topic in topics}
    stamps = {
        topic: align.header_or_log(np.array(values, np.int64), logged[topic])
        for topic, values in headers.items()
    }
    stamped = [topic for topic in topics if has_header[topic]]
    reference_log = np.concatenate([logged[topic] for topic in stamped])
    reference = np.concatenate([stamps[topic] for topic in stamped])
    order = np.argsort(reference_log, kind='stable')
    for topic in topics:
        if not has_header[topic]:
            stamps[topic] = align.headerless(logged[topic], reference_log[order], reference[order])
    return Scan(stamps, logged, has_header, kept)


def commands(
    scan: Scan, embodiment: Embodiment
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """What the robot was told: ticks (A,) ns, actions (A, 7) float32, and the ticks without one.

    Raises:
        WireError, ControlError: a command is broken.
    """
    dropped: dict[str, int] = {}
    codec = make_codec(embodiment)
    period_ns = 1e9 / embodiment.rate_hz
    ticks = align.control_ticks(scan.stamps[codec.trigger], embodiment.rate_hz)
    picks = {}
    fresh = np.ones(len(ticks), bool)
    for topic in codec.topics:
        stamps = scan.stamps[topic]
        if topic != codec.trigger and not scan.has_header[topic]:
            if align.published_together(scan.logs[topic], scan.logs[codec.trigger]):
                stamps = scan.stamps[codec.trigger]
        picks[topic] = pick = align.as_of(stamps, ticks)
        fresh &= pick >= 0
        if topic == codec.trigger:
            fresh &= ticks - stamps[pick] <= COMMAND_MAX_AGE_PERIODS * period_ns
    _count(dropped, 'command', ~fresh)
    ticks = ticks[fresh]
    picks = {topic: pick[fresh] for topic, pick in picks.items()}
    actions = np.empty((len(ticks), ACTION_DIM), np.float32)
    for i in range(len(ticks)):
        actions[i] = codec.decode({t: scan.kept[t][p[i]] for t, p in picks.items()})
    return ticks, actions, dropped


def index_scan(episode: Episode, embodiment: Embodiment, scan: Scan) -> EpisodeIndex:
    """Align what was scanned.

    Raises:
        DatasetError, WireError, ControlError: it gives no sample, or a message is broken.
    """
    # a command for every tick, or no tick
    ticks, actions, dropped = commands(scan, embodiment)
    stops = align.segment_stops(ticks, embodiment.rate_hz)

    # an observation for every tick, or no sample
    instructions, spoken = _instructions(episode.info, embodiment, scan)
    picks = {}
    whole = np.ones(len(ticks), bool)
    for source, topic in embodiment.source_topics().items():
        stamps = spoken if source == 'instruction' else scan.stamps[topic]
        picks[topic] = pick = align.as_of(stamps, ticks)
        there = pick >= 0
        _count(dropped, f'{source} missing', ~there)
        if source in embodiment.max_age_s:
            young = ticks - stamps[pick] <= embodiment.max_age_s[source] * 1e9
            _count(dropped, f'{source} too old', there & ~young)
            there &= young
        whole &= there
    if not whole.any():
        reasons = ', '.join(f'{name} {count}' for name, count in dropped.items()) or 'no command'
        raise DatasetError(f'no usable tick at {embodiment.rate_hz:g} Hz (dropped: {reasons})')
    return EpisodeIndex(
        episode=episode,
        embodiment=embodiment,
        ticks_ns=ticks[whole],
        picks={topic: pick[whole] for topic, pick in picks.items()},
        instructions=instructions,
        actions=actions,
        chunk_start=np.flatnonzero(whole).astype(np.int64),
        chunk_stop=stops[whole],
        correction=_corrections(scan, ticks[whole]),
        dropped=dropped,
    )


def _instructions(
    info: EpisodeInfo, embodiment: Embodiment, scan: Scan
) -> tuple[tuple[bytes, ...], np.ndarray]:
    """The instruction messages and the stamps (N,) from which each holds.

    The only instruction of an episode holds from its beginning, wherever the recorder was
    handed it, and also when it stands in the bag's custom data alone. What the bag was relabelled
    with takes the place of all that was said.
    """
    topic = embodiment.instruction_topic
    raws, stamps = scan.kept[topic], scan.stamps[topic]
    if info.relabelled:
        raws, stamps = [], stamps[:0]
    texts = {normalize_instruction(wire.decode_string(raw)) for raw in raws}
    if not raws:
        raws, stamps = [wire.encode_string(info.instruction)], np.zeros(1, np.int64)
    if len(texts) <= 1:
        stamps = np.full(len(raws), np.iinfo(np.int64).min // 2)
    return tuple(raws), stamps


def _corrections(scan: Scan, ticks_ns: np.ndarray) -> np.ndarray:
    """(T,) bool: whether a person drives at a tick; nobody does before the first message."""
    driven = [wire.decode_bool(raw) for raw in scan.kept[INTERVENTION_TOPIC]]
    newest = align.as_of(scan.stamps[INTERVENTION_TOPIC], ticks_ns)
    return np.array([*driven, False])[newest]  # -1, no message yet, is the False at the end


def _uses(picks: np.ndarray) -> dict[int, list[int]]:
    """Message number -> the rows that use it."""
    uses: dict[int, list[int]] = {}
    for row, number in enumerate(picks.tolist()):
        uses.setdefault(number, []).append(row)
    return uses


def _count(dropped: dict[str, int], reason: str, mask: np.ndarray) -> None:
    if mask.any():
        dropped[reason] = int(mask.sum())
