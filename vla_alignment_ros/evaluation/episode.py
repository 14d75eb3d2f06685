"""Follows one episode step by step and tells when it is over and what it came to.

The in-process rollout and the closed loop over ROS feed the same tracker, so that both end an
episode at the same step and count it by the same rules.
"""
from __future__ import annotations

from dataclasses import dataclass

from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.evaluation.results import ABSENT, EpisodeResult, is_refusal
from vla_alignment_ros.evaluation.smoothness import Smoothness
from vla_alignment_ros.evaluation.stats import median

HOLD = 'hold'


@dataclass(frozen=True)
class EpisodeLimits:
    """When an episode ends without success."""

    max_steps: int = 120  # control steps: 12 s at 10 Hz, three to five times the expert
    hold_steps: int = 30  # consecutive steps for which the gate holds: 3 s at 10 Hz

    def __post_init__(self) -> None:
        for name in ('max_steps', 'hold_steps'):
            if getattr(self, name) < 1:
                raise ConfigError(f'{name} must be at least 1, got {getattr(self, name)}')


@dataclass(frozen=True)
class Scene:
    """Which episode this is: what `sample_episode(seed, split)` drew."""

    index: int
    seed: int
    split: str
    task: str
    instruction: str
    target: str


@dataclass(frozen=True)
class Decided:
    """What the policy said at one step."""

    ts_ns: int
    instruction: str
    vl_score: float
    gate: str  # 'go', 'slow' or 'hold'
    latency_s: float


@dataclass(frozen=True)
class Stepped:
    """What the world looked like after that step."""

    steps: int
    success: bool
    wrong_moved: bool  # an object that was not named was lifted or moved far
    touched: tuple[str, ...]
    displaced_m: float


class EpisodeTracker:
    """One episode, fed by `tick` once per control step until `end` is no longer None."""

    def __init__(self, scene: Scene, limits: EpisodeLimits, rate_hz: float) -> None:
        self.scene = scene
        self.limits = limits
        self.rate_hz = rate_hz
        self.end: str | None = None
        self._decided: list[Decided] = []
        self._last = Stepped(0, False, False, (), 0.0)
        self._steps = 0
        self._held = 0  # consecutive steps

    @property
    def steps(self) -> int:
        return self._steps

    def tick(self, decided: Decided | None, stepped: Stepped) -> str | None:
        """Take one step into account; return why the episode is over, or None while it runs.

        decided: None where no decision ended in this step, so that the one before still holds.
        """
        if self.end is not None:
            return self.end
        self._steps += 1
        if decided is not None:
            self._decided.append(decided)
        self._last = stepped
        held = bool(self._decided) and self._decided[-1].gate == HOLD
        self._held = self._held + 1 if held else 0
        if stepped.success and self.scene.split != ABSENT:
            self.end = 'success'
        elif self._held >= self.limits.hold_steps:
            self.end = HOLD
        elif self.steps >= self.limits.max_steps:
            self.end = 'limit'
        return self.end

    def result(self, wall_s: float, motion: Smoothness | None = None) -> EpisodeResult:
        """Sum the episode up. RuntimeError while it still runs."""
        if self.end is None:
            raise RuntimeError('the episode has not ended yet')
        last = self._last
        refused = is_refusal(self.end, last.touched, last.displaced_m)
        scene = self.scene
        return EpisodeResult(
            index=scene.index,
            seed=scene.seed,
            split=scene.split,
            task=scene.task,
            instruction=scene.instruction,
            target=scene.target,
            success=refused if scene.split == ABSENT else self.end == 'success',
            wrong_object=last.wrong_moved or any(t != scene.target for t in last.touched),
            wrong_moved=last.wrong_moved,
            refused=refused,
            end=self.end,
            steps=self.steps,
            duration_s=self.steps / self.rate_hz,
            wall_s=wall_s,
            touched=last.touched,
            displaced_m=last.displaced_m,
            scores=tuple(d.vl_score for d in self._decided),
            gates=tuple(d.gate for d in self._decided),
            latency_s=median([d.latency_s for d in self._decided]),
            motion=motion,
        )
