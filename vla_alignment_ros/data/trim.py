"""Cuts idle time from the start and the end of an episode: no joint moves and nothing is asked.

What holds from an earlier message on (the instruction, whether a person drives, every latched
topic) still holds in what is left. Log times and stamps stay what they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import json
import os
from pathlib import Path
import tempfile

import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.data.activity import activity, Stillness, timed_topics
from vla_alignment_ros.data.bag import EpisodeReader
from vla_alignment_ros.data.bag_copy import copy_bag
from vla_alignment_ros.data.bag_format import EpisodeInfo
from vla_alignment_ros.data.episode import commands, Scan, scan_episode
from vla_alignment_ros.data.files import fsync
from vla_alignment_ros.embodiment import INTERVENTION_TOPIC
from vla_alignment_ros.errors import BagError, ControlError, WireError
from vla_alignment_ros.observation import normalize_instruction

NOTE = 'trimmed'
LEAST_S = 0.05  # cutting less than this is not worth a new bag


@dataclass(frozen=True)
class Cut:
    """What is to be kept of an episode, and what is lost."""

    path: Path
    start_ns: int  # stamps [start, stop] are kept
    stop_ns: int
    before_s: float  # what is cut, by stamps
    after_s: float
    duration_s: float  # of all of it, as it is

    @property
    def any(self) -> bool:
        """Whether there is anything to cut."""
        return self.before_s > 0 or self.after_s > 0

    @property
    def left_s(self) -> float:
        """What is kept."""
        return self.duration_s - self.before_s - self.after_s


def plan_cut(path: Path, stillness: Stillness, margin_s: float) -> Cut:
    """Where the idle start and end of an episode are.

    Args:
        path: the episode.
        stillness: what counts as standing still.
        margin_s: how much of the idle time is kept on both sides.

    Raises:
        BagError: it cannot be read, names no embodiment, or nothing ever moves in it.
    """
    reader = EpisodeReader(path)
    embodiment = reader.info.embodiment
    if embodiment is None:
        raise BagError(f'{path} names no embodiment: nobody knows what moves and what commands')
    try:
        scan = scan_episode(reader, embodiment)
        ticks, actions, _ = commands(scan, embodiment)
        if not len(ticks) and not len(scan.stamps[embodiment.joint_states_topic]):
            raise BagError(f'{path} has neither joint states nor commands')
        found = activity(scan, embodiment, ticks, actions, stillness)
    except (WireError, ControlError) as error:
        raise BagError(f'{path}: {error}') from error
    if found.first_ns is None or found.last_ns is None:
        raise BagError(f'{path}: nothing moves and nothing is asked in it; discard it')
    begin, end = found.start_ns, found.stop_ns
    margin = round(margin_s * 1e9)
    start, stop = max(begin, found.first_ns - margin), min(end, found.last_ns + margin)
    if start - begin < LEAST_S * 1e9:
        start = begin
    if end - stop < LEAST_S * 1e9:
        stop = end
    seconds = ((start - begin) * 1e-9, (end - stop) * 1e-9, (end - begin) * 1e-9)
    return Cut(path, start, stop, *seconds)


def write_cut(cut: Cut, folder: Path) -> None:
    """Write what a cut keeps as a new episode, whole or not at all.

    Raises:
        BagError: the folder exists already, or it cannot be written.
    """
    if folder.exists():
        raise BagError(f'{folder} exists already; it is not overwritten')
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix='.trim.') as place:
            made = Path(place, folder.name)
            _write(cut, made)
            os.rename(made, folder)
        fsync(folder.parent)
    except OSError as error:
        raise BagError(f'cannot write {folder}: {error}') from error


def _write(cut: Cut, folder: Path) -> None:
    reader = EpisodeReader(cut.path)
    with copy_bag(reader, folder) as copy:
        kept = 0
        for topic, log_ns, raw in _kept(cut, reader, copy.latched):
            copy.write(topic, log_ns, raw)
            kept += 1
        if not kept:
            raise BagError(f'{cut.path}: nothing is left between the cuts')
        if cut.any:
            cuts = {'start_s': round(cut.before_s, 3), 'end_s': round(cut.after_s, 3)}
            copy.note(NOTE, json.dumps([*_cuts_before(reader.info), cuts]))


def _cuts_before(info: EpisodeInfo) -> list[object]:
    try:
        before = json.loads(info.extra.get(NOTE, '[]'))
    except ValueError:
        return []
    return before if isinstance(before, list) else []


def _kept(
    cut: Cut, reader: EpisodeReader, latched: frozenset[str]
) -> Iterator[tuple[str, int, bytes]]:
    """(topic, log time, message) of all that is kept, in the order of log time.

    What was said before the cut, and holds on, comes with the first message after it.
    """
    embodiment = reader.info.embodiment
    scan = scan_episode(reader, embodiment)
    said = embodiment.instruction_topic
    logged = _logged(cut, scan, timed_topics(embodiment))
    held: dict[str, list[bytes]] = {}  # topic -> what holds when the first message is kept
    if len({_text(raw) for raw in scan.kept[said]}) == 1:
        held[said] = scan.kept[said][:1]  # the only instruction holds, wherever it was said
        within = (scan.stamps[said] >= cut.start_ns) & (scan.stamps[said] <= cut.stop_ns)
        if within.any():
            del held[said]
    seen: dict[str, int] = {}
    begun = False
    for topic, msgtype, log_ns, raw in reader.messages():
        number = seen[topic] = seen.get(topic, -1) + 1
        stamps = scan.stamps.get(topic)
        stamp = wire.stamp_ns(raw, msgtype) if stamps is None else stamps[number]
        if stamp:
            early, late = stamp < cut.start_ns, stamp > cut.stop_ns
        else:  # a topic of somebody else, without stamps
            early, late = log_ns < logged[0], log_ns > logged[1]
        if early and topic in (said, INTERVENTION_TOPIC):
            held[topic] = [raw]
        elif early and topic.lstrip('/') in latched:
            held.setdefault(topic, []).append(raw)
        elif not early and not late:
            if not begun:
                begun = True
                yield from ((name, log_ns, each) for name, all_ in held.items() for each in all_)
            yield topic, log_ns, raw


def _logged(cut: Cut, scan: Scan, topics: list[str]) -> tuple[int, int]:
    """First and last log time of what a cut keeps of these topics."""
    kept = []
    for topic in topics:
        stamps = scan.stamps[topic]
        kept.append(scan.logs[topic][(stamps >= cut.start_ns) & (stamps <= cut.stop_ns)])
    every = np.concatenate(kept)
    return (int(every.min()), int(every.max())) if len(every) else (0, 0)


def _text(raw: bytes) -> str:
    try:
        return normalize_instruction(wire.decode_string(raw))
    except WireError:
        return ''
