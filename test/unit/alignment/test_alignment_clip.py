"""CLIP: the loss against its definition, retrieval both ways, and regions without labels."""

import math

from alignment_inputs import (
    make_inputs,
    make_towers,
    plain_inputs,
    repeated_instructions,
    total_loss,
    train,
    WIDTH,
)
import pytest
import torch
import torch.nn.functional as F

from vla_alignment_ros.alignment.clip import ClipAlignment
from vla_alignment_ros.alignment.dual_encoder import REGION_SHARPNESS
from vla_alignment_ros.alignment.losses import MAX_LOG_SCALE


def divergence(logits, positives):
    """Row by row: cross-entropy to the uniform distribution over the positives, less its own."""
    costs = []
    for row, right in zip(logits.tolist(), positives.tolist()):
        total = sum(math.exp(x) for x in row)
        chosen = [x for x, p in zip(row, right) if p]
        cost = -sum(math.log(math.exp(x) / total) for x in chosen) / len(chosen)
        costs.append(cost - math.log(len(chosen)))
    return sum(costs) / len(costs)


def test_the_loss_is_a_symmetric_contrast_on_approaches_and_less_so_on_all():
    torch.manual_seed(0)
    clip = ClipAlignment(WIDTH, embed=8).double()
    inputs = make_inputs(make_towers(), dtype=torch.float64)
    losses = clip(inputs).losses

    v = F.normalize(clip.vision(inputs.vision.pooled), dim=-1)
    l = F.normalize(clip.language(inputs.language.pooled), dim=-1)  # noqa: E741
    logits = (clip.scale.log_scale.exp() * v @ l.T).detach()
    expected = {}
    for name, weight, rows in (('vl', 1.0, inputs.approach), ('vl_late', 0.3, slice(None))):
        z, p = logits[rows][:, rows], inputs.present[rows][:, rows]
        expected[name] = weight * (divergence(z, p) + divergence(z.T, p.T)) / 2
    assert 0 < inputs.approach.sum() < len(inputs.approach)
    for name, value in expected.items():
        assert float(losses[name].detach()) == pytest.approx(value, abs=1e-9)


def test_repeated_instructions_are_retrieved_both_ways_after_training():
    """16 rows share 4 sentences; held-out rows find theirs, and sentences find such rows."""
    torch.manual_seed(0)
    batch = repeated_instructions()
    clip = ClipAlignment(WIDTH, embed=8)
    loss = train(clip, batch, steps=40, rate=1e-2)
    held_out = batch()
    similarity = clip.similarity(held_out.vision, held_out.language)
    for found in (similarity, similarity.T):
        best = found.argmax(1, keepdim=True)
        assert held_out.present.gather(1, best).all()
    assert float(loss.detach()) < 0.1  # diagonal targets would stay near 1.3 · ln(16 / 4)


def test_a_batch_of_one_costs_nothing():
    clip = ClipAlignment(WIDTH)
    one = plain_inputs(torch.randn(1, 3, WIDTH), torch.randn(1, 2, WIDTH), torch.zeros(1).long())
    loss = total_loss(clip, one)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)
    assert all(torch.isfinite(p.grad).all() for p in clip.parameters() if p.grad is not None)


def test_a_region_means_what_the_whole_scene_would_mean():
    """Regions use the projection of the pooled vector, so a uniform scene scores everywhere."""
    torch.manual_seed(0)
    clip = ClipAlignment(WIDTH)
    token = torch.randn(2, 1, WIDTH)
    inputs = plain_inputs(token.expand(2, 5, WIDTH), torch.randn(2, 3, WIDTH), torch.arange(2))
    score = clip.vision_language(inputs.vision, inputs.language)
    regions = clip.sentence_regions(inputs.vision, inputs.language)
    assert torch.allclose(regions, REGION_SHARPNESS * score.unsqueeze(1).expand(2, 5), atol=1e-4)


def test_the_scale_is_clamped_after_each_step():
    clip = ClipAlignment(WIDTH)
    with torch.no_grad():
        clip.scale.log_scale.fill_(99.0)
    clip.after_step()
    assert float(clip.scale.log_scale.detach()) == pytest.approx(MAX_LOG_SCALE)
