"""What a demonstration tells about itself once it is over: where the hand went, and why there.

The position at which the gripper next opens or closes is the keyframe. Predicting it teaches the
words; and in the image of a calibrated camera it is a point to look at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TYPE_CHECKING

import torch
import torch.nn.functional as F

from vla_alignment_ros.encoders.vision import CameraTokens

if TYPE_CHECKING:
    from vla_alignment_ros.policy.model import Scene, VlaModel

POINTING_WEIGHT = 0.3
FAR_M = 0.1  # a hand farther than this from its keyframe cannot show yet where it is going


def keyframe_loss(
    model: VlaModel, scene: Scene, batch: Mapping[str, Any]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Error of the predicted keyframe; the farther the hand still is, the more it counts.

    Near its goal the arm itself shows where it is going; only from afar do the words tell.
    """
    hand = batch['state'][:, list(model.config.position_index)]
    way = (batch['keyframe'] - hand).norm(dim=-1)  # (B,) m
    weight = (way / FAR_M).clamp(0.1, 1.5)
    target = model.normalizer.keyframe(batch['keyframe'])
    error = F.smooth_l1_loss(scene.keyframe.float(), target, beta=0.1, reduction='none')
    loss = (error.mean(-1) * weight).sum() / weight.sum()
    found = model.normalizer.denormalize_keyframe(scene.keyframe.detach().float())
    miss = 1000 * (found - batch['keyframe'])[:, :2].norm(dim=-1)  # (B,) mm
    far = way > FAR_M
    diagnostics = {'keyframe_mm': miss[far].median() if far.any() else miss.median()}
    for camera in scene.vision.layout:
        if camera.name in model.config.projections:
            target, seen = _seen_at(model, camera, batch['keyframe'])
            rows = weight * seen
            aim, hit = _pointing(scene.attention[:, camera.slice], target, rows)
            loss = loss + POINTING_WEIGHT * aim
            diagnostics[f'pointing_{camera.name}'] = hit
    return loss, diagnostics


def grounding_loss(
    model: VlaModel, scene: Scene, batch: Mapping[str, Any]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The alignment's attention, taught by hindsight: no label but the demonstration itself.

    Where an open hand is going to close is the thing that was named. Where pixels are labelled
    it is known better, and the strategies are told: such rows do not count here.
    """
    closes = batch['approach'] & (batch['keyframe_gripper'] < 0.5)
    closes = closes & (batch['action'][:, 0, -1] > 0.5)
    if batch['labels']:
        closes = closes & (batch['named'] < 1)
    loss, diagnostics = scene.fused.new_zeros((), dtype=torch.float32), {}
    for camera in scene.vision.layout:
        if camera.name in model.config.projections:
            target, seen = _seen_at(model, camera, batch['keyframe'])
            aim, hit = _pointing(scene.fits[:, camera.slice], target, seen * closes)
            loss = loss + POINTING_WEIGHT * aim
            diagnostics[f'named_{camera.name}'] = hit
    return loss, diagnostics


def _seen_at(
    model: VlaModel, camera: CameraTokens, point: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a calibrated camera sees points (B, 3) m in base_link.

    Returns a distribution over its cells (B, n), a Gaussian of one cell around the point, and
    (B,) 1 where the point is inside the image, else 0.
    """
    matrix = torch.tensor(model.config.projections[camera.name], device=point.device)
    homogeneous = F.pad(point.float(), (0, 1), value=1.0) @ matrix.T  # (B, 3)
    depth = homogeneous[:, 2:]
    where = homogeneous[:, :2] / depth.clamp_min(1e-3)  # (B, 2) in −1…1
    inside = (depth[:, 0] > 0) & (where.abs() < 1).all(dim=1)
    cells = model.vision.coordinates[camera.slice].float()  # (n, 2)
    size = torch.tensor([2 / camera.columns, 2 / camera.rows], device=cells.device)
    distance = ((cells.unsqueeze(0) - where.unsqueeze(1)) / size).square().sum(-1)  # (B, n)
    return (-0.5 * distance).softmax(dim=-1), inside.float()


def _pointing(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted cross-entropy of an attention to a target over cells, and how often it hits.

    logits, target (B, n); weight (B,). A hit is a peak on a cell next to the target's.
    """
    total = weight.sum().clamp_min(1e-6)
    entropy = -(target * logits.float().log_softmax(dim=-1)).sum(-1)  # (B,)
    # a cell beside the peak of a Gaussian of one cell has at least exp(−1) of it
    on_peak = target.gather(1, logits.argmax(dim=1, keepdim=True)).squeeze(1)
    hit = (on_peak > 0.3 * target.amax(dim=1)).float()
    return (entropy * weight).sum() / total, (hit * weight).sum() / total
