"""ChunkExecutor: which action is due now, out of the chunks that were decided."""

from __future__ import annotations

import math

import numpy as np

from vla_alignment_ros.control.codecs import GRIPPER
from vla_alignment_ros.embodiment import ACTION_DIM
from vla_alignment_ros.errors import ConfigError, ControlError
from vla_alignment_ros.observation import ActionChunk


class ChunkExecutor:
    """Plays chunks at the control rate. Pure: the caller gives the time; not thread-safe.

    Row i of a chunk is meant for the control period that begins i/rate_hz after the stamp of the
    observation it answers; next() takes the row whose period is nearest to now, so steps that
    passed during inference are dropped, and a tick that jitters by less than half a period
    neither repeats a step nor skips one.

    Args:
        rate_hz: the control rate; chunks of another rate are refused.
        ensemble: temporal ensembling (ACT, arXiv:2304.13705): the mean over all chunks that have
            a row for now, with weights exp(-decay * i), i = 0 for the oldest. Off: newest only.
        decay: the larger, the more the oldest chunk counts.
        gripper_index: this dimension comes from the newest chunk even when ensembling, because
            the mean of open and closed is neither; None where there is no gripper.

    Raises ConfigError for a rate or decay that makes no sense.
    """

    def __init__(
        self,
        rate_hz: float,
        ensemble: bool = False,
        decay: float = 0.01,
        gripper_index: int | None = GRIPPER,
    ) -> None:
        if not rate_hz > 0:
            raise ConfigError(f'rate_hz must be above 0, got {rate_hz}')
        if not np.isfinite(decay):
            raise ConfigError(f'decay must be finite, got {decay}')
        self.rate_hz = float(rate_hz)
        self.ensemble = ensemble
        self.decay = decay
        self.gripper_index = gripper_index
        self._period_ns = 1e9 / self.rate_hz
        self.flush()

    @property
    def instruction(self) -> str | None:
        """The instruction that the chunks answer; None until one is known."""
        return self._instruction

    def flush(self) -> None:
        """Forget every chunk and the instruction."""
        self._instruction: str | None = None
        self._pinned = False
        self._chunks: list[ActionChunk] = []  # oldest stamp first

    def set_instruction(self, instruction: str) -> None:
        """From now on only chunks that answer this instruction count; others are flushed."""
        self._pinned = True
        if instruction != self._instruction:
            self._chunks = []
            self._instruction = instruction

    def submit(self, chunk: ActionChunk) -> bool:
        """Plan a chunk in; a chunk with the same stamp replaces the older one.

        A chunk for another instruction flushes what was planned, unless set_instruction() said
        which one counts: then it came too late and is dropped. Returns whether it was taken.

        Raises ControlError for a wrong shape, values that are not finite, or another rate.
        """
        actions = np.asarray(chunk.actions)
        if actions.ndim != 2 or actions.shape[1] != ACTION_DIM:
            raise ControlError(f'a chunk has shape (H, {ACTION_DIM}), got {actions.shape}')
        if not np.isfinite(actions).all():
            raise ControlError('a chunk must be finite: let ActionGuard.check() judge it first')
        if abs(chunk.rate_hz - self.rate_hz) > 1e-6 * self.rate_hz:
            raise ControlError(
                f'chunk has steps of {chunk.rate_hz} Hz, the executor runs at {self.rate_hz} Hz: '
                'use a checkpoint of that control rate'
            )
        if chunk.instruction != self._instruction:
            if self._pinned:
                return False
            self._chunks = []
            self._instruction = chunk.instruction
        kept = [c for c in self._chunks if c.ts_ns != chunk.ts_ns]
        self._chunks = sorted([*kept, chunk], key=lambda c: c.ts_ns)
        return True

    def next(self, now_ns: int) -> np.ndarray | None:
        """Return the action (7,) float64 due at now_ns, or None: nothing is planned, so hold.

        now_ns is on the clock of the chunks' stamps. Chunks that have run out are forgotten.
        """
        self._chunks = [c for c in self._chunks if self._row(c, now_ns) < len(c.actions)]
        # a stamp ahead of now is another clock, or this one was set back: not for this moment
        live = [c for c in self._chunks if self._row(c, now_ns) >= 0]
        if not live:
            return None
        rows = np.array([c.actions[self._row(c, now_ns)] for c in live], dtype=np.float64)
        newest = rows[-1]
        if not self.ensemble or len(rows) == 1:
            return newest
        weights = np.exp(-self.decay * np.arange(len(rows)))
        action = weights @ rows / weights.sum()
        if self.gripper_index is not None:
            action[self.gripper_index] = newest[self.gripper_index]
        return action

    def remaining(self, now_ns: int) -> int:
        """How many steps, the one due now included, the newest chunk still has."""
        if not self._chunks:
            return 0
        newest = self._chunks[-1]
        return max(0, len(newest.actions) - max(0, self._row(newest, now_ns)))

    def _row(self, chunk: ActionChunk, now_ns: int) -> int:
        return math.floor((now_ns - chunk.ts_ns) / self._period_ns + 0.5)
