"""Judging somebody else's actions: by the steps that are there, on the scale of our own."""

from __future__ import annotations

import numpy as np
import pytest
from small_model import save_random_checkpoint
import torch

from vla_alignment_ros.embodiment import package_path
from vla_alignment_ros.errors import ControlError
from vla_alignment_ros.observation import Observation
from vla_alignment_ros.policy.policy import Policy


@pytest.fixture(scope='module')
def policy(tmp_path_factory) -> Policy:
    torch.set_num_threads(1)
    folder = save_random_checkpoint(tmp_path_factory.mktemp('checkpoint') / 'random', True)
    return Policy.load(folder, device='cpu')


@pytest.fixture
def observation(policy) -> Observation:
    rng = np.random.default_rng(0)
    images = {
        c.name: rng.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8)
        for c in policy.embodiment.cameras
    }
    return Observation(7, images, rng.normal(0, 1, 17).astype(np.float32), 'pick up the red cube')


def test_our_own_chunk_gets_the_score_that_we_gave_it(policy, observation):
    own = policy.step(observation)
    found = policy.judge(observation, own.chunk.actions)
    assert found.action_score == pytest.approx(own.action_score, abs=1e-5)
    assert found.vl_score == own.vl_score
    assert found.margin == pytest.approx(0.0, abs=1e-5)
    np.testing.assert_array_equal(found.chunk.actions, own.chunk.actions)
    assert (found.chunk.ts_ns, found.chunk.instruction) == (7, observation.instruction)


def test_the_margin_is_over_the_mean_of_our_own_candidates(policy, observation):
    own = policy.step(observation, candidates=3, seed=4)
    other = np.tile(np.float32([0.02, -0.02, 0.01, 0.1, 0, 0, 0]), (policy.horizon, 1))
    found = policy.judge(observation, other, candidates=3, seed=4)
    np.testing.assert_allclose(found.candidate_scores, own.candidate_scores, atol=1e-5)
    expected = found.action_score - np.mean(own.candidate_scores)
    assert found.margin == pytest.approx(expected, abs=1e-5)


def test_what_lies_beyond_the_horizon_is_cut(policy, observation):
    rng = np.random.default_rng(1)
    long = rng.uniform(-0.02, 0.02, (3 * policy.horizon, 7))
    found = policy.judge(observation, long)
    assert found.chunk.actions.shape == (policy.horizon, 7)
    assert found.action_score == policy.judge(observation, long[: policy.horizon]).action_score


@pytest.mark.parametrize('steps', [1, 2, 3])
def test_of_a_short_chunk_the_missing_steps_do_not_speak(policy, observation, steps):
    rng = np.random.default_rng(2)
    whole = rng.uniform(-0.02, 0.02, (policy.horizon, 7)).astype(np.float32)
    found = policy.judge(observation, whole[:steps])
    assert found.chunk.actions.shape == (steps, 7)
    mask = torch.arange(policy.horizon) < steps
    padded = torch.from_numpy(np.stack([whole, whole]))
    padded[1, steps:] = 1e3
    with torch.inference_mode():
        scene = policy._read(observation)
        scores = policy._model.verify(scene, padded, mask.expand(2, -1))
        everything = policy._model.verify(scene, padded[:1])
    assert found.action_score == pytest.approx(float(scores[0]), abs=1e-5)
    assert float(scores[0]) == pytest.approx(float(scores[1]), abs=1e-5)
    assert abs(float(everything) - float(scores[0])) > 1e-5  # they would have


def test_short_chunks_are_compared_with_as_much_of_our_own(policy, observation):
    own = policy.step(observation).chunk.actions
    assert policy.judge(observation, own[:2]).margin == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    'actions',
    [np.zeros((0, 7)), np.zeros(7), np.zeros((2, 6)), np.full((2, 7), np.nan),
     np.full((1, 7), np.inf), np.full((1, 7), 1e300)],
)  # fmt: skip
def test_what_is_no_chunk_is_refused(policy, observation, actions):
    with pytest.raises(ControlError, match='actions to judge'):
        policy.judge(observation, actions)


def test_the_shipped_verifier_prefers_what_leads_to_the_thing_that_was_named():
    from vla_alignment_ros.evaluation.scenes import generate_scenes

    policy = Policy.load(package_path('checkpoints', 'tabletop'), device='cpu')
    leads = []
    for scene in generate_scenes(policy.embodiment, 'seen', 8, seed=100):
        right = policy.step(scene.observation).chunk.actions
        wrong = right.copy()
        wrong[:, :2] *= -1  # away from it
        leads.append(
            policy.judge(scene.observation, right).action_score
            - policy.judge(scene.observation, wrong).action_score
        )
    assert sum(lead > 0 for lead in leads) >= 7
