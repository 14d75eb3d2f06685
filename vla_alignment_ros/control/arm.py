"""GuardedArm: the last station of every command, whoever it comes from.

A policy and a person move the same arm through the same guard, so that one takes over from the
other within the limits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_alignment_ros.control.codecs import make_codec
from vla_alignment_ros.control.guard import ActionGuard
from vla_alignment_ros.control.limits import unguarded
from vla_alignment_ros.control.travel import Travel
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ControlError


@dataclass(frozen=True)
class Sent:
    """One command as it leaves: within the limits; a step of the stop where a wish is refused."""

    messages: dict[str, bytes]  # in the order in which they are to be published
    action: np.ndarray | None  # (7,) float64; None: where to hold is not known yet
    clipped: bool = False
    refused: str | None = None


class GuardedArm:
    """Guard, codec, and where what is bounded is, of one arm. Not thread-safe, no clock.

    Raises what `make_codec` and `ActionGuard` raise for an embodiment that cannot be commanded.
    """

    def __init__(self, embodiment: Embodiment) -> None:
        self.embodiment = embodiment
        self.codec = make_codec(embodiment)
        self.guard = ActionGuard(embodiment)
        bounded = self.guard.bounded
        # what is bounded, where its measured position is in the state
        self._bounded = None if bounded is None or bounded.first is None else bounded
        self._travel = Travel(embodiment.rate_hz, len(bounded.low) if bounded else 0)
        # when it was measured, and the state (S,) then, until a command has used it
        self._seen: tuple[int, np.ndarray] | None = None

    @property
    def unguarded(self) -> str:
        """Limits of the embodiment that cannot be kept, and why; empty where all are."""
        return unguarded(self.embodiment, self.guard.bounded)

    def forget(self) -> None:
        """Forget what was measured and the way since; the motion goes on."""
        self._travel.reset()
        self._seen = None

    def see(self, ts_ns: int, state: np.ndarray) -> None:
        """Take where the arm was measured to be at ts_ns, (S,) Observation.state."""
        self._seen = ts_ns, state

    def step(self, ts_ns: int, wish: np.ndarray, speed: float = 1.0) -> Sent:
        """Command what comes nearest to a wish (7,) in the control step that begins at ts_ns.

        speed: 0..1, share of the motion that is wanted (the gripper is not slowed).
        """
        step = self.guard.step(wish, self._measured(), speed)
        if step.action is None:
            return self._leave(ts_ns, step.refused)
        return self._sent(ts_ns, step.action, step.clipped, step.refused)

    def stop(self, ts_ns: int) -> Sent:
        """Command the next step of a stop, at last the hold."""
        if not self.guard.knows_hold:
            return self._leave(ts_ns, None)
        return self._sent(ts_ns, self.guard.decelerate())

    # -- inside ---------------------------------------------------------------------------------

    def _leave(self, ts_ns: int, refused: str | None) -> Sent:
        """A command to stay, where the arm is not known."""
        try:
            messages = self.codec.hold(ts_ns)
        except ControlError:  # a command that names positions: better none than a guess
            messages = {}
        return Sent(messages, None, refused=refused)

    def _sent(self, ts_ns: int, action: np.ndarray, *how: bool | str | None) -> Sent:
        if self._bounded is not None:
            self._travel.add(ts_ns, action[: len(self._bounded.low)] * self._bounded.way)
        return Sent(self.codec.encode(action, ts_ns), action, *how)

    def _measured(self) -> np.ndarray | None:
        """Where what is bounded is now (n,), from the state that was seen last.

        What was commanded since that state was measured is added. None where the state does not
        have it, and where it was used before: later steps go on from what is commanded.
        """
        seen, self._seen = self._seen, None
        if seen is None or self._bounded is None:
            return None
        ts_ns, state = seen
        return self._bounded.measured(state) + self._travel.since(ts_ns)
