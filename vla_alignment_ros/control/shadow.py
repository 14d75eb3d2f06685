"""Another policy's actions, judged by ours: beside it (shadow) or before the robot (inline).

What the other policy wants comes as whole chunks (`~/action_chunk`'s layout) or as a stream of
single commands. A chunk is judged against the newest scene that it still has steps for. What a
stream wants shows only as it goes on, so it is judged against the scene in which it began.

No ROS and no torch in here. Times are stamps, ns. `OtherPolicy` is thread-safe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
import threading
from typing import Any, Protocol

import numpy as np

from vla_alignment_ros.control.codecs import checked_action, decode_chunk
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ConfigError, ControlError
from vla_alignment_ros.observation import ActionChunk, Observation

RATE_TOLERANCE = 0.02  # relative: a step of another length means another motion


class JudgementLike(Protocol):
    """What a judge answers."""

    chunk: ActionChunk
    vl_score: float
    action_score: float
    margin: float
    latency_s: float


class JudgeLike(Protocol):
    """What is needed of our own policy; `Policy` is one."""

    horizon: int

    def judge(
        self,
        observation: Observation,
        actions: np.ndarray,
        candidates: int = ...,
        seed: int | None = ...,
    ) -> JudgementLike: ...


@dataclass(frozen=True)
class Judgement:
    """What somebody else's actions are worth; a decision, for the pipeline."""

    chunk: ActionChunk  # what the other policy wants
    steps: int  # of it that were judged, at most H
    vl_score: float  # 0…1, calibrated: the sentence fits the scene
    action_score: float  # the verifier's cosine
    margin: float  # lead over the mean of our own candidates, over the same steps
    latency_s: float
    grounding: Mapping[str, Any] = field(default_factory=dict)

    def key_values(self) -> dict[str, str]:
        """Return the figures as text, for a diagnostic message."""
        return {
            'ts_ns': str(self.chunk.ts_ns),
            'instruction': self.chunk.instruction,
            'steps': str(self.steps),
            'vl_score': f'{self.vl_score:.6f}',
            'action_score': f'{self.action_score:.6f}',
            'margin': f'{self.margin:.6f}',
            'latency_s': f'{self.latency_s:.6f}',
        }


