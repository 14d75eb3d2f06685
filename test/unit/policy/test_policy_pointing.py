"""What calibrated cameras teach: the attention's target, who counts, and that it learns."""

import pytest
from small_model import calibrated, make_batch, make_checkpoint, statistics, WEIGHTS
import torch

from vla_alignment_ros.policy.hindsight import _pointing, _seen_at
from vla_alignment_ros.policy.model import VlaModel


def test_the_target_lies_where_the_camera_sees_the_point():
    model = calibrated().model
    front = model.vision.layout[0]  # 3 rows, 4 columns
    points = torch.tensor([[0.375, 0.0, 0.0], [0.0, 0.33, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 5.0]])
    target, seen = _seen_at(model, front, points)
    assert torch.allclose(target.sum(1), torch.ones(4))
    grid = target.view(4, front.rows, front.columns)
    assert grid[0, 1].argmax() == 3 and grid[0].sum(1).argmax() == 1  # right, middle row
    assert grid[1].sum(1).argmax() == 0  # +y is up in the image
    assert seen.tolist() == [1.0, 1.0, 0.0, 0.0]  # outside the image; behind the camera


def test_a_perfect_attention_hits_and_costs_least():
    target = torch.tensor([[0.1, 0.8, 0.1], [0.8, 0.15, 0.05]])
    weight = torch.ones(2)


    def means(logits, weight):
        return [term.mean() for term in _pointing(logits, target, weight)]

    right, hit = means(target.log(), weight)
    wrong, miss = means(target.flip(1).roll(1, 1).log(), weight)
    assert hit == 1.0 and right < wrong
    assert means(target.log(), torch.zeros(2))[0] == 0.0
    assert miss < 1.0


def test_only_approaches_that_end_in_a_grasp_ground_the_sentence():
    checkpoint = calibrated()
    model, batch = checkpoint.model, make_batch(checkpoint)
    batch['keyframe'] = torch.zeros(6, 3)
    batch['action'][..., -1] = 1.0
    labels = batch['labels']
    batch['labels'] = {}

    def grounding(**changes):
        generator = torch.Generator().manual_seed(0)
        losses, _ = model({**batch, **changes}, WEIGHTS, generator=generator)
        return float(losses['align_hindsight'].detach())

    assert grounding() > 0
    assert grounding(keyframe_gripper=torch.ones(6)) == 0  # the hand opens there
    assert grounding(approach=torch.zeros(6, dtype=torch.bool)) == 0
    closed = batch['action'].clone()
    closed[..., -1] = 0.0
    assert grounding(action=closed) == 0  # the hand is closed already: a push
    assert grounding(labels=labels) == 0  # the strategies are told better


@pytest.mark.parametrize(
    'strategy, taught',
    [('grounded', False), ('vla', True), ('clip', True), ('vla+grounded', False)],
)
def test_labels_of_pixels_do_not_silence_a_strategy_that_cannot_read_them(strategy, taught):
    checkpoint = calibrated(alignment=strategy)
    model, batch = checkpoint.model, make_batch(checkpoint)
    batch['keyframe'] = torch.zeros(6, 3)
    batch['keyframe_gripper'] = torch.zeros(6)
    batch['approach'] = torch.ones(6, dtype=torch.bool)
    batch['action'][..., -1] = 1.0
    assert batch['labels']
    losses, _ = model(batch, WEIGHTS, generator=torch.Generator().manual_seed(0))
    assert bool(losses['align_hindsight'] > 0) == taught


def test_without_calibration_or_alignment_there_is_no_grounding():
    plain = make_checkpoint()
    assert 'align_hindsight' not in plain.model(make_batch(plain), WEIGHTS)[0]
    checkpoint = calibrated()
    losses, _ = checkpoint.model(make_batch(checkpoint), {'keyframe': 1.0, 'alignment': 0.0})
    assert set(losses) == {'action', 'keyframe'}


@pytest.mark.parametrize('name', ['attention', 'fits'])
def test_the_attention_learns_to_point(name):
    torch.manual_seed(0)
    checkpoint = calibrated()
    model = VlaModel(checkpoint.model.config, statistics())
    batch = make_batch(checkpoint)
    batch['keyframe'] = torch.tensor([[0.3, 0.3, 0.0], [-0.3, -0.3, 0.0]]).repeat(3, 1)
    batch['sentence'] = torch.tensor([0, 1] * 3)
    batch['labels'] = {}
    batch['action'][..., -1] = 1.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(40):
        generator = torch.Generator().manual_seed(step)
        losses, found = model(batch, WEIGHTS, generator=generator)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert found['pointing_front' if name == 'attention' else 'named_front'] == 1.0
