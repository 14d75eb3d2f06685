"""The one way out for commands: open while a loop serves, shut for good once it was stopped."""

from __future__ import annotations

from collections.abc import Callable
import threading
import time
from typing import Any

import numpy as np

from vla_alignment_ros.control.decisions import Command

STOP_STEPS = 50  # at most so many commands to come to rest


class CommandOutlet:
    """Lets commands out while it is open. Thread-safe: once `shut` returns, nothing follows.

    Args:
        send: publishes a command; what it raises reaches whoever emits.
    """

    def __init__(self, send: Callable[[Command], None]) -> None:
        self.last: Command | None = None  # whether it could be sent or not
        self.sent_ns = 0  # steady: the last answer, or the opening
        self._answer: Command | None = None  # to the last observation
        self._send = send
        self._open = False
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether commands go out."""
        return self._open

    def open(self) -> None:
        """Let commands out, and know of no earlier ones."""
        with self._lock:
            self.sent_ns = time.monotonic_ns()
            self.last = self._answer = None
            self._open = True

    def shut(self) -> bool:
        """Let nothing out any more; whether it was open."""
        with self._lock:
            was, self._open = self._open, False
        return was

    def emit(self, command: Command, answers: bool = True) -> None:
        """Send a command. answers: it is what `repeat` says again, and ends a silence.

        One that answers an earlier instruction than the last command did came too late.
        """
        with self._lock:
            if not self._open or self._is_outdated(command):
                return
            self.last = command
            if answers:
                self._answer = command
                self.sent_ns = time.monotonic_ns()
            self._send(command)

    def rest(self, brake: Callable[[int], Command], period_s: float) -> None:
        """Send brake(0), brake(1), … although the outlet is shut, until the arm holds."""
        previous = None
        pause = threading.Event()  # never set: a paced wait, not a sleep on the executor
        for step in range(STOP_STEPS):
            command = brake(step)
            with self._lock:
                self.last = command
                self._send(command)
            if command.action is None or np.array_equal(command.action, previous):
                return
            previous = command.action
            pause.wait(period_s)

    def repeat(self) -> None:
        """Send the last answer again, if there is one."""
        with self._lock:
            if self._open and self._answer is not None:
                self.sent_ns = time.monotonic_ns()
                self._send(self._answer)

    def tell(self, function: Callable[[Any], None], value: Any) -> None:
        """Call function(value), but never once it is shut."""
        with self._lock:
            if self._open:
                function(value)

    def _is_outdated(self, command: Command) -> bool:
        return self.last is not None and command.instruction_id < self.last.instruction_id
