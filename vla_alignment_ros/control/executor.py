"""ChunkExecutor: which action is due now, out of the chunks that were decided."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
import math

import numpy as np

from vla_alignment_ros.control.codecs import GRIPPER
from vla_alignment_ros.control.continuation import Continuation
from vla_alignment_ros.embodiment import ACTION_DIM
from vla_alignment_ros.errors import ConfigError, ControlError
from vla_alignment_ros.observation import ActionChunk

EXECUTIONS = NEWEST, ENSEMBLE, REALTIME = ('newest', 'ensemble', 'realtime')
DELAYS = 32  # chunks whose delay is remembered
DELAY_QUANTILE = 0.9  # of them, so that one slow decision does not freeze half a chunk
UNTOLD = -1  # below any row: stands for ActionChunk.frozen is None
WARM_UP_CHUNKS = 2  # the first ones after a reset are slow for reasons that do not come again


@dataclass(frozen=True)
class _Plan:
    """The chunk that is being played."""

    number: int
    start_ns: int
    actions: np.ndarray  # (H, 7)


class ChunkExecutor:
    """Plays chunks at the control rate. Pure: the caller gives the time; not thread-safe.

    Row i of a chunk is meant for the control period that begins i/rate_hz after the stamp of the
    observation it answers; next() takes the row whose period is nearest to now, so steps that
    passed during inference are dropped, and a tick that jitters by less than half a period
    neither repeats a step nor skips one.

    Where several chunks have a row for now, `execution` says what is played:

    * ``newest``: the newest chunk alone;
    * ``ensemble``: temporal ensembling (ACT, arXiv:2304.13705): the mean over all of them, with
      weights exp(-decay * i), i = 0 for the oldest;
    * ``realtime``: the newest chunk as a continuation of the plan that is being played (real-time
      chunking, arXiv:2506.07339). A policy that is told the plan (`ahead`) freezes and blends by
      itself, so that its chunk is whole; where it was not told, or took longer than expected, the
      chunk is blended in here, from the first row that is played of it.

    Args:
        rate_hz: the control rate; chunks of another rate are refused.
        execution: see above.
        decay: the larger, the more the oldest chunk counts in an ensemble.
        gripper_index: this dimension is never a mean, because the mean of open and closed is
            neither; None where there is no gripper.

    Raises ConfigError for a rate, an execution or a decay that makes no sense.
    """

    def __init__(
        self,
        rate_hz: float,
        execution: str = NEWEST,
        decay: float = 0.01,
        gripper_index: int | None = GRIPPER,
    ) -> None:
        if not rate_hz > 0:
            raise ConfigError(f'rate_hz must be above 0, got {rate_hz}')
        if execution not in EXECUTIONS:
            raise ConfigError(
                f'execution must be one of {", ".join(EXECUTIONS)}, got {execution!r}'
            )
        if not np.isfinite(decay):
            raise ConfigError(f'decay must be finite, got {decay}')
        self.rate_hz = float(rate_hz)
        self.execution = execution
        self.decay = decay
        self.gripper_index = gripper_index
        self._period_ns = 1e9 / self.rate_hz
        self.reset()

    @property
    def delay_steps(self) -> int:
        """Control periods from an observation's stamp until its chunk is first played.

        A quantile of what was measured lately, on the clock of stamps and commands: everything
        counts that lies between the two (transport, waiting, inference), and in lock-step,
        where time stands still meanwhile, it is 0.
        """
        if not self._delays:
            return 0
        return math.ceil(np.quantile(self._delays, DELAY_QUANTILE))

    def reset(self) -> None:
        """Forget every chunk, and how long decisions take."""
        self._delays: deque[int] = deque(maxlen=DELAYS)
        self._warm_up = WARM_UP_CHUNKS
        self._submitted = 0
        self.flush()

    def flush(self) -> None:
        """Forget every chunk."""
        self._actions = np.zeros((0, 0, ACTION_DIM))  # (N, longest H, 7), oldest stamp first
        self._starts = np.zeros(0, np.int64)  # (N,) ns: when row 0 is due
        self._lengths = np.zeros(0, np.int64)  # (N,) rows
        self._frozen = np.zeros(0, np.int64)  # (N,) rows; UNTOLD: does not know of the plan
        self._numbers = np.zeros(0, np.int64)  # (N,) what tells them apart
        self._plan: _Plan | None = None  # what next() gave last came from here …
        self._played_ns = 0  # … and was for this moment

    def submit(self, chunk: ActionChunk) -> None:
        """Plan a chunk in that ActionGuard.check() let pass; the same stamp again replaces.

        Raises ControlError for another rate.
        """
        if abs(chunk.rate_hz - self.rate_hz) > 1e-6 * self.rate_hz:
            raise ControlError(
                f'chunk has steps of {chunk.rate_hz} Hz, the executor runs at {self.rate_hz} Hz: '
                'use a checkpoint of that control rate'
            )
        start = chunk.ts_ns if self.execution != REALTIME else self._on_grid(chunk.ts_ns)
        self._keep(self._starts != start)
        place = int(np.searchsorted(self._starts, start))
        rows = len(chunk.actions)
        before = self._actions
        self._actions = np.zeros((len(before) + 1, max(rows, before.shape[1]), ACTION_DIM))
        self._actions[:place, : before.shape[1]] = before[:place]
        self._actions[place + 1 :, : before.shape[1]] = before[place:]
        self._actions[place, :rows] = chunk.actions
        self._starts = np.insert(self._starts, place, start)
        self._lengths = np.insert(self._lengths, place, rows)
        frozen = UNTOLD if chunk.frozen is None else chunk.frozen
        self._frozen = np.insert(self._frozen, place, frozen)
        self._submitted += 1
        self._numbers = np.insert(self._numbers, place, self._submitted)

    def next(self, now_ns: int) -> np.ndarray | None:
        """Return the action (7,) float64 due at now_ns, or None: nothing is planned, so hold.

        now_ns is on the clock of the chunks' stamps. Chunks that have run out are forgotten.
        """
        rows = self._rows(now_ns)
        left = rows < self._lengths
        if not left.all():
            self._keep(left)
            rows = rows[left]
        # a stamp ahead of now is another clock, or this one was set back: not for this moment
        live = np.flatnonzero(rows >= 0)
        if not live.size:
            return None
        newest = int(live[-1])
        row = int(rows[newest])
        if self._plan is None or self._plan.number != self._numbers[newest]:
            self._take_over(newest, row, now_ns)
        self._played_ns = now_ns
        action = self._actions[newest, row].copy()
        if self.execution == ENSEMBLE and live.size > 1:
            weights = np.exp(-self.decay * np.arange(live.size))
            mean = weights @ self._actions[live, rows[live]] / weights.sum()
            if self.gripper_index is not None:
                mean[self.gripper_index] = action[self.gripper_index]
            action = mean
        return action

    def ahead(self, ts_ns: int) -> Continuation | None:
        """What is planned for the steps from an observation's stamp on; None: nothing is.

        Aligned by time: a step that is skipped does not shift it. A chunk that was submitted since
        the last step is what is planned, though nothing of it has been played yet.
        """
        start_ns = self._on_grid(ts_ns)
        return self._rest(self._coming(start_ns), start_ns, self.delay_steps)

    # -- inside ---------------------------------------------------------------------------------

    def _rows(self, now_ns: int) -> np.ndarray:
        return np.floor((now_ns - self._starts) / self._period_ns + 0.5).astype(np.int64)

    def _keep(self, which: np.ndarray) -> None:
        """Forget the chunks for which (N,) bool is False."""
        self._actions, self._starts = self._actions[which], self._starts[which]
        self._lengths, self._frozen = self._lengths[which], self._frozen[which]
        self._numbers = self._numbers[which]

    def _on_grid(self, ts_ns: int) -> int:
        """The step of the plan being played that is nearest to ts_ns; ts_ns where none is played.

        Two chunks whose stamps are not whole periods apart would round to different steps.
        """
        if self._plan is None:
            return ts_ns
        steps = math.floor((ts_ns - self._plan.start_ns) / self._period_ns + 0.5)
        return self._plan.start_ns + round(steps * self._period_ns)

    def _coming(self, now_ns: int) -> _Plan | None:
        """The plan that is played from now_ns on."""
        rows = self._rows(now_ns)
        live = np.flatnonzero((rows >= 0) & (rows < self._lengths))
        if not live.size:
            return self._plan
        newest = int(live[-1])
        if self._plan is not None and self._plan.number == self._numbers[newest]:
            return self._plan
        return self._following(newest, int(rows[newest]), now_ns)

    def _rest(self, plan: _Plan | None, start_ns: int, frozen: int) -> Continuation | None:
        """A plan from start_ns (a step of it) on."""
        if plan is None:
            return None
        first = round((start_ns - plan.start_ns) / self._period_ns)
        if not 0 <= first < len(plan.actions):
            return None
        rest = plan.actions[first:]
        return Continuation(rest.astype(np.float32), min(frozen, len(rest)))

    def _take_over(self, index: int, row: int, now_ns: int) -> None:
        """From `row` on this chunk is played instead of another; called once for each chunk."""
        if self._warm_up:
            self._warm_up -= 1
        else:
            self._delays.append(row)
        self._plan = self._following(index, row, now_ns)
        self._actions[index, : self._lengths[index]] = self._plan.actions

    def _following(self, index: int, row: int, now_ns: int) -> _Plan:
        """A chunk as it goes on from the plan being played, from `row` on."""
        start_ns = int(self._starts[index])
        actions = self._actions[index, : self._lengths[index]]
        moving = abs(now_ns - self._played_ns) < 1.5 * self._period_ns  # else there is no seam
        if self.execution == REALTIME and moving and self._frozen[index] < row:
            rest = self._rest(self._plan, start_ns, row)
            if rest is not None:
                actions = rest.blend(actions, self.gripper_index)
        return _Plan(int(self._numbers[index]), start_ns, actions)
