"""What a demonstration tells about itself once it is over: where the hand went, and why there.

The position at which the gripper next opens or closes is the keyframe. Predicting it teaches the
words; and in the image of a calibrated camera it is a point to look at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TYPE_CHECKING

import torch
import torch.nn.functional as F

from vla_alignment_ros.alignment.heads import precise
from vla_alignment_ros.encoders.vision import CameraTokens

if TYPE_CHECKING:
    from vla_alignment_ros.policy.model import Scene, VlaModel

POINTING_WEIGHT = 0.3
FAR_M = 0.1  # a hand farther than this from its keyframe cannot show yet where it is going


@dataclass(frozen=True)
class Term:
    """A weighted mean over rows before it is taken, so that more rows can still join."""

    cost: torch.Tensor  # (B, …)
    weight: torch.Tensor  # of the same shape, at least 0

    def mean(self) -> torch.Tensor:
        """Scalar; 0 where nothing has weight."""
        return (self.cost * self.weight).sum() / self.weight.sum().clamp_min(1e-6)


def keyframe_terms(model: VlaModel, scene: Scene, batch: Mapping[str, Any]) -> dict[str, Term]:
    """Error of the predicted keyframe; the farther the hand still is, the more it counts.

    Near its goal the arm itself shows where it is going; only from afar do the words tell.
    """
    hand = batch['state'][:, list(model.config.position_index)]
    way = (batch['keyframe'] - hand).norm(dim=-1)  # (B,) m
    weight = (way / FAR_M).clamp(0.1, 1.5)
    target = model.normalizer.keyframe(batch['keyframe'])
    error = F.smooth_l1_loss(precise(scene.keyframe), target, beta=0.1, reduction='none')
    found = model.normalizer.denormalize_keyframe(precise(scene.keyframe.detach()))
    miss = 1000 * (found - batch['keyframe'])[:, :2].norm(dim=-1)  # (B,) mm
    terms = {
        'keyframe': Term(error.mean(-1), weight),
        'keyframe_mm': Term(miss, (way > FAR_M).to(miss.dtype)),
    }
    for camera in scene.vision.layout:
        if camera.name in model.config.projections:
            target, seen = _seen_at(model, camera, batch['keyframe'])
            aim, hit = _pointing(scene.attention[:, camera.slice], target, weight * seen)
            terms |= {f'pointing_{camera.name}': aim, f'hit_pointing_{camera.name}': hit}
    return terms


def keyframe_loss(
    terms: Mapping[str, Term],
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of all rows together from `keyframe_terms`, and what it says in numbers."""
    aim, diagnostics = _aimed(terms, 'pointing_')
    miss, far = terms['keyframe_mm'].cost.detach(), terms['keyframe_mm'].weight > 0
    diagnostics['keyframe_mm'] = miss[far].median() if far.any() else miss.median()
    return terms['keyframe'].mean() + aim, diagnostics


def grounding_terms(model: VlaModel, scene: Scene, batch: Mapping[str, Any]) -> dict[str, Term]:
    """The alignment's attention, taught by hindsight: no label but the demonstration itself.

    Where an open hand is going to close is the thing that was named. Where pixels are labelled
    it is known better: such rows do not count for a strategy that reads the labels.
    """
    closes = batch['approach'] & (batch['keyframe_gripper'] < 0.5)
    closes = closes & (batch['action'][:, 0, -1] > 0.5)
    if batch['labels'] and model.alignment.scoring.reads_pixel_labels:
        closes = closes & (batch['named'] < 1)
    terms = {}
    for camera in scene.vision.layout:
        if camera.name in model.config.projections:
            target, seen = _seen_at(model, camera, batch['keyframe'])
            aim, hit = _pointing(scene.fits[:, camera.slice], target, seen * closes)
            terms |= {f'named_{camera.name}': aim, f'hit_named_{camera.name}': hit}
    return terms


def grounding_loss(
    terms: Mapping[str, Term],
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of all rows together from `grounding_terms`, and how often it hits."""
    return _aimed(terms, 'named_')


def _aimed(
    terms: Mapping[str, Term], kind: str
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The pointing terms of one kind together, and how often each hits."""
    aims = {name: term.mean() for name, term in terms.items() if name.startswith(kind)}
    loss = POINTING_WEIGHT * sum(aims.values())
    return loss, {name: terms[f'hit_{name}'].mean().detach() for name in aims}


def _seen_at(
    model: VlaModel, camera: CameraTokens, point: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a calibrated camera sees points (B, 3) m in base_link.

    Returns a distribution over its cells (B, n), a Gaussian of one cell around the point, and
    (B,) 1 where the point is inside the image, else 0.
    """
    point = precise(point)
    matrix = point.new_tensor(model.config.projections[camera.name])
    homogeneous = F.pad(point, (0, 1), value=1.0) @ matrix.T  # (B, 3)
    depth = homogeneous[:, 2:]
    where = homogeneous[:, :2] / depth.clamp_min(1e-3)  # (B, 2) in −1…1
    inside = (depth[:, 0] > 0) & (where.abs() < 1).all(dim=1)
    cells = model.vision.coordinates[camera.slice].to(point.dtype)  # (n, 2)
    size = cells.new_tensor([2 / camera.columns, 2 / camera.rows])
    distance = ((cells.unsqueeze(0) - where.unsqueeze(1)) / size).square().sum(-1)  # (B, n)
    return (-0.5 * distance).softmax(dim=-1), inside.float()


def _pointing(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
) -> tuple[Term, Term]:
    """Weighted cross-entropy of an attention to a target over cells, and whether it hits.

    logits, target (B, n); weight (B,). A hit is a peak on a cell next to the target's.
    """
    entropy = -(target * precise(logits).log_softmax(dim=-1)).sum(-1)  # (B,)
    # a cell beside the peak of a Gaussian of one cell has at least exp(−1) of it
    on_peak = target.gather(1, logits.argmax(dim=1, keepdim=True)).squeeze(1)
    hit = (on_peak > 0.3 * target.amax(dim=1)).float()
    return Term(entropy, weight), Term(hit, weight)
