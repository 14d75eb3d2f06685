"""Validation on held-out episodes, and the calibration of the alignment score."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
import torch

from vla_alignment_ros.policy.checkpoint import Calibration
from vla_alignment_ros.policy.hindsight import FAR_M
from vla_alignment_ros.policy.model import VlaModel
from vla_alignment_ros.training.batches import BatchStream

# Shares of matched moments that may fall below the gate's thresholds. A false hold ends a task
# half-way, so it must be rarer than one wrong moment in several episodes; before the first motion
# the next moment gets another try.
FALSE_HOLD = 0.002
GO_MISSED = 0.02
EVEN_ODDS = 0.5  # what is more likely to fit than not may begin


@torch.no_grad()
def validate(
    model: VlaModel, stream: BatchStream, batches: int, seed: int, device: torch.device
) -> tuple[dict[str, float], Calibration]:
    """Errors of the averaged model on validation batches, and its calibration.

    Returns metrics: `action_l1` (normalised, of the deterministic chunk), `gripper_accuracy`,
    `keyframe_mm` and `keyframe_within_3cm` (horizontal error
    where the hand is still far from it), `vl_auroc` (an approach's own sentence against
    one from the same batch that names what is not known to be there), `swap_sensitivity` (mean
    change of the first action when the sentence is swapped, in units of the mean action size),
    `gate_false_go` (share of such mismatched approaches above the go threshold).
    """
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, list[float]] = {}
    everywhere, matched, mismatched = [], [], []
    for step in range(min(batches, stream.per_epoch)):
        batch = to_device(stream.at(step), device)
        row = batch['sentence']
        sentences = model.listen(batch['ids'])
        other = torch.randperm(len(row), generator=generator).to(device)
        differs = batch['referent'] != batch['referent'][other]
        absent = ~batch['present'].gather(1, other.unsqueeze(1)).squeeze(1)
        scene = model.read(batch['images'], batch['state'], sentences.rows(row))
        chunk = _deterministic(model, scene)
        swapped_scene = model.read(
            batch['images'], batch['state'], sentences.rows(row[other])
        )
        swapped = _deterministic(model, swapped_scene)
        target = model.normalizer.action(batch['action'])
        mask = batch['action_mask'].float().unsqueeze(-1)
        error = ((chunk - target).abs() * mask).sum() / (mask.sum() * target.shape[-1])
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
        own = model.alignment.vision_language(scene.vision, scene.language)
        wrong = model.alignment.vision_language(scene.vision, swapped_scene.language)
        early = batch['approach']
        everywhere.append(own.float().cpu().numpy())
        matched.append(own.float()[early].cpu().numpy())
        mismatched.append(wrong.float()[absent & early].cpu().numpy())
    metrics = {name: float(np.nanmean(v)) for name, v in sums.items() if not np.isnan(v).all()}
    good, bad = np.concatenate(matched), np.concatenate(mismatched)
    calibration = calibrate(good, bad, np.concatenate(everywhere))
    if len(good) and len(bad):
        labels = np.r_[np.ones(len(good)), np.zeros(len(bad))]
        metrics['vl_auroc'] = float(roc_auc_score(labels, np.r_[good, bad]))
        probability = 1 / (1 + np.exp(-(calibration.slope * bad + calibration.offset)))
        metrics['gate_false_go'] = float(np.mean(probability >= calibration.go))
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
