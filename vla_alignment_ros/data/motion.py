"""When a robot moves, from its joint states, and so when an episode begins and ends.

No ROS in here. Times are those of the stamps, seconds; only silence is judged by the steady
clock. Speeds are the largest of all joints, the gripper's too: rad/s, or m/s where one slides.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from vla_alignment_ros.wire import JointSample

WINDOW_S = 0.2  # over which a speed is measured: a single step of an encoder is no motion
GRAIN_S = 0.01  # between two samples that are looked at
GAP_S = 1.0  # between two samples: a clock was set, or nothing was heard
REARM_S = 0.5  # of rest before motion may begin an episode

START, STOP, DISCARD = 'start', 'stop', 'discard'


@dataclass(frozen=True)
class AutoRule:
    """What begins and ends an episode."""

    speed: float = 0.05  # rad/s or m/s: from here on it moves; under half of it, it rests
    idle_s: float = 2.0  # of rest that end an episode
    min_s: float = 1.0  # of motion; a shorter episode is discarded


class MotionWatch:
    """The speed of the fastest joint over the last `WINDOW_S`."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._samples: deque[tuple[int, np.ndarray]] = deque()  # ns, (J,)

    def clear(self) -> None:
        """Forget what came; the next speed is known after a whole window."""
        self._samples.clear()

    def push(self, ts_ns: int, names: tuple[str, ...], position: np.ndarray) -> float | None:
        """Take positions (J,) at a time; the speed, None while it is not known."""
        if names != self._names or len(position) != len(names):
            self._names = names
            self.clear()
        if len(position) != len(names) or not np.isfinite(position).all():
            return None
        samples = self._samples
        samples.append((ts_ns, np.array(position)))
        whole_ns = round((WINDOW_S - GRAIN_S / 2) * 1e9)  # stamps are not exact
        while len(samples) > 2 and samples[1][0] <= ts_ns - whole_ns:
            samples.popleft()
        span_ns = ts_ns - samples[0][0]
        if span_ns < whole_ns:
            return None
        moved = np.ptp([position for _, position in samples], axis=0)  # (J,)
        return float(moved.max(initial=0.0)) / (span_ns * 1e-9)


class AutoEpisodes:
    """Says when to start, stop or discard an episode. Not thread-safe.

    An episode that somebody else began is nobody's business here. After one was ended by somebody
    else, the robot has to rest before the next one begins.
    """

    def __init__(self) -> None:
        self._watch = MotionWatch()
        self._t_s = -GRAIN_S  # of the last sample
        self._heard_s = 0.0  # steady
        self._began_s = self._moved_s = 0.0
        self._own = False
        self._armed = False

    def push(
        self, sample: JointSample, now_s: float, recording: bool | None, rule: AutoRule
    ) -> str | None:
        """Take joint states; what to do now, if anything.

        Args:
            now_s: steady; it also stands in for a stamp that was not set.
            recording: whether an episode is being recorded; None: one is just being begun or
                ended, and only the motion counts.
        """
        self._heard_s = now_s
        ts_ns = sample.ts_ns if sample.ts_ns > 0 else round(now_s * 1e9)
        t_s = ts_ns * 1e-9
        passed_s = t_s - self._t_s
        if 0.0 <= passed_s < GRAIN_S:
            return None
        self._t_s = t_s
        if not 0.0 <= passed_s <= GAP_S:
            self._watch.clear()
            self._moved_s, self._began_s = self._moved_s + passed_s, self._began_s + passed_s
        speed = self._watch.push(ts_ns, sample.names, sample.position)
        if speed is None:
            return None
        if speed >= rule.speed / 2:
            self._moved_s = t_s
        if recording is None:
            return None
        rested_s = t_s - self._moved_s
        if not recording:
            self._armed = rested_s >= REARM_S or (self._armed and not self._own)
            self._own = False
            if not self._armed or speed < rule.speed:
                return None
            self._own, self._armed, self._began_s = True, False, t_s
            return START
        if not self._own:
            self._armed = False
        return self._end(rule) if self._own and rested_s >= rule.idle_s else None

    def silence(self, now_s: float, recording: bool, rule: AutoRule) -> str | None:
        """No joint states for so long that nobody knows whether it moves: what to do now."""
        if recording and self._own and now_s - self._heard_s >= rule.idle_s:
            return self._end(rule)
        return None

    def _end(self, rule: AutoRule) -> str:
        self._own, self._armed = False, True
        return STOP if self._moved_s - self._began_s >= rule.min_s else DISCARD
