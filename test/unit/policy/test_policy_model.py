"""The network, the normaliser and the policy, on a tiny model with random weights."""

import numpy as np
import pytest
from small_model import (
    make_batch,
    make_checkpoint,
    observation,
    SENTENCES,
    statistics,
    WEIGHTS,
    with_copies,
)
import torch

from vla_alignment_ros.encoders.language import tokenize
from vla_alignment_ros.errors import CheckpointError, ConfigError
from vla_alignment_ros.policy.checkpoint import (
    load_checkpoint,
    save_checkpoint,
)
from vla_alignment_ros.policy.normalizer import Normalizer
from vla_alignment_ros.policy.policy import pick_device, Policy


def losses_of(checkpoint, batch):
    generator = torch.Generator().manual_seed(0)
    return checkpoint.model(batch, WEIGHTS, generator=generator)[0]


def test_every_parameter_gets_a_gradient():
    checkpoint = make_checkpoint()
    model = checkpoint.model.train()
    sum(losses_of(checkpoint, make_batch(checkpoint)).values()).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # the per-word bias of a masked mean and the softmax-invariant biases may be exactly zero
    assert [n for n in silent if 'key.bias' not in n and 'in_proj_bias' not in n] == []


def test_copies_in_other_colours_add_one_loss_and_leave_the_others_as_they_are():
    checkpoint = make_checkpoint()
    batch = make_batch(checkpoint)
    plain, more = losses_of(checkpoint, batch), losses_of(checkpoint, with_copies(batch))
    assert set(more) - set(plain) == {'align_grounded_shape'}
    for name, value in plain.items():
        assert torch.equal(value, more[name]), name


def test_padded_actions_do_not_change_any_loss():
    checkpoint = make_checkpoint()
    batch = make_batch(checkpoint)
    with torch.no_grad():
        before = losses_of(checkpoint, batch)
        changed = torch.where(batch['action_mask'].unsqueeze(-1), batch['action'], 9.0)
        after = losses_of(checkpoint, {**batch, 'action': changed})
    for name, value in before.items():
        # a valid step may see padded neighbours only through the noise path, which is masked out
        if name != 'action':
            assert torch.allclose(value, after[name], atol=1e-5), name


def test_padded_words_do_not_change_the_decision():
    checkpoint = make_checkpoint()
    policy = Policy(checkpoint, 'cpu')
    plain = policy.step(observation())
    ids = tokenize(checkpoint.tokenizer, [SENTENCES[0]])
    padded = torch.cat([ids, torch.zeros(1, 6, dtype=torch.long)], dim=1)
    with torch.inference_mode():
        policy._sentences[SENTENCES[0]] = checkpoint.model.listen(padded)
    again = policy.step(observation())
    assert np.allclose(plain.chunk.actions, again.chunk.actions, atol=1e-5)
    assert plain.vl_score == pytest.approx(again.vl_score, abs=1e-5)


def test_the_words_change_the_motion():
    policy = Policy(make_checkpoint(), 'cpu')
    first = policy.step(observation(instruction=SENTENCES[0]))
    second = policy.step(observation(instruction=SENTENCES[1]))
    assert np.abs(first.chunk.actions - second.chunk.actions).max() > 1e-5


def test_same_seed_same_candidates_and_first_is_the_deterministic_one():
    policy = Policy(make_checkpoint(), 'cpu')
    one = policy.step(observation())
    several = policy.step(observation(), candidates=5, seed=3)
    again = policy.step(observation(), candidates=5, seed=3)
    assert several.candidate_scores == again.candidate_scores
    assert len(several.candidate_scores) == 5
    assert several.candidate_scores[0] == pytest.approx(one.action_score, abs=1e-5)
    assert several.action_score == max(several.candidate_scores)
    assert several.margin >= 0


def test_a_decision_looks_for_the_sentence_once_and_scores_it_as_the_alignment_does(monkeypatch):
    policy = Policy(make_checkpoint(), 'cpu')
    alignment, c = policy._model.alignment, policy.calibration
    look, looks = type(alignment.scoring).sentence_regions, []

    def counted(self, vision, language):
        looks.append(1)
        return look(self, vision, language)

    monkeypatch.setattr(type(alignment.scoring), 'sentence_regions', counted)
    seen = observation()
    decided = policy.step(seen)
    assert len(looks) == 1
    with torch.inference_mode():
        scene = policy._read(seen)
        raw = alignment.vision_language(scene.vision, scene.language).float()
    assert decided.vl_score == float(torch.sigmoid(c.slope * raw + c.offset)[0])


def test_decision_is_in_physical_units_with_the_observations_stamp():
    decision = Policy(make_checkpoint(), 'cpu').step(observation())
    assert decision.chunk.actions.shape == (4, 7)
    assert decision.chunk.actions.dtype == np.float32
    assert decision.chunk.ts_ns == 7 and decision.chunk.rate_hz == 10.0
    assert 0 <= decision.vl_score <= 1


