"""A thread that calls a function at a fixed rate, on the steady clock, whatever callbacks do."""

from __future__ import annotations

from collections.abc import Callable
import threading
import time


class Ticker:
    """Calls `function` once per period until closed; periods that were missed are left out.

    A period is never shorter than it should be: what is limited per period stays limited per
    second.

    Args:
        period_s: between two calls.
        function: must not raise; one that lasts longer than a period misses some.
    """

    def __init__(self, period_s: float, function: Callable[[], None]) -> None:
        self.missed = 0
        self._period_s, self._function = period_s, function
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name='ticker', daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; returns when the last call has ended."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        due_s = time.monotonic()
        while not self._closing.wait(max(0.0, due_s - time.monotonic())):
            begun_s = time.monotonic()
            self.missed += int((begun_s - due_s) / self._period_s)
            self._function()
            due_s = max(due_s, begun_s) + self._period_s
