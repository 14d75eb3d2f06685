"""The gate of a finished checkpoint, calibrated anew on somebody's own episodes.

The weights stay: only the scale of the alignment score and the thresholds follow the place, the
light and the words in which the robot works now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vla_alignment_ros.data.dataset import DemonstrationDataset, load_dataset
from vla_alignment_ros.errors import DatasetError
from vla_alignment_ros.policy.checkpoint import Calibration, Checkpoint
from vla_alignment_ros.training.batches import BatchStream
from vla_alignment_ros.training.notes import sentence_groups
from vla_alignment_ros.training.validation import GateScores, measure_gate

BATCH = 64  # moments scored at once, and the rows that a wrong sentence is drawn from


@dataclass(frozen=True)
class Recalibration:
    """What was found: both calibrations, and what a gate with each does to the same moments."""

    before: Calibration
    after: Calibration
    scores: GateScores
    episodes: int
    sentences: int
    skipped: dict[str, str]  # episode -> why it is not in

    def to_dict(self) -> dict[str, object]:
        """Counts, thresholds and shares, fit for JSON."""
        return {
            'episodes': self.episodes,
            'sentences': self.sentences,
            'moments': len(self.scores.everywhere),
            'matched_approaches': len(self.scores.matched),
            'mismatched_approaches': len(self.scores.mismatched),
            'before': self.scores.figures(self.before) | vars(self.before),
            'after': self.scores.figures(self.after) | vars(self.after),
        }


def recalibrate(
    checkpoint: Checkpoint, bags: Sequence[Path], seed: int = 0, progress: bool = True
) -> Recalibration:
    """Calibrate the alignment score of a checkpoint on folders of episodes.

    The bags are read with the checkpoint's embodiment: so the scores are those that the policy
    node will see. Matched are moments with their own sentence; mismatched are the same with a
    sentence of another episode that names what is not known to be in the scene (the notes
    `target`, `group` and `labels` count).

    Args:
        checkpoint: its model stays where it is and as it is.
        bags: folders of episodes, or single ones; those marked as failed are left out.
        seed: of which sentence goes with which scene.
        progress: show a bar while the bags are read.

    Raises:
        DatasetError: no episode can be used, the bags do not fit the embodiment, all sentences
            name the same, or the score does not tell right from wrong here.
    """
    horizon = checkpoint.model.config.horizon
    loaded = load_dataset(
        bags,
        horizon=horizon,
        val_fraction=0.0,
        embodiment=checkpoint.embodiment,
        progress=progress,
    )
    dataset = loaded.train
    spoken = _spoken(dataset)
    if len(np.unique(sentence_groups(dataset, 'target')[spoken])) < 2:
        raise DatasetError(
            f'the {len(dataset.episodes)} episodes all say the same '
            f'({dataset.instructions[spoken[0]]!r}): a gate is calibrated on right against wrong '
            f'sentences; add episodes that name something else'
        )
    # as many equal batches as leave out the fewest moments
    batch = len(dataset) // -(-len(dataset) // BATCH)
    stream = BatchStream(dataset, checkpoint.tokenizer, batch, seed)
    device = next(checkpoint.model.parameters()).device
    scores = measure_gate(checkpoint.model, stream, seed, torch.device(device))
    after = scores.calibrate()
    if not after.fitted:
        raise DatasetError(
            f'the alignment score does not tell right from wrong sentences here '
            f'({len(scores.matched)} right, {len(scores.mismatched)} wrong): a gate on it would '
            f'be noise. Train on these episodes, or note what they name (target=…, group=…)'
        )
    return Recalibration(
        checkpoint.calibration, after, scores, len(dataset.episodes), len(spoken), loaded.skipped
    )


def _spoken(dataset: DemonstrationDataset) -> list[int]:
    """Ids of the sentences that occur in the samples, ascending."""
    return np.unique(dataset.cache.arrays['instruction'][dataset.rows]).tolist()
