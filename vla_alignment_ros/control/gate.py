"""AlignmentGate: whether the words match the scene well enough to move."""

from __future__ import annotations

import math

from vla_alignment_ros.errors import ConfigError

GO, SLOW, HOLD = 'go', 'slow', 'hold'
_ORDER = (HOLD, SLOW, GO)


class AlignmentGate:
    """go, slow or hold, from one alignment score per decision. Pure: its time is the stamps'.

    A new instruction starts over at `hold`; the robot does not move before the score has been at
    the go threshold or better `confirm` times in a row, so an instruction that names what is not
    there never starts a motion. A score that is not finite is `hold` at once, and asks for
    confirmation again. Who goes on holding for `help_s` because the score is low asks for help.

    Args:
        go_threshold: vision-language score (0..1) from which on the motion is free.
        hold_threshold: score below which the robot stands still; between the two it goes slowly.
        hysteresis: `go` is left only this far below its threshold, `hold` this far above its.
        confirm: decisions in a row at `go` before the first motion after an instruction.
        dwell: decisions in a row that ask for another state before it changes.
        help_s: seconds at `hold`, from the first to the newest decision, until `needs_help`.

    Raises ConfigError for thresholds that are out of order or out of 0..1.
    """

    def __init__(
        self,
        go_threshold: float,
        hold_threshold: float,
        hysteresis: float = 0.05,
        confirm: int = 2,
        dwell: int = 2,
        help_s: float = 3.0,
    ) -> None:
        if not 0.0 <= hold_threshold <= go_threshold <= 1.0:
            raise ConfigError(
                'gate thresholds must be 0 <= hold <= go <= 1, got hold '
                f'{hold_threshold}, go {go_threshold}'
            )
        if not 0.0 <= hysteresis <= 1.0:
            raise ConfigError(f'gate hysteresis must be within 0..1, got {hysteresis}')
        if confirm < 1 or dwell < 1:
            raise ConfigError(
                f'gate confirm and dwell count decisions, at least 1; got {confirm}, {dwell}'
            )
        if not help_s >= 0.0:
            raise ConfigError(f'gate help_s must not be negative, got {help_s}')
        self.go_threshold = float(go_threshold)
        self.hold_threshold = float(hold_threshold)
        self.hysteresis = float(hysteresis)
        self.confirm = confirm
        self.dwell = dwell
        self.help_s = float(help_s)
        self.reset()

    def reset(self) -> None:
        """Forget the instruction and everything scored for it."""
        self.state = HOLD
        self.admitted = False  # has motion been allowed for this instruction?
        self._instruction: str | None = None
        self._wished = HOLD  # the state that the latest updates ask for …
        self._count = 0  # … and how many in a row did
        self.interrupt()

    def interrupt(self) -> None:
        """Nothing is scored for a while, so nobody is to blame: `help_s` begins anew."""
        self.needs_help = ''  # why it does, in words for a person; empty: it does not
        self._held_since_ns: int | None = None

    def update(self, score: float, instruction: str, ts_ns: int) -> str:
        """Take the score (0..1) of the decision on an observation stamped ts_ns; the state."""
        if instruction != self._instruction:
            self.reset()
            self._instruction = instruction
        if not math.isfinite(score):
            self.state, self.admitted, self._count = HOLD, False, 0
        elif not self.admitted:
            self._count = self._count + 1 if score >= self.go_threshold else 0
            if self._count >= self.confirm:
                self.state, self.admitted, self._count = GO, True, 0
        else:
            self._follow(self._wish(score))
        self._ask_for_help(score, ts_ns)
        return self.state

    def _ask_for_help(self, score: float, ts_ns: int) -> None:
        if self.state != HOLD:
            self.interrupt()
            return
        if self._held_since_ns is None:
            self._held_since_ns = ts_ns
        needed = self._hold_end() if self.admitted else self.go_threshold
        low = not math.isfinite(score) or score < needed  # a good one only waits to be confirmed
        if low and (ts_ns - self._held_since_ns) * 1e-9 >= self.help_s:
            self.needs_help = (
                f"the scene does not seem to contain what '{self._instruction}' names "
                f'(score {score:.2f}, needs {needed:.2f})'
            )

    def _hold_end(self) -> float:
        """Score from which on a hold after the first motion ends."""
        return min(self.hold_threshold + self.hysteresis, self.go_threshold)

    def _wish(self, score: float) -> str:
        go = self.go_threshold - (self.hysteresis if self.state == GO else 0.0)
        hold = self._hold_end() if self.state == HOLD else self.hold_threshold
        if score >= go:
            return GO
        return SLOW if score >= hold else HOLD

    def _follow(self, wished: str) -> None:
        if wished == self.state:
            self._count = 0
            return
        # evidence for moving in one direction adds up, whichever state exactly it asks for
        lower = _ORDER.index(wished) < _ORDER.index(self.state)
        same_way = self._count and lower == (_ORDER.index(self._wished) < _ORDER.index(self.state))
        self._count = self._count + 1 if same_way else 1
        self._wished = wished
        if self._count >= self.dwell:
            self.state, self._count = wished, 0
