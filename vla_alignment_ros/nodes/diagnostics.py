"""Diagnostic messages from plain values, and exact counts by cause."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
import threading

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from vla_alignment_ros.nodes.qos import advertise, latched, reliable

OK, WARN, ERROR, STALE = (
    DiagnosticStatus.OK,
    DiagnosticStatus.WARN,
    DiagnosticStatus.ERROR,
    DiagnosticStatus.STALE,
)
DIAGNOSTICS_TOPIC = '/diagnostics'


def status_message(
    name: str, level: bytes, message: str, values: Mapping[str, object], hardware: str = ''
) -> DiagnosticStatus:
    """One status with every value as text; hardware: which robot it is about."""
    return DiagnosticStatus(
        level=level,
        name=name,
        message=message,
        hardware_id=hardware,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )


def diagnostic_array(node: Node, *statuses: DiagnosticStatus) -> DiagnosticArray:
    """Statuses with the node's time."""
    array = DiagnosticArray(status=list(statuses))
    array.header.stamp = node.get_clock().now().to_msg()
    return array


class StatusBoard:
    """The topics `~/status` (latched) and `/diagnostics` of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        kind = 'diagnostic_msgs/msg/DiagnosticStatus'
        self._status = advertise(node, '~/status', kind, latched())
        self._diagnostics = advertise(
            node, DIAGNOSTICS_TOPIC, 'diagnostic_msgs/msg/DiagnosticArray', reliable()
        )
        self._last = DiagnosticStatus()

    def tell(self, status: DiagnosticStatus, *more: DiagnosticStatus) -> None:
        """Publish a status on both, and more on `/diagnostics`."""
        self._status.publish(status)
        self._diagnostics.publish(diagnostic_array(self._node, status, *more))
        self._last = status

    def nod(self) -> None:
        """Say on `/diagnostics` that all is as it was told; the values stay on `~/status`."""
        last = self._last
        short = status_message(last.name, last.level, last.message, {}, last.hardware_id)
        self._diagnostics.publish(diagnostic_array(self._node, short))


class Causes:
    """Counts by cause, thread-safe: every refusal is counted, none is silent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, cause: str) -> int:
        """Count one; how often this cause came by now."""
        with self._lock:
            self._counts[cause] += 1
            return self._counts[cause]

    def snapshot(self, prefix: str = '') -> dict[str, int]:
        """Cause -> count."""
        with self._lock:
            return {f'{prefix}{cause}': n for cause, n in sorted(self._counts.items())}


class Percentiles:
    """The last N durations, in milliseconds; thread-safe."""

    def __init__(self, size: int = 256) -> None:
        self._lock = threading.Lock()
        self._values: deque[float] = deque(maxlen=size)

    def add(self, seconds: float) -> None:
        """Take one duration."""
        with self._lock:
            self._values.append(seconds * 1000.0)

    def snapshot(self, name: str) -> dict[str, str]:
        """`<name>_p50_ms` and `<name>_p99_ms`; empty before the first."""
        with self._lock:
            ordered = sorted(self._values)
        if not ordered:
            return {}
        last = len(ordered) - 1
        return {
            f'{name}_p{p}_ms': f'{ordered[round(p / 100 * last)]:.2f}' for p in (50, 99)
        }
