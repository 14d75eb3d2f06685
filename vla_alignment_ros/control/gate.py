"""AlignmentGate: whether the words match the scene well enough to move."""

from __future__ import annotations

import math

from vla_alignment_ros.errors import ConfigError

GO, SLOW, HOLD = 'go', 'slow', 'hold'
_ORDER = (HOLD, SLOW, GO)


class AlignmentGate:
    """go, slow or hold, from one alignment score per decision. Pure: counts updates, no clock.

    A new instruction starts over at `hold`; the robot does not move before the score has been at
    the go threshold or better `confirm` times in a row, so an instruction that names what is not
    there never starts a motion. A score that is not finite is `hold` at once, and asks for
    confirmation again.

    Args:
        go_threshold: vision-language score (0..1) from which on the motion is free.
        hold_threshold: score below which the robot stands still; between the two it goes slowly.
        hysteresis: `go` is left only this far below its threshold, `hold` this far above its.
        confirm: decisions in a row at `go` before the first motion after an instruction.
        dwell: decisions in a row that ask for another state before it changes.

    Raises ConfigError for thresholds that are out of order or out of 0..1.
    """

    def __init__(
        self,
        go_threshold: float,
        hold_threshold: float,
        hysteresis: float = 0.05,
        confirm: int = 2,
        dwell: int = 2,
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
        self.go_threshold = float(go_threshold)
        self.hold_threshold = float(hold_threshold)
        self.hysteresis = float(hysteresis)
        self.confirm = confirm
        self.dwell = dwell
        self.reset()

    def reset(self) -> None:
        """Forget the instruction and everything scored for it."""
        self.state = HOLD
        self.admitted = False  # has motion been allowed for this instruction?
        self.updates_in_hold = 0  # in a row, since the instruction or the last motion
        self._instruction: str | None = None
        self._wished = HOLD  # the state that the latest updates ask for …
        self._count = 0  # … and how many in a row did

    def update(self, score: float, instruction: str) -> str:
        """Take the score (0..1) of one decision for an instruction; return the state."""
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
        self.updates_in_hold = self.updates_in_hold + 1 if self.state == HOLD else 0
        return self.state

    def _wish(self, score: float) -> str:
        go = self.go_threshold - (self.hysteresis if self.state == GO else 0.0)
        hold = self.hold_threshold
        if self.state == HOLD:
            hold = min(hold + self.hysteresis, self.go_threshold)
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
