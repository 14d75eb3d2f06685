"""Policies that tests script: what they answer, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
import threading

import numpy as np

from vla_alignment_ros.observation import ActionChunk, Observation

PATIENCE_S = 30.0


@dataclass
class Answer:
    """A decision; what no test looks at is zero."""

    chunk: ActionChunk
    vl_score: float
    action_score: float = 0.0
    margin: float = 0.0
    grounding: dict = field(default_factory=dict)
    latency_s: float = 0.0


def answer(observation: Observation, actions: np.ndarray, score: float) -> Answer:
    """Actions (H, 7) for an observation, at 10 Hz."""
    chunk = ActionChunk(observation.ts_ns, actions, 10.0, observation.instruction)
    return Answer(chunk, score)


class ScriptedPolicy:
    """Answers every observation with the same action and a score that the test sets.

    While `free` is clear it does not come to an answer; `entered` says that it was asked.
    """

    def __init__(self, action=(0.02, 0, 0, 0, 0, 0, 1), score=0.9, horizon=4):
        self.action, self.score, self.horizon = action, score, horizon
        self.seeds: list[int] = []
        self.plans: list = []  # of those that were given one
        self.resets = 0
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()

    def reset(self):
        self.resets += 1

    def step(self, observation, candidates=1, seed=None, plan=None):
        self.seeds.append(seed)
        self.plans.append(plan)
        self.entered.set()
        assert self.free.wait(PATIENCE_S)
        actions = np.tile(np.asarray(self.action, np.float32), (self.horizon, 1))
        return answer(observation, actions, self.score)
