"""Real-time chunking with a real policy: what is executed meanwhile stays as it was planned."""

from __future__ import annotations

import numpy as np
import pytest
from small_model import save_random_checkpoint
import torch

from vla_alignment_ros.control.continuation import Continuation
from vla_alignment_ros.control.decisions import PipelineConfig
from vla_alignment_ros.control.pipeline import DecisionPipeline
from vla_alignment_ros.observation import Observation
from vla_alignment_ros.policy.head import FlowActionHead
from vla_alignment_ros.policy.policy import Policy

STEP_NS = 100_000_000
GRIPPER = 6


@pytest.fixture(scope='module')
def policy(tmp_path_factory) -> Policy:
    folder = save_random_checkpoint(tmp_path_factory.mktemp('checkpoint') / 'random', True)
    return Policy.load(folder, device='cpu')


def observation(policy: Policy, step: int) -> Observation:
    rng = np.random.default_rng(step)
    images = {
        c.name: rng.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8)
        for c in policy.embodiment.cameras
    }
    state = rng.normal(0, 2, 17).astype(np.float32)  # answers must differ from step to step
    state[7], state[8:11] = 0.8, (0.5, 0.0, 0.3)
    return Observation((step + 10) * STEP_NS, images, state, 'pick up the red cube')


@pytest.mark.parametrize('steps', [1, 4])
def test_the_head_keeps_frozen_rows_and_lets_the_others_see_them(steps):
    torch.manual_seed(0)
    head = FlowActionHead(horizon=6, width=32, layers=1, heads=2).eval()
    context, padding = torch.randn(1, 5, 32), torch.zeros(1, 5, dtype=torch.bool)
    noise, condition = torch.randn(3, 6, 7), torch.randn(1, 32)
    planned, weight = torch.randn(6, 7), torch.zeros(6, 7)
    weight[:2] = 1.0
    free = head.sample(context, padding, condition, noise, steps)
    told = head.sample(context, padding, condition, noise, steps, (planned, weight))
    assert torch.allclose(told[:, :2], planned[:2].expand(3, 2, 7), atol=1e-6)
    seen = (told[:, 2:] - free[:, 2:]).abs().max()
    assert seen > 1e-3 if steps > 1 else seen == 0.0  # a single step cannot react to it


def test_frozen_rows_are_the_plan_to_the_bit_and_the_pull_fades(policy):
    free = policy.step(observation(policy, 0)).chunk.actions
    wanted = free + np.float32(0.01)
    decision = policy.step(
        observation(policy, 0), candidates=3, seed=1, plan=Continuation(wanted[:3], frozen=1)
    )
    assert decision.chunk.frozen == 1
    np.testing.assert_array_equal(decision.chunk.actions[0], wanted[0])
    first = policy.step(observation(policy, 0), plan=Continuation(wanted[:3], frozen=1)).chunk
    pulled = np.abs(first.actions - free)[:, :3].mean(1) / 0.01
    assert pulled[0] == pytest.approx(1.0, rel=1e-3)
    assert pulled[1] > pulled[2] > 0.0


def test_without_a_plan_nothing_is_frozen(policy):
    assert policy.step(observation(policy, 0)).chunk.frozen is None


@pytest.mark.parametrize('execution', ['realtime', 'newest'])
def test_steps_that_are_executed_during_inference_are_kept_by_the_new_chunk(policy, execution):
    """Every decision takes one control period, in which the plan before it is played on."""
    config = PipelineConfig(go=0.0, hold=0.0, confirm=1, execution=execution)
    pipeline = DecisionPipeline(policy.embodiment, policy, config)
    seen = observation(policy, 0)
    before = pipeline.decide(seen).chunk
    kept, jumps = [], []
    pipeline.command(seen.ts_ns)
    for step in range(2, 40, 2):
        seen = observation(policy, step - 1)
        meanwhile = pipeline.command((step + 9) * STEP_NS).action
        after = pipeline.decide(seen).chunk
        action = pipeline.command((step + 10) * STEP_NS).action
        if step > 8:  # the first decisions are a warm-up, of which no delay is learnt
            assert pipeline.delay_steps == 1
            kept.append(np.array_equal(after.actions[0, :6], _row(before, seen)[:6]))
            within = np.abs(np.diff(after.actions[:2, :6], axis=0)).max()
            jumps.append(np.abs(action - meanwhile)[:6].max() - within)
        before = after
    if execution == 'realtime':
        assert all(kept)
        assert max(jumps) < 1e-6
    else:
        assert not any(kept)
        assert max(jumps) > 1e-4


def _row(chunk, seen: Observation) -> np.ndarray:
    return chunk.actions[round((seen.ts_ns - chunk.ts_ns) / STEP_NS)]
