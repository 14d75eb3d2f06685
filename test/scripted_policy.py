"""What a policy answers, for policies that tests script."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from vla_alignment_ros.observation import ActionChunk, Observation


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
