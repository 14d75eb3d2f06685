"""Towers: shapes, masks, coordinates, and what padding must not do."""

import pytest
import torch

from vla_alignment_ros.encoders.language import (
    build_tokenizer,
    LanguageTower,
    MAX_WORDS,
    tokenize,
)
from vla_alignment_ros.encoders.proprioception import ActionTower
from vla_alignment_ros.encoders.vision import running_norms, VisionTower
from vla_alignment_ros.errors import ConfigError


def test_vision_tokens_know_where_they_are():
    torch.manual_seed(0)
    tower = VisionTower('resnet_micro', {'front': (32, 64), 'wrist': (16, 16)}, 32).eval()
    images = {
        'front': torch.zeros(2, 32, 64, 3, dtype=torch.uint8),
        'wrist': torch.zeros(2, 16, 16, 3, dtype=torch.uint8),
    }
    features = tower(images)
    front, wrist = features.layout
    assert (front.rows, front.columns, wrist.rows, wrist.columns) == (4, 8, 2, 2)
    assert features.tokens.shape == (2, 36, 32) and features.pooled.shape == (2, 32)
    xy = features.coordinates[front.slice].view(4, 8, 2)
    assert torch.allclose(xy[0, :, 0], (torch.arange(8) + 0.5) / 4 - 1)  # x grows to the right
    assert torch.allclose(xy[:, 0, 1], (torch.arange(4) + 0.5) / 2 - 1)  # y grows downwards


def test_a_change_in_one_camera_leaves_the_others_tokens_alone():
    torch.manual_seed(0)
    tower = VisionTower('resnet_micro', {'front': (32, 32), 'wrist': (16, 16)}, 32).eval()
    images = {
        'front': torch.randint(0, 255, (1, 32, 32, 3), dtype=torch.uint8),
        'wrist': torch.randint(0, 255, (1, 16, 16, 3), dtype=torch.uint8),
    }
    with torch.no_grad():
        before = tower(images).tokens
        after = tower({**images, 'wrist': 255 - images['wrist']}).tokens
    front, wrist = tower.layout
    assert torch.equal(before[:, front.slice], after[:, front.slice])
    assert not torch.allclose(before[:, wrist.slice], after[:, wrist.slice])


def test_under_running_norms_pictures_leave_no_trace_in_the_statistics():
    torch.manual_seed(0)
    tower = VisionTower('resnet_micro', {'front': (32, 32)}, 32).train()
    images = {'front': torch.randint(0, 255, (4, 32, 32, 3), dtype=torch.uint8)}
    tower(images)
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    with running_norms(tower):
        found = tower(images).tokens
    assert all(torch.equal(before[name], value) for name, value in tower.state_dict().items())
    found.sum().backward()
    assert tower.project.weight.grad.abs().sum() > 0
    assert torch.equal(found, tower.eval()(images).tokens)


def test_running_norms_are_given_back_after_an_error():
    tower = VisionTower('resnet_micro', {'front': (32, 32)}, 32).train()
    with pytest.raises(KeyError), running_norms(tower):
        tower({})
    assert all(module.training for module in tower.modules())


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(ConfigError, match='resnet_micro'):
        VisionTower('resnet_9000', {'front': (32, 32)}, 32)


def test_tokenizer_is_the_same_for_the_same_words_in_any_order():
    one = build_tokenizer(['Pick the cube.', 'push it'])
    two = build_tokenizer(['push it!', 'pick the CUBE'])
    assert one.get_vocab() == two.get_vocab()
    assert tokenize(one, ['Pick the cube.']).tolist() == tokenize(one, ['pick the cube']).tolist()


def test_unknown_words_become_one_token_and_long_sentences_are_cut():
    tokenizer = build_tokenizer(['pick the cube'])
    ids = tokenize(tokenizer, ['pick the dodecahedron', ' '.join(['cube'] * 100), ''])
    assert ids[0, 2] == 1
    assert ids.shape == (3, MAX_WORDS)
    assert not ids[2].any()


def test_no_words_at_all_is_refused():
    with pytest.raises(ConfigError, match='vocabulary'):
        build_tokenizer(['...', ''])


def test_language_pooling_ignores_padding_and_an_empty_sentence_is_zero():
    torch.manual_seed(0)
    tower = LanguageTower(10, 32, 1, 2).eval()
    with torch.no_grad():
        short = tower(torch.tensor([[3, 4]]))
        padded = tower(torch.tensor([[3, 4, 0, 0], [0, 0, 0, 0]]))
    assert torch.allclose(short.pooled[0], padded.pooled[0], atol=1e-6)
    assert not padded.pooled[1].any() and torch.isfinite(padded.tokens).all()
    assert padded.mask.tolist() == [[True, True, False, False], [False] * 4]


def test_action_tower_ignores_masked_steps():
    torch.manual_seed(0)
    tower = ActionTower(4, 32, 2).eval()
    actions = torch.randn(1, 4, 7)
    mask = torch.tensor([[True, True, False, False]])
    changed = torch.where(mask.unsqueeze(-1), actions, 100.0)
    with torch.no_grad():
        assert torch.allclose(tower(actions, mask), tower(changed, mask), atol=1e-5)
