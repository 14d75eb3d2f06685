"""Travel: how far the commands have moved the arm, so that a late measurement can be used."""

from __future__ import annotations

import numpy as np

KEPT_COMMANDS = 512  # at 50 Hz ten seconds: longer than any decision that is still executed


class Travel:
    """The way that was commanded, over time. Not thread-safe, no clock.

    A position that was measured before a decision is out of date by the time its chunk is
    executed: the arm went on. `since` says by how much, as far as commands can tell.

    Args:
        rate_hz: a command moves for one control period, and evenly.
        width: n, how many positions are followed.
    """

    def __init__(self, rate_hz: float, width: int = 3) -> None:
        self._period_ns = 1e9 / rate_hz
        # two points per command, its beginning and its end; twice the room, so that what is old
        # has to be thrown out but rarely
        self._times = np.empty(4 * KEPT_COMMANDS)  # ns
        self._ways = np.empty((4 * KEPT_COMMANDS, width))  # m or rad
        self.reset()

    def reset(self) -> None:
        """Forget every command."""
        self._origin_ns = 0  # times are kept from here: floats hold no nanoseconds since 1970
        self._count = 0

    def add(self, ts_ns: int, delta: np.ndarray) -> None:
        """Take the way (n,) of a command, for the control period that begins at ts_ns."""
        if not self._count:
            self._origin_ns = ts_ns
            self._times[0], self._ways[0] = 0.0, 0.0
            self._count = 1
        begin = float(ts_ns - self._origin_ns)
        last = self._times[self._count - 1]
        if begin < last - 2 * self._period_ns:  # the clock was set back
            self.reset()
            self.add(ts_ns, delta)
            return
        if self._count + 2 > len(self._times):
            kept = slice(self._count - 2 * KEPT_COMMANDS, self._count)
            self._times[: 2 * KEPT_COMMANDS] = self._times[kept].copy()
            self._ways[: 2 * KEPT_COMMANDS] = self._ways[kept].copy()
            self._count = 2 * KEPT_COMMANDS
        n = self._count
        self._times[n] = max(begin, last)
        self._ways[n] = self._ways[n - 1]
        self._times[n + 1] = max(begin + self._period_ns, last)
        self._ways[n + 1] = self._ways[n] + delta
        self._count = n + 2

    def since(self, ts_ns: int) -> np.ndarray:
        """Way (n,) that all commands together go on after ts_ns."""
        n = self._count
        if not n:
            return np.zeros(self._ways.shape[1])
        ways = self._ways[:n]
        at = float(ts_ns - self._origin_ns)
        then = [np.interp(at, self._times[:n], ways[:, axis]) for axis in range(ways.shape[1])]
        return ways[-1] - then
