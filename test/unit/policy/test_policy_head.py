"""Candidates are drawn by few and cheap steps, and are nearly those of the whole integration."""

from __future__ import annotations

import pytest
import torch

from vla_alignment_ros.embodiment import package_path
from vla_alignment_ros.observation import ObservationAssembler
from vla_alignment_ros.policy.head import FlowActionHead
from vla_alignment_ros.policy.policy import Policy
from vla_alignment_ros.sim.stream import instruction_message, observation_messages
from vla_alignment_ros.sim.tasks import sample_episode
from vla_alignment_ros.sim.world import SceneConfig, TabletopWorld

STEPS = 4


def integrate(head: FlowActionHead, context: tuple, noise: torch.Tensor, mean_first: bool):
    """The Euler steps as the paper has them: the whole network for every row and every step."""
    rows = len(noise)
    full = [part.expand(rows, *part.shape[1:]) for part in context]
    x = noise
    for step in range(STEPS):
        t = torch.full((rows,), step / STEPS, dtype=noise.dtype)
        seen = torch.zeros_like(x) if mean_first and step == 0 else x
        x = x + (head(seen, t, *full) - x) / (STEPS - step)
    return x


@torch.no_grad()
def test_all_candidates_start_with_the_prediction_for_the_mean_noise():
    torch.manual_seed(0)
    head = FlowActionHead(horizon=6, width=32, layers=2, heads=2).double().eval()
    tokens, condition = torch.randn(1, 5, 32).double(), torch.randn(1, 32).double()
    context = tokens, torch.arange(5)[None] > 3, condition
    noise = torch.randn(3, 6, 7).double()
    noise[0] = 0.0
    found = head.sample(*context, noise, STEPS)
    assert torch.allclose(found, integrate(head, context, noise, True), atol=1e-10)
    assert torch.allclose(found[0], integrate(head, context, noise, False)[0], atol=1e-10)
    assert (found[1:] - found[:1]).abs().max() > 1e-3  # they differ all the same


@pytest.fixture(scope='module')
def policy() -> Policy:
    return Policy.load(package_path('checkpoints', 'tabletop'), device='cpu')


@torch.inference_mode()
@pytest.mark.parametrize('seed', [0, 1])
def test_in_the_shipped_policy_noise_alone_tells_next_to_nothing(policy, seed):
    """So the candidates are nearly those of the whole integration, and the same one is chosen."""
    world = TabletopWorld(SceneConfig(rate_hz=policy.embodiment.rate_hz))
    try:
        world.reset(sample_episode(seed, 'seen'))
        raw = instruction_message(world, policy.embodiment)
        raw |= observation_messages(world, policy.embodiment)
        seen = ObservationAssembler(policy.embodiment).assemble(world.time_ns, raw)
    finally:
        world.close()
    model, scene, noise = policy._model, policy._read(seen), policy._noise(16, seed)
    found = model.candidates(scene, noise, STEPS)
    context = scene.context, scene.padding, scene.condition
    whole = integrate(model.head, context, noise, False)
    whole = model.normalizer.denormalize_action(whole)
    assert torch.allclose(found[0], whole[0], atol=1e-5)
    apart = (whole - whole[:1]).abs().mean()
    assert (found - whole).abs().mean() < 0.02 * apart  # of how far they lie apart
    assert (found - whole).abs().max() < 1e-4  # m, rad
    assert model.verify(scene, found).argmax() == model.verify(scene, whole).argmax()