def test_grounding_gives_one_map_per_word_that_sums_to_one():
    decision = Policy(make_checkpoint(), 'cpu').step(observation(), grounding=True)
    assert [key.split(':')[1] for key in decision.grounding] == SENTENCES[0].split()
    for maps in decision.grounding.values():
        assert maps['front'].shape == (3, 4)
        assert sum(m.sum() for m in maps.values()) == pytest.approx(1.0, abs=1e-4)


def test_unknown_words_and_an_empty_sentence_still_decide():
    policy = Policy(make_checkpoint(), 'cpu')
    for text in ('zxcv qwer', ''):
        decision = policy.step(observation(instruction=text))
        assert np.isfinite(decision.chunk.actions).all() and np.isfinite(decision.vl_score)


def test_sentence_cache_gives_the_same_and_is_bounded():
    policy = Policy(make_checkpoint(), 'cpu')
    first = policy.step(observation())
    for i in range(100):
        policy.encode_instruction(f'sentence {i}')
    assert len(policy._sentences) <= 64
    assert np.array_equal(first.chunk.actions, policy.step(observation()).chunk.actions)


def test_normaliser_inverts_and_leaves_the_gripper_alone():
    normalizer = Normalizer(statistics())
    action = torch.tensor([[0.02, 0.04, 0.0, 0.3, 0.0, 0.05, 0.7]])
    scaled = normalizer.action(action)
    assert scaled[0, 6] == pytest.approx(0.7)
    assert scaled[0, 0] == pytest.approx(1.0) and scaled[0, 1] == pytest.approx(1.0)
    assert scaled[0, 3] == pytest.approx(0.3)  # a dimension that never moved keeps its unit
    assert torch.allclose(normalizer.denormalize_action(scaled), action, atol=1e-6)


@pytest.mark.parametrize('candidates', [0, -1])
def test_no_candidates_is_refused(candidates):
    with pytest.raises(ConfigError, match='candidates'):
        Policy(make_checkpoint(), 'cpu').step(observation(), candidates=candidates)


def test_unknown_device_is_refused_with_the_choices():
    with pytest.raises(ConfigError, match='auto, cpu'):
        pick_device('toaster')


# -- checkpoint ---------------------------------------------------------------------------------


def test_checkpoint_round_trip_decides_the_same(tmp_path):
    checkpoint = make_checkpoint()
    folder = save_checkpoint(checkpoint, tmp_path / 'model')
    loaded = Policy.load(folder, 'cpu')
    before = Policy(checkpoint, 'cpu').step(observation())
    after = loaded.step(observation())
    assert np.array_equal(before.chunk.actions, after.chunk.actions)
    assert before.vl_score == after.vl_score
    assert loaded.embodiment == checkpoint.embodiment
    assert loaded.calibration == checkpoint.calibration
    assert sorted(p.name for p in folder.iterdir()) == [
        'config.json',
        'model.safetensors',
        'tokenizer.json',
    ]


def test_saving_over_a_checkpoint_replaces_it_whole(tmp_path):
    save_checkpoint(make_checkpoint(0), tmp_path / 'model')
    save_checkpoint(make_checkpoint(1), tmp_path / 'model')
    expected = Policy(make_checkpoint(1), 'cpu').step(observation()).chunk.actions
    loaded = Policy.load(tmp_path / 'model', 'cpu').step(observation()).chunk.actions
    assert np.array_equal(expected, loaded)
    assert [p.name for p in tmp_path.iterdir()] == ['model']


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors', 'tokenizer.json'])
def test_a_missing_or_broken_file_is_named(tmp_path, name):
    folder = save_checkpoint(make_checkpoint(), tmp_path / 'model')
    (folder / name).write_bytes(b'\x80\x04garbage')
    with pytest.raises(CheckpointError, match=name.replace('.', r'\.')):
        load_checkpoint(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace('.', r'\.')):
        load_checkpoint(folder)


def test_weights_of_another_shape_are_refused_by_name(tmp_path):
    folder = save_checkpoint(make_checkpoint(), tmp_path / 'model')
    narrow = make_checkpoint(alignment_settings={'grounded': {'embed': 16}})
    other = save_checkpoint(narrow, tmp_path / 'other')
    (other / 'model.safetensors').replace(folder / 'model.safetensors')
    with pytest.raises(CheckpointError, match=r'alignment\.\w+.* needs'):
        load_checkpoint(folder)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    checkpoint = make_checkpoint()
    with torch.no_grad():
        checkpoint.model.keyframe[0].bias[0] = float('nan')
    folder = save_checkpoint(checkpoint, tmp_path / 'model')
    with pytest.raises(CheckpointError, match=r'keyframe\.0\.bias'):
        load_checkpoint(folder)


def test_unknown_config_key_is_refused(tmp_path):
    folder = save_checkpoint(make_checkpoint(), tmp_path / 'model')
    text = (folder / 'config.json').read_text().replace('"horizon"', '"horizont"')
    (folder / 'config.json').write_text(text)
    with pytest.raises(CheckpointError, match='horizont'):
        load_checkpoint(folder)
