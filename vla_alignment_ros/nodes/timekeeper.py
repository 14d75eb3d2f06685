"""What the node's clock says, and whether it runs at all: simulated time may not."""

from __future__ import annotations


class TimeKeeper:
    """Remembers the newest time that the node's clock said, and since when it says so."""

    def __init__(self) -> None:
        self.now_ns: int | None = None  # None before it was asked at all
        self._since_ns = 0  # steady

    def note(self, now_ns: int, steady_ns: int) -> None:
        """Take the node's time, and the steady time with it."""
        if now_ns != self.now_ns:
            self.now_ns, self._since_ns = now_ns, steady_ns

    def trouble(self, steady_ns: int, patience_ns: int) -> str:
        """Why nothing that waits for this clock happens, in words; empty while it runs.

        patience_ns: for so long on the steady clock it may say the same.
        """
        if self.now_ns == 0:  # what ROS says for want of a simulation's time
            return 'use_sim_time is set, but nothing has come on /clock yet'
        still_ns = steady_ns - self._since_ns
        if still_ns > patience_ns:
            return f'time has stood still for {still_ns * 1e-9:.0f} s: nothing comes on /clock'
        return ''
