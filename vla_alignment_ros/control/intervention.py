"""Intervention: whether a person drives, and what they want now."""

from __future__ import annotations

from collections.abc import Callable
import threading

import numpy as np

from vla_alignment_ros.control.codecs import checked_action
from vla_alignment_ros.errors import ConfigError

NS = 1_000_000_000


class Intervention:
    """A person drives from a command of theirs on, until they have been silent for a while.

    Thread-safe. Times are of the steady clock, ns. `wish` is to be asked every control period:
    it is there that a person takes over and lets go.

    Args:
        timeout_s: a command counts for so long; older than that it is silence.
        changed: is told when a person takes over (True) and lets go (False), and False whenever
            it begins anew. It must not call back.

    Raises ConfigError for a timeout that is not above 0.
    """

    def __init__(
        self, timeout_s: float, changed: Callable[[bool], None] = lambda drives: None
    ) -> None:
        if not timeout_s > 0.0:
            raise ConfigError(f'intervention_timeout_s must be above 0, got {timeout_s}')
        self.timeout_s = timeout_s
        self.take_overs = 0
        self._timeout_ns = round(timeout_s * NS)
        self._changed = changed
        self._lock = threading.Lock()
        self._driven_ns = 0  # by persons who have let go
        self._since_ns: int | None = None  # when the one who drives took over
        self._newest: tuple[int, np.ndarray] | None = None  # when it came, action (7,)

    @property
    def drives(self) -> bool:
        """Whether a person had the arm when that was last asked."""
        return self._since_ns is not None

    def begin(self) -> None:
        """Nobody drives, and that is told; the counts go on."""
        with self._lock:
            self._since_ns = self._newest = None
            self._changed(False)

    def end(self, now_ns: int) -> None:
        """Whoever drives lets go."""
        with self._lock:
            self._let_go(now_ns)

    def take(self, action: np.ndarray, now_ns: int) -> None:
        """Take a person's command (7,). Raises ControlError where it is not finite."""
        action = checked_action(action)
        with self._lock:
            self._newest = now_ns, action

    def wish(self, now_ns: int) -> np.ndarray | None:
        """Return what the person who drives wants (7,); None where nobody does."""
        with self._lock:
            if self._newest is not None and now_ns - self._newest[0] <= self._timeout_ns:
                if self._since_ns is None:
                    self._since_ns = now_ns
                    self.take_overs += 1
                    self._changed(True)
                return self._newest[1]
            self._let_go(now_ns)
            return None

    def driven_s(self, now_ns: int) -> float:
        """Seconds that persons have driven so far."""
        with self._lock:
            since_ns = now_ns if self._since_ns is None else self._since_ns
            return (self._driven_ns + now_ns - since_ns) / NS

    def key_values(self, now_ns: int) -> dict[str, str]:
        """Return the counts as text, for a diagnostic message."""
        return {
            'driver': 'person' if self.drives else 'policy',
            'take_overs': str(self.take_overs),
            'driven_s': f'{self.driven_s(now_ns):.1f}',
        }

    def _let_go(self, now_ns: int) -> None:
        if self._since_ns is not None:
            self._driven_ns += now_ns - self._since_ns
            self._since_ns = self._newest = None
            self._changed(False)
