"""What is planned already, for the chunk that is to go on from it without a jump."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_alignment_ros.embodiment import ACTION_DIM


@dataclass(frozen=True)
class Continuation:
    """The rest of a plan, from the stamp of an observation on.

    Real-time chunking (Black, Galliker, Levine 2025, arXiv:2506.07339): the steps that will have
    been executed by the time a new chunk is there are frozen, the later ones pull at it less and
    less, and beyond the plan's end it is free.
    """

    actions: np.ndarray  # (M, 7) physical; row i is for the step i periods after the stamp
    frozen: int  # so many leading rows are executed before a new chunk can take over

    def weights(self, horizon: int) -> np.ndarray:
        """Share of the plan in each row of a chunk, (horizon,): the paper's soft mask (eq. 5)."""
        planned = min(len(self.actions), horizon)
        frozen = min(self.frozen, planned)
        share = (planned - np.arange(horizon)) / (planned - frozen + 1)
        share = np.clip(share, 0.0, 1.0)
        weights = share * np.expm1(share) / np.expm1(1.0)
        weights[:frozen] = 1.0
        return weights

    def over(self, horizon: int, gripper: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Plan and weights (horizon, 7) each, zero where nothing is planned.

        gripper: this dimension is frozen or free and never between: the mean of open and closed
        is neither. None where there is no gripper.
        """
        rows = min(len(self.actions), horizon)
        planned = np.zeros((horizon, ACTION_DIM), np.float32)
        planned[:rows] = self.actions[:rows]
        weights = np.repeat(self.weights(horizon)[:, None], ACTION_DIM, axis=1)
        if gripper is not None:
            weights[:, gripper] = np.floor(weights[:, gripper])
        return planned, weights.astype(np.float32)

    def blend(self, actions: np.ndarray, gripper: int | None) -> np.ndarray:
        """Chunk (H, 7) → (H, 7) float32 that begins as planned and ends as proposed."""
        planned, weights = self.over(len(actions), gripper)
        mixed = actions + weights * (planned - actions)
        return np.where(weights == 1.0, planned, mixed).astype(np.float32)
