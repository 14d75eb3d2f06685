"""Validation on held-out episodes, and the calibration of the alignment score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
import torch

from vla_alignment_ros.encoders.vision import VisionFeatures
from vla_alignment_ros.policy.checkpoint import Calibration
from vla_alignment_ros.policy.hindsight import FAR_M
from vla_alignment_ros.policy.model import Instruction, VlaModel
from vla_alignment_ros.policy.normalizer import Normalizer
from vla_alignment_ros.training.batches import BatchStream

# Shares of matched moments that may fall below the gate's thresholds. A false hold ends a task
# half-way, so it must be rarer than one wrong moment in several episodes; before the first motion
# the next moment gets another try.
FALSE_HOLD = 0.002
GO_MISSED = 0.02
EVEN_ODDS = 0.5  # what is more likely to fit than not may begin


@dataclass(frozen=True)
class GateScores:
    """Raw vision–language scores of the kinds of moments that the gate has to tell apart."""

    matched: np.ndarray  # (M,) approaches with their own sentence
    mismatched: np.ndarray  # (N,) approaches with one that names what is not known to be there
    everywhere: np.ndarray  # (T,) any moment with its own sentence

    @classmethod
    def join(cls, parts: Sequence[GateScores]) -> GateScores:
        """All of them together."""
        return cls(
            np.concatenate([part.matched for part in parts]),
            np.concatenate([part.mismatched for part in parts]),
            np.concatenate([part.everywhere for part in parts]),
        )

    def calibrate(self) -> Calibration:
        """See the function of that name."""
        return calibrate(self.matched, self.mismatched, self.everywhere)

    def figures(self, calibration: Calibration) -> dict[str, float]:
        """What a gate with that calibration does to these moments; empty without both kinds.

        `vl_auroc`: how often an own sentence scores higher than a wrong one. Shares of matched
        approaches below the go threshold (`gate_refused`), of moments below the hold threshold
        (`gate_false_hold`), of mismatched approaches above the go threshold (`gate_false_go`).
        """
        if not len(self.matched) or not len(self.mismatched):
            return {}
        c = calibration
        labels = np.r_[np.ones(len(self.matched)), np.zeros(len(self.mismatched))]
        matched, mismatched, everywhere = (
            1 / (1 + np.exp(-(c.slope * raw + c.offset)))
            for raw in (self.matched, self.mismatched, self.everywhere)
        )
        return {
            'vl_auroc': float(roc_auc_score(labels, np.r_[self.matched, self.mismatched])),
            'gate_refused': float(np.mean(matched < c.go)),
            'gate_false_hold': float(np.mean(everywhere < c.hold)),
            'gate_false_go': float(np.mean(mismatched >= c.go)),
        }


def gate_scores(
    model: VlaModel,
    vision: VisionFeatures,
    sentences: Instruction,
    batch: dict[str, Any],
    other: torch.Tensor,
) -> GateScores:
    """Scores of a batch's scenes with their own sentences and with those of the rows `other`.

    A row counts as mismatched where what the other sentence names is not known to be there.
    """
    row, early = batch['sentence'], batch['approach']
    absent = ~batch['present'].gather(1, other.unsqueeze(1)).squeeze(1)  # (B,)
    score = model.alignment.vision_language
    own = score(vision, sentences.language.rows(row)).float()
    wrong = score(vision, sentences.language.rows(row[other])).float()
    parts = (own[early], wrong[absent & early], own)
    return GateScores(*(part.cpu().numpy() for part in parts))


@torch.no_grad()
def measure_gate(
    model: VlaModel, stream: BatchStream, seed: int, device: torch.device
) -> GateScores:
    """The scores of all batches of one epoch; the model must be on the device, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for step in range(stream.per_epoch):
        batch = to_device(stream.at(step), device)
        other = torch.randperm(len(batch['sentence']), generator=generator).to(device)
        vision, sentences = model.vision(batch['images']), model.listen(batch['ids'])
        parts.append(gate_scores(model, vision, sentences, batch, other))
    return GateScores.join(parts)