class OtherPolicy:
    """What another policy wants, as its messages arrive.

    Args:
        embodiment: both policies'; it says what an action means.
        keep: steps of a stream that are remembered, at least H.
    """

    def __init__(self, embodiment: Embodiment, keep: int = 64) -> None:
        self.embodiment = embodiment
        self.period_ns = round(1e9 / embodiment.rate_hz)
        self._lock = threading.Lock()
        self._chunk: ActionChunk | None = None
        self._commands: deque[tuple[int, np.ndarray]] = deque(maxlen=keep)

    def take_chunk(self, raw: bytes) -> None:
        """Take a whole chunk; the newest one counts.

        Raises:
            ControlError, WireError: it is not a chunk of this embodiment, at its control rate.
        """
        chunk = decode_chunk(self.embodiment, raw)
        if abs(chunk.rate_hz / self.embodiment.rate_hz - 1.0) > RATE_TOLERANCE:
            raise ControlError(
                f'the chunk has {chunk.rate_hz:g} steps per second, the embodiment '
                f'{self.embodiment.rate_hz:g}: resample it, a step means another motion'
            )
        if not np.isfinite(chunk.actions).all():
            raise ControlError('the chunk holds a value that is not finite')
        with self._lock:
            self._chunk = chunk

    def take_command(self, ts_ns: int, action: np.ndarray) -> None:
        """Take one command (7,) of a stream; one with an older stamp than the last begins anew.

        Raises:
            ControlError: it is not seven finite numbers.
        """
        action = checked_action(action)
        with self._lock:
            if self._commands and ts_ns < self._commands[-1][0]:
                self._commands.clear()  # time ran backwards: a restarted simulation
            if self._commands and ts_ns == self._commands[-1][0]:
                self._commands.pop()  # said again
            self._commands.append((ts_ns, action))

    def forget(self) -> None:
        """Forget everything that was wanted."""
        with self._lock:
            self._chunk = None
            self._commands.clear()

    def ahead(self, ts_ns: int) -> np.ndarray | None:
        """Steps (T, 7) of the newest chunk from ts_ns on; None where it has none for then."""
        with self._lock:
            chunk = self._chunk
        if chunk is None:
            return None
        passed = round((ts_ns - chunk.ts_ns) / self.period_ns)
        if not 0 <= passed < len(chunk.actions):
            return None
        return chunk.actions[passed:]

    def since(self, ts_ns: int) -> np.ndarray | None:
        """Commands (T, 7) of the stream for the steps from ts_ns on, as far as they are known.

        A step's command is the one stamped nearest to its beginning. None where the step that
        begins at ts_ns has none.
        """
        with self._lock:
            commands = list(self._commands)
        if not commands:
            return None
        stamps = np.array([stamp for stamp, _ in commands], np.int64)
        rows = []
        while len(rows) < len(commands):
            begin = ts_ns + len(rows) * self.period_ns
            nearest = int(np.abs(stamps - begin).argmin())
            if abs(int(stamps[nearest]) - begin) > self.period_ns // 2:
                break
            rows.append(commands[nearest][1])
        return np.array(rows) if rows else None

    def newest(self, ts_ns: int, max_age_s: float) -> np.ndarray | None:
        """The stream's last command for each step (T, 7) from ts_ns on that it counts for.

        A command counts until the next one, and for max_age_s at most; None where that is over.
        """
        with self._lock:
            last = self._commands[-1] if self._commands else None
        if last is None:
            return None
        left_ns = round(max_age_s * 1e9) - max(0, ts_ns - last[0])
        return np.tile(last[1], (1 + left_ns // self.period_ns, 1)) if left_ns >= 0 else None


class ShadowVerifier:
    """Scores what another policy does, and never moves anything. From one thread.

    Args:
        other: where its messages are taken.
        policy: our own, as the judge.
        candidates: chunks of our own that it is compared with.
        seed: of their noise; judgement n always draws the same.
        min_steps: steps of a stream that must be known before it is judged; None: H of them.
    """

    def __init__(
        self,
        other: OtherPolicy,
        policy: JudgeLike,
        candidates: int = 4,
        seed: int = 0,
        min_steps: int | None = None,
    ) -> None:
        if candidates < 1:
            raise ConfigError(f'candidates must be at least 1, got {candidates}')
        self.min_steps = policy.horizon if min_steps is None else min_steps
        if not 1 <= self.min_steps <= policy.horizon:
            raise ConfigError(f'min_steps must be 1…{policy.horizon}, got {min_steps}')
        self.other = other
        self.policy = policy
        self.judged = 0
        self._candidates, self._seed = candidates, seed
        # a scene is wanted until its chunk is whole
        self._seen: deque[Observation] = deque(maxlen=policy.horizon + 2)
        self._last: tuple[int, bytes] | None = None  # observation and actions of the last one

    def see(self, observation: Observation) -> None:
        """Take a new scene; where time runs backwards or the words change, the old ones go."""
        if self._seen:
            last = self._seen[-1]
            if observation.ts_ns < last.ts_ns or observation.instruction != last.instruction:
                self._seen.clear()
                self._last = None
        self._seen.append(observation)

    def judge(self) -> Judgement | None:
        """Judge the newest that can be and was not yet; None where nothing new is known.

        Raises what the judge raises.
        """
        for observation in reversed(self._seen):
            wanted = self.other.ahead(observation.ts_ns)
            if wanted is None:
                wanted = self.other.since(observation.ts_ns)
                if wanted is None or len(wanted) < self.min_steps:
                    continue
            wanted = wanted[: self.policy.horizon]
            known = (observation.ts_ns, np.asarray(wanted, np.float32).tobytes())
            if known == self._last:
                return None
            found = judged(
                self.policy, observation, wanted, self._candidates, self._seed + self.judged
            )
            self._last = known
            self.judged += 1
            return found
        return None


class ShadowPolicy:
    """A `ShadowVerifier` behind the interface of a policy: for a pipeline that sends nothing.

    Where nothing new can be judged it refuses to answer.
    """

    def __init__(self, verifier: ShadowVerifier) -> None:
        self.verifier = verifier

    def reset(self) -> None:
        """What the other policy does goes on, whatever is reset here."""

    def step(
        self,
        observation: Observation,
        candidates: int | None = None,
        seed: int | None = None,
        grounding: bool = False,
        plan: Any = None,
    ) -> Judgement:
        """Judge the newest that can be, once this observation is known too.

        Raises:
            ControlError: there is nothing new to judge.
        """
        self.verifier.see(observation)
        found = self.verifier.judge()
        if found is None:
            raise ControlError('the other policy has done nothing new that can be judged')
        return found


class InlinePolicy:
    """The other policy behind ours: a `DecisionPipeline` runs it in place of one of its own.

    It answers an observation with what the other policy wants from there on, and our scores of
    it; so gate, guard, plan and codec are the same as for our own actions. Where the other policy
    is silent, or its actions fall behind ours by too much, it refuses to answer: the caller holds.

    Args:
        other: where the other policy's messages are taken.
        policy: our own, as the judge.
        min_margin: of cosines, so −2 lets everything pass.
        max_age_s: how old the last command of a stream may be; None: two control periods.
    """

    def __init__(
        self,
        other: OtherPolicy,
        policy: JudgeLike,
        min_margin: float = -2.0,
        max_age_s: float | None = None,
    ) -> None:
        self.other, self.policy, self.min_margin = other, policy, min_margin
        self.max_age_s = 2e-9 * other.period_ns if max_age_s is None else max_age_s

    def reset(self) -> None:
        """What was wanted before a reset is not wanted after it."""
        self.other.forget()

    def step(
        self,
        observation: Observation,
        candidates: int = 1,
        seed: int | None = None,
        grounding: bool = False,
        plan: Any = None,
    ) -> Judgement:
        """Judge what is wanted from the observation on.

        grounding and plan are for policies that act themselves, and are refused.

        Raises:
            ControlError: the other policy is silent, or its margin is too low.
        """
        if grounding or plan is not None:
            raise ConfigError("another policy's actions have no grounding and go on from no plan")
        wanted = self.other.ahead(observation.ts_ns)
        if wanted is None:
            wanted = self.other.newest(observation.ts_ns, self.max_age_s)
        if wanted is None:
            raise ControlError('the other policy says nothing for this moment')
        found = judged(self.policy, observation, wanted, candidates, seed)
        if found.margin < self.min_margin:
            raise ControlError(
                f"the other policy's actions fit worse than our own by {-found.margin:.2f}"
            )
        return found


def judged(
    policy: JudgeLike,
    observation: Observation,
    wanted: np.ndarray,
    candidates: int,
    seed: int | None,
) -> Judgement:
    """What the actions (T, 7) that somebody wants from an observation on are worth."""
    answer = policy.judge(observation, wanted, candidates=candidates, seed=seed)
    chunk = replace(answer.chunk, actions=np.asarray(wanted, np.float32))
    return Judgement(
        chunk,
        len(answer.chunk.actions),
        answer.vl_score,
        answer.action_score,
        answer.margin,
        answer.latency_s,
    )
