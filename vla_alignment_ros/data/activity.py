"""When the robot of a recorded episode was active: it moved, or was told to.

Whether it moves is decided as `motion` does while it records, only that here the gripper counts in
whole openings: of a small one's slow end nothing may be cut off.

Shapes: N samples, J joints, A actions of seven numbers, T cells of time.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.control.codecs import gripper_index
from vla_alignment_ros.data.episode import Scan
from vla_alignment_ros.data.motion import AutoRule, GAP_S, GRAIN_S, MotionWatch, WINDOW_S
from vla_alignment_ros.embodiment import ACTION_DIM, Embodiment
from vla_alignment_ros.errors import ConfigError, WireError


@dataclass(frozen=True)
class Stillness:
    """What counts as standing still."""

    speed: float = AutoRule().speed / 2
    """Slowest motion that counts, of any joint: rad/s, m/s for one that slides, and of the gripper
    whole openings per second. By default what a recorder takes for rest."""
    command_share: float = 0.02
    """Smallest command that counts, as a share of the largest that the embodiment allows."""

    def __post_init__(self) -> None:
        for name in ('speed', 'command_share'):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(f'{name} must be 0 or more, got {getattr(self, name)!r}')


@dataclass(frozen=True)
class Activity:
    """Which cells of time, each a control period long, see motion or a command."""

    start_ns: int  # first and last stamp of the episode
    stop_ns: int
    period_ns: float
    active: np.ndarray  # (T,) bool

    @property
    def first_ns(self) -> int | None:
        """Where the first activity begins; None without any."""
        found = np.flatnonzero(self.active)
        return None if not len(found) else self.start_ns + round(found[0] * self.period_ns)

    @property
    def last_ns(self) -> int | None:
        """Where the last activity ends; None without any."""
        found = np.flatnonzero(self.active)
        return None if not len(found) else self.start_ns + round((found[-1] + 1) * self.period_ns)

    @property
    def idle_share(self) -> float:
        """Share of the time without activity."""
        return float(1 - self.active.mean()) if len(self.active) else 0.0

    def longest_pause(self) -> tuple[float, float]:
        """(begin, length) in s of the longest stretch without activity between the first and last.

        The begin counts from the first cell; (0, 0) without any pause.
        """
        found = np.flatnonzero(self.active)
        if len(found) < 2:
            return 0.0, 0.0
        gaps = np.diff(found) - 1
        longest = int(gaps.argmax())
        scale = self.period_ns * 1e-9
        return float((found[longest] + 1) * scale), float(gaps[longest] * scale)


def joint_positions(scan: Scan, embodiment: Embodiment) -> tuple[np.ndarray, np.ndarray]:
    """Stamps (N,) ns, ascending, and positions (N, J + 1): the joints, then the gripper's opening.

    Messages that lack a joint are left out.
    """
    topic = embodiment.joint_states_topic
    wanted = (*embodiment.joint_names, embodiment.gripper.joint)
    stamps, rows = [], []
    for stamp, raw in zip(scan.stamps[topic], scan.kept[topic]):
        try:
            sample = wire.decode_joint_state(raw)
        except WireError:
            continue
        index = {name: i for i, name in enumerate(sample.names)}
        if not len(sample.position) or not index.keys() >= set(wanted):
            continue
        row = np.asarray(sample.position)[[index[name] for name in wanted]]
        if np.isfinite(row).all():
            rows.append(row)
            stamps.append(stamp)
    positions = np.array(rows, np.float64).reshape(-1, len(wanted))
    grip = embodiment.gripper
    positions[:, -1] = [grip.opening(value) for value in positions[:, -1]]
    order = np.argsort(stamps, kind='stable')
    return np.array(stamps, np.int64)[order], positions[order]


def moving_spans(stamps_ns: np.ndarray, positions: np.ndarray, slowest: float) -> np.ndarray:
    """Spans (M, 2) ns in which some joint was at least as fast as `slowest` (per second).

    stamps_ns: (N,) ascending; positions: (N, J).
    """
    watch, spans = MotionWatch(), []
    names = tuple(map(str, range(positions.shape[1])))
    last_ns = None
    for stamp, row in zip(stamps_ns.tolist(), positions):
        if last_ns is not None and stamp - last_ns < GRAIN_S * 1e9:
            continue
        if last_ns is not None and stamp - last_ns > GAP_S * 1e9:
            watch.clear()
        last_ns = stamp
        speed = watch.push(stamp, names, row)
        if speed is not None and speed >= slowest:
            spans.append((stamp - round(WINDOW_S * 1e9), stamp))
    return np.array(spans, np.int64).reshape(-1, 2)


def command_shares(actions: np.ndarray, embodiment: Embodiment) -> np.ndarray:
    """How much motion actions (A, 7) ask for, (A,): 1 is the most that the embodiment allows.

    Of what is a position the change since the action before counts, as a share of its range; of
    all else the value, as a share of its limit. The largest of the dimensions.
    """
    spec = embodiment.action
    low, high = np.asarray(spec.low, np.float64), np.asarray(spec.high, np.float64)
    position = np.full(ACTION_DIM, spec.space == 'joint_position')
    gripper = gripper_index(embodiment)
    if gripper is not None:
        position[gripper] = True
    most = np.where(position, high - low, np.maximum(np.abs(low), np.abs(high)))
    most = np.where(np.isfinite(most), most, 1.0)
    change = np.diff(actions, axis=0, prepend=actions[:1])
    return (np.abs(np.where(position, change, actions)) / most).max(axis=1, initial=0.0)


def activity(
    scan: Scan,
    embodiment: Embodiment,
    action_ns: np.ndarray,
    actions: np.ndarray,
    stillness: Stillness,
) -> Activity:
    """When the robot of an episode moved or was told to.

    Args:
        scan: of the episode.
        embodiment: of the robot.
        action_ns: (A,) stamps of the actions.
        actions: (A, 7).
        stillness: what does not count.
    """
    period_ns = 1e9 / embodiment.rate_hz
    every = np.concatenate([scan.stamps[topic] for topic in timed_topics(embodiment)])
    start, stop = int(every.min()), int(every.max())
    cells = int((stop - start) // period_ns) + 1
    stamps, positions = joint_positions(scan, embodiment)
    asked = action_ns[command_shares(actions, embodiment) > stillness.command_share]
    spans = np.concatenate([
        moving_spans(stamps, positions, stillness.speed),
        np.stack([asked, asked], axis=1).reshape(-1, 2),
    ])  # fmt: skip
    first = np.clip((spans[:, 0] - start) // period_ns, 0, cells - 1).astype(np.int64)
    last = np.clip((spans[:, 1] - start) // period_ns, 0, cells - 1).astype(np.int64)
    edges = np.zeros(cells + 1, np.int64)
    np.add.at(edges, first, 1)
    np.add.at(edges, last + 1, -1)
    return Activity(start, stop, period_ns, edges.cumsum()[:-1] > 0)


def timed_topics(embodiment: Embodiment) -> list[str]:
    """Topics that come all the time: all but the instruction."""
    return [topic for topic in embodiment.topics() if topic != embodiment.instruction_topic]