@torch.no_grad()
def validate(
    model: VlaModel,
    stream: BatchStream,
    batches: int,
    seed: int,
    device: torch.device,
    units: Normalizer | None = None,
    steps: int | None = None,
) -> tuple[dict[str, float], Calibration]:
    """Errors of the averaged model on validation batches, and its calibration.

    Args:
        model: on the device.
        stream: of held-out episodes.
        batches: how many of it, at most.
        seed: of which sentence is swapped with which.
        units: that the action error is counted in, by default the model's own; models with
            statistics of their own can be compared in one.
        steps: of a chunk that count for it, by default all.

    Returns metrics: `action_l1` (normalised, of the deterministic chunk), `gripper_accuracy`,
    `keyframe_mm` and `keyframe_within_3cm` (horizontal error
    where the hand is still far from it), `swap_sensitivity` (mean
    change of the first action when the sentence is swapped, in units of the mean action size),
    and what the gate does to these moments (`GateScores.figures`).
    """
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, list[float]] = {}
    scores: list[GateScores] = []
    for step in range(min(batches, stream.per_epoch)):
        batch = to_device(stream.at(step), device)
        row = batch['sentence']
        sentences = model.listen(batch['ids'])
        other = torch.randperm(len(row), generator=generator).to(device)
        differs = batch['referent'] != batch['referent'][other]
        scene = model.read(batch['images'], batch['state'], sentences.rows(row))
        chunk = _deterministic(model, scene)
        swapped_scene = model.read(
            batch['images'], batch['state'], sentences.rows(row[other])
        )
        swapped = _deterministic(model, swapped_scene)
        target = model.normalizer.action(batch['action'])
        mask = batch['action_mask'].float().unsqueeze(-1)
        off = (chunk - target).abs()  # (B, H, 7)
        if units is not None:
            off = off * (model.normalizer.action_scale / units.action_scale)
        counted = mask[:, :steps]
        error = (off[:, :steps] * counted).sum() / (counted.sum() * target.shape[-1])
        gripper = ((chunk[:, 0, -1] > 0.5) == (target[:, 0, -1] > 0.5)).float().mean()
        change = (chunk - swapped)[differs][:, 0, :6].abs().mean()
        values = {
            'action_l1': error,
            'gripper_accuracy': gripper,
            'swap_sensitivity': change / target[:, 0, :6].abs().mean(),
        }
        if 'keyframe' in batch:
            found = model.normalizer.denormalize_keyframe(scene.keyframe)
            miss = 1000 * (found - batch['keyframe'])[:, :2].norm(dim=-1)
            hand = batch['state'][:, list(model.config.position_index)]
            far = (batch['keyframe'] - hand).norm(dim=-1) > FAR_M
            if far.any():
                values['keyframe_mm'] = miss[far].median()
                values['keyframe_within_3cm'] = (miss[far] < 30).float().mean()
        for name, value in values.items():
            sums.setdefault(name, []).append(float(value))
        scores.append(gate_scores(model, scene.vision, sentences, batch, other))
    metrics = {name: float(np.nanmean(v)) for name, v in sums.items() if not np.isnan(v).all()}
    found = GateScores.join(scores)
    calibration = found.calibrate()
    metrics |= found.figures(calibration)
    return metrics, calibration


def calibrate(
    matched: np.ndarray, mismatched: np.ndarray, everywhere: np.ndarray
) -> Calibration:
    """Platt scaling and gate thresholds from raw scores.

    Args:
        matched, mismatched: scores of scenes with their own and with another sentence, during
            approaches, where the gate decides whether to begin.
        everywhere: scores of matched pairs at any moment, where the gate must not stop the arm.

    `go` is the probability under which GO_MISSED of the matched approaches fall, and at most
    EVEN_ODDS: where the score separates the kinds well, that quantile is the edge of what was
    trained on, and whatever looks a little different would be refused. `hold` is the probability
    under which FALSE_HOLD of all matched moments fall (never above `go`). Without both kinds, or
    where the score does not tell them apart, the calibration is the default: an open gate.
    """
    if len(matched) < 2 or len(mismatched) < 2:
        return Calibration()
    scores = np.r_[matched, mismatched].reshape(-1, 1)
    labels = np.r_[np.ones(len(matched)), np.zeros(len(mismatched))]
    fit = LogisticRegression(class_weight='balanced', C=1e4).fit(scores, labels)
    slope, offset = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    if slope <= 0:
        return Calibration()  # the score tells nothing: a gate on it would be noise

    def quantile(raw: np.ndarray, share: float) -> float:
        return float(np.quantile(1 / (1 + np.exp(-(slope * raw + offset))), share))

    go = min(EVEN_ODDS, quantile(matched, GO_MISSED))
    return Calibration(slope, offset, go=go, hold=min(go, quantile(everywhere, FALSE_HOLD)))


def _deterministic(model: VlaModel, scene: Any) -> torch.Tensor:
    """The chunk from zero noise in one step, normalised: (B, H, 7)."""
    count = len(scene.fused)
    noise = scene.fused.new_zeros(count, model.config.horizon, 7)
    t = scene.fused.new_zeros(count)
    return model.head(noise, t, scene.context, scene.padding, scene.condition).float()


def to_device(value: Any, device: torch.device) -> Any:
    """Move a batch (nested dicts of tensors) to a device."""
    if isinstance(value, dict):
        return {k: to_device(v, device) for k, v in value.items()}
    return value.to(device, non_blocking=True)
