"""How a serving node fares: what comes in, what is lost, and whether a person has to look.

No ROS in here but the levels of a diagnostic message.

==========  ====================================================================
OK          it moves freely, a person drives it, or it is not active
WARN        it goes slowly or holds: no instruction yet, a shut gate, a late sensor
ERROR       it asks for help, or sensors have been silent for `SILENT_ERROR_S`
==========  ====================================================================
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
import threading
import time

from vla_alignment_ros import wire
from vla_alignment_ros.control.decisions import DRIVEN
from vla_alignment_ros.control.gate import GO, HOLD
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import WireError
from vla_alignment_ros.nodes.decision_loop import DecisionLoop
from vla_alignment_ros.nodes.diagnostics import ERROR, OK, WARN

SILENT_ERROR_S = 3.0  # a sensor is silent beyond its limit: from then on it is no mere delay
WINDOW_S = 5.0  # of the rates
KEPT = 512  # arrivals per source, and frames that wait for a decision


class Arrivals:
    """Messages by source: how many a second, and frames that no decision looked at. Thread-safe.

    A frame is superseded when a decision looks at a later one of its camera.
    """

    def __init__(self, embodiment: Embodiment) -> None:
        self._types = embodiment.observation_topics()
        self._sources = {topic: name for name, topic in embodiment.source_topics().items()}
        self._times = {name: deque(maxlen=KEPT) for name in self._sources.values()}  # steady s
        self._waiting: dict[str, deque[int]] = {c.name: deque() for c in embodiment.cameras}
        self._superseded: Counter[str] = Counter()
        self._lock = threading.Lock()

    def came(self, topic: str, raw: bytes, now_s: float) -> None:
        """A message came in."""
        name = self._sources[topic]
        try:
            stamp = wire.stamp_ns(raw, self._types[topic]) if name in self._waiting else None
        except WireError:
            stamp = None
        with self._lock:
            self._times[name].append(now_s)
            if stamp is None:
                return
            waiting = self._waiting[name]
            if not waiting or stamp > waiting[-1]:
                waiting.append(stamp)
            if len(waiting) > KEPT:
                waiting.popleft()
                self._superseded[name] += 1

    def used(self, stamps_ns: Mapping[str, int]) -> None:
        """A decision looks at these: source → stamp."""
        with self._lock:
            for name, waiting in self._waiting.items():
                stamp = stamps_ns.get(name, 0)
                if waiting and stamp < waiting[0]:  # looked at before, or a clock was set back
                    continue
                while waiting and waiting[0] <= stamp:
                    self._superseded[name] += waiting.popleft() < stamp

    def start(self) -> None:
        """Decisions begin: what came before waits for none."""
        with self._lock:
            for waiting in self._waiting.values():
                waiting.clear()

    def key_values(self, now_s: float) -> dict[str, str]:
        """`rate_<source>_hz` of every sensor, `superseded: <camera>` where there are any."""
        with self._lock:
            rates = {
                name: _rate_hz([t for t in times if t >= now_s - WINDOW_S], now_s)
                for name, times in self._times.items()
                if name != 'instruction'
            }
            lost = {f'superseded: {name}': str(n) for name, n in self._superseded.items() if n}
        return {f'rate_{name}_hz': f'{rate:.1f}' for name, rate in rates.items()} | lost


def _rate_hz(times: list[float], now_s: float) -> float:
    if len(times) < 2:
        return 0.0
    mean_s = (times[-1] - times[0]) / (len(times) - 1)
    # a source that fell silent counts less and less
    late_s = max(0.0, now_s - times[-1] - mean_s)
    return (len(times) - 1) / max(times[-1] - times[0] + late_s, 1e-9)


def silent_for(loop: DecisionLoop) -> float:
    """For how many seconds a sensor has been silent beyond its limit; 0 where none is."""
    buffer = loop.buffer
    ages = buffer.ages(time.monotonic_ns())
    over = [
        ages[name] - limit
        for name, limit in buffer.max_age_s.items()
        if name in ages and name != 'instruction'
    ]
    return max(0.0, *over, 0.0)


def judge(loop: DecisionLoop, active_s: float) -> tuple[bytes, str]:
    """Level and words for a node that has been active for so many seconds."""
    last, help_needed = loop.last, loop.pipeline.needs_help
    text = f'{last.state}: {last.reason}' if last is not None and last.reason else ''
    text = text or (last.state if last is not None else 'waiting')
    if help_needed:
        return ERROR, f'{text}; please help: {help_needed}'
    missing = [name for name in loop.buffer.missing() if name != 'instruction']
    silent_s = active_s if missing else silent_for(loop)
    if silent_s > SILENT_ERROR_S:
        why = loop.buffer.hold_reason(time.monotonic_ns()) or text
        return ERROR, f'{last.state if last is not None else HOLD}: {why}'
    moving = last is not None and last.state in (GO, DRIVEN)
    return OK if moving else WARN, text
