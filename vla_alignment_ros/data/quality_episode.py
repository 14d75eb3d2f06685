"""Looks at one recorded episode, in one pass over its messages: what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.control.codecs import make_codec
from vla_alignment_ros.data import align
from vla_alignment_ros.data.activity import activity, joint_positions, timed_topics
from vla_alignment_ros.data.bag import EpisodeInfo, EpisodeReader
from vla_alignment_ros.data.content import ContentDigest
from vla_alignment_ros.data.episode import commands, index_scan, Scan, scan_episode
from vla_alignment_ros.data.quality import EpisodeQuality, Finding, Limits, Severity
from vla_alignment_ros.data.quality_images import ImageWatch
from vla_alignment_ros.data.quality_motion import action_findings, idle_findings
from vla_alignment_ros.data.quality_time import (
    age_findings,
    edge_findings,
    rate_findings,
    stamp_findings,
)
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import BagError, ControlError, DatasetError, WireError
from vla_alignment_ros.observation import normalize_instruction

TEN = 10  # times what is tolerated is an error


def inspect_episode(
    path: Path, limits: Limits, embodiment: Embodiment | None = None
) -> EpisodeQuality:
    """What is wrong with an episode. A bag that cannot be read is a finding, not an error.

    Args:
        path: its folder.
        limits: what is still fine.
        embodiment: of episodes that name none.
    """
    try:
        reader = EpisodeReader(path)
    except BagError as error:
        return EpisodeQuality(path, findings=(Finding('damaged', Severity.ERROR, str(error)),))
    info = reader.info
    found = EpisodeQuality(path, info.instruction, info.success, info.extra.get('task', ''))
    if info.success is False:
        found = found.plus(Finding('failed', Severity.INFO, 'marked as failed'))
    embodiment = info.embodiment or embodiment
    if embodiment is None:
        text = 'it names no embodiment: nobody knows its cameras, joints and commands'
        return found.plus(Finding('topic', Severity.ERROR, text))
    missing = topic_findings(info, embodiment)
    watches = {camera.topic: ImageWatch(camera) for camera in embodiment.cameras}
    digest = ContentDigest(embodiment)
    unset: Counter[str] = Counter()

    def watched() -> Iterator[tuple[str, str, int, bytes]]:
        for topic, msgtype, log_ns, raw in reader.messages():
            digest.add(topic, msgtype, raw)
            stamp = wire.stamp_ns(raw, msgtype)
            unset[topic] += stamp == 0
            if topic in watches and msgtype == watches[topic].camera.message_type:
                watches[topic].add(log_ns, raw)
            yield topic, msgtype, log_ns, raw

    try:
        scan = scan_episode(reader, embodiment, watched())
    except BagError as error:
        return found.plus(*missing, Finding('damaged', Severity.ERROR, str(error)))
    except WireError as error:
        return found.plus(*missing, Finding('message', Severity.ERROR, str(error)))
    found = replace(found, digest=digest.hexdigest(), embodiment=embodiment)
    found = found.plus(*missing, *instruction_findings(info, embodiment, scan))
    if missing:
        return found
    unstamped = _unstamped(unset, embodiment, scan)
    found = found.plus(*unstamped)
    if any(finding.severity == Severity.ERROR for finding in unstamped):
        return found  # nobody knows when it was
    return _with_motion(found, reader, embodiment, scan, watches, limits)


def _with_motion(
    found: EpisodeQuality,
    reader: EpisodeReader,
    embodiment: Embodiment,
    scan: Scan,
    watches: dict[str, ImageWatch],
    limits: Limits,
) -> EpisodeQuality:
    """With what needs every topic to be there."""
    timed = timed_topics(embodiment)
    start_ns = int(min(scan.stamps[topic].min() for topic in timed))
    stop_ns = int(max(scan.stamps[topic].max() for topic in timed))
    for topic in _even(embodiment):
        age_s = next(
            (embodiment.max_age_s.get(s) for s, t in embodiment.source_topics().items()
             if t == topic), None,
        )  # fmt: skip
        stamps = scan.stamps[topic]
        found = found.plus(
            *rate_findings(topic, stamps, start_ns, embodiment.rate_hz, age_s, limits),
            *(edge_findings(topic, stamps, start_ns, stop_ns, limits)
              if topic in embodiment.source_topics().values() else ()),
            *(stamp_findings(topic, stamps, scan.logs[topic], limits)
              if scan.has_header[topic] else ()),
        )  # fmt: skip
    joint_ns, positions = joint_positions(scan, embodiment)
    lost = len(scan.stamps[embodiment.joint_states_topic]) - len(joint_ns)
    if lost:
        text = f'{lost} joint states lack a joint of the embodiment, or a finite position'
        found = found.plus(Finding('message', Severity.ERROR, text))
    for topic, watch in watches.items():
        stamps = scan.stamps[topic]
        seen = watch.findings(stamps, joint_ns, positions, start_ns, limits)
        found = found.plus(*seen, **{f'brightness_{watch.camera.name}': watch.brightness})
    try:
        ticks, actions, _ = commands(scan, embodiment)
        index = index_scan(reader, embodiment, scan)
    except (DatasetError, WireError, ControlError) as error:
        return found.plus(Finding('sample', Severity.ERROR, f'no sample can be made: {error}'))
    moved = activity(scan, embodiment, ticks, actions, limits.still)
    duration_s = (moved.stop_ns - moved.start_ns) * 1e-9
    path = np.abs(np.diff(positions, axis=0)).sum() if len(positions) else 0.0
    found = found.plus(
        *action_findings(ticks, actions, embodiment, start_ns, limits),
        *idle_findings(moved, limits),
        duration_s=duration_s,
        samples=float(len(index)),
        joint_travel=float(path),
        idle_share=moved.idle_share,
    )
    for source, topic in embodiment.source_topics().items():
        if topic != embodiment.instruction_topic:
            stamps, rate_hz = scan.stamps[topic], embodiment.rate_hz
            found = found.plus(*age_findings(source, index.ticks_ns, stamps, rate_hz, limits))
    found = found.plus(*_sample_findings(len(index), index.dropped, duration_s, limits))
    return replace(found, usable=True)


def topic_findings(info: EpisodeInfo, embodiment: Embodiment) -> list[Finding]:
    """Topics of the embodiment that are not there, or carry another type."""
    found = []
    for topic, msgtype in embodiment.topics().items():
        if topic == embodiment.instruction_topic:
            continue
        if not info.message_counts.get(topic):
            there = ', '.join(t for t, n in info.message_counts.items() if n) or 'nothing'
            found.append(Finding('topic', Severity.ERROR, f'no {topic}; there are {there}'))
        elif info.message_types[topic] != msgtype:
            text = f'{topic} carries {info.message_types[topic]}, the embodiment says {msgtype}'
            found.append(Finding('topic', Severity.ERROR, text))
    return found


def instruction_findings(
    info: EpisodeInfo, embodiment: Embodiment, scan: Scan
) -> list[Finding]:
    """No instruction, several, or messages that say another than the metadata.

    What was replaced before the next command was not what the robot acted on, and does not count.
    """
    said: dict[int, str] = {}
    raws = scan.kept[embodiment.instruction_topic]
    for number, raw in enumerate(raws):
        with suppress(WireError):
            said[number] = normalize_instruction(wire.decode_string(raw))
    broken = len(raws) - len(said)
    told = scan.stamps[make_codec(embodiment).trigger]
    acted_on = np.unique(align.as_of(scan.stamps[embodiment.instruction_topic], told)).tolist()
    texts = [said[number] for number in acted_on if number in said] or list(said.values())
    label = normalize_instruction(info.instruction)
    distinct = list(dict.fromkeys(text for text in texts if text))
    found = []
    if broken:
        text = f'{broken} messages on {embodiment.instruction_topic} cannot be read'
        found.append(Finding('message', Severity.WARNING, text))
    if not label and not distinct:
        found.append(Finding('instruction', Severity.ERROR, 'no instruction'))
    elif info.relabelled:
        return found  # whatever was said, somebody has decided since
    elif len(distinct) > 1:
        text = 'the instruction changes: ' + ', then '.join(f'“{text}”' for text in distinct)
        found.append(Finding('instruction', Severity.WARNING, text))
    elif distinct and label and distinct[0] != label:
        text = f'“{distinct[0]}” was said, the metadata has “{label}”: training takes the first'
        found.append(Finding('instruction', Severity.ERROR, text))
    return found


def _unstamped(unset: Counter[str], embodiment: Embodiment, scan: Scan) -> list[Finding]:
    """Stamps that were never set; a single one is the first moment of a simulated clock."""
    found = []
    for topic in _even(embodiment):
        count = len(scan.stamps[topic])
        text = f'{topic}: {unset[topic]} of {count} messages have no stamp'
        if unset[topic] == count:
            text += '; the time of arrival counts'
            found.append(Finding('stamp', Severity.WARNING, text))
        elif unset[topic] > 1:
            found.append(Finding('stamp', Severity.ERROR, text))
    return found


def _sample_findings(
    samples: int, dropped: dict[str, int], duration_s: float, limits: Limits
) -> list[Finding]:
    found = []
    if samples < limits.least_samples or duration_s < limits.least_s:
        text = f'{samples} samples in {duration_s:.1f} s'
        found.append(Finding('short', Severity.WARNING, text))
    lost = max(dropped.values(), default=0)  # a tick may lack several sources
    share = lost / (lost + samples)
    if share > limits.dropped_share:
        why = ', '.join(f'{reason} {count}' for reason, count in dropped.items())
        found.append(Finding(
            'sample',
            Severity.ERROR if share > TEN * limits.dropped_share else Severity.WARNING,
            f'{100 * share:.0f} % of the ticks give no sample ({why})',
        ))  # fmt: skip
    return found


def _even(embodiment: Embodiment) -> list[str]:
    """Topics that are meant to come evenly: cameras, joint states, the command itself.

    Not the instruction, and not a gripper beside the command, which may come on change alone.
    """
    cameras = [camera.topic for camera in embodiment.cameras]
    return [*cameras, embodiment.joint_states_topic, make_codec(embodiment).trigger]
