"""Perfect embeddings are classified perfectly, ties never help, and counts are right."""

from __future__ import annotations

from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vla_alignment_ros.evaluation.zero_shot import (
    blank,
    classify,
    cover,
    ensemble,
    isolate,
    prompts,
    TEMPLATES,
)
from vla_alignment_ros.observation import normalize_instruction
from vla_alignment_ros.sim.phrases import load_splits

# a busy machine is no reason to fail
BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
LABELS = ('red', 'green', 'blue', 'yellow')


def test_perfectly_aligned_embeddings_are_all_right():
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(4, 16, generator=generator), dim=1)
    # prompts of very different length around their class; the direction is what counts
    noise = 0.05 * torch.randn(4, len(TEMPLATES), 16, generator=generator)
    said = (centres.unsqueeze(1) + noise) * torch.rand(4, len(TEMPLATES), 1, generator=generator)
    truth = [0, 2, 2, 3, 0, 2]
    scores = centres[truth] @ ensemble(said).T
    found = classify(scores.numpy(), truth, LABELS)
    figures = found.to_dict()
    assert figures['accuracy'] == figures['mean_class_accuracy'] == 1.0
    assert figures['count'] == figures['correct'] == 6
    assert found.per_class() == {'red': (2, 2), 'blue': (3, 3), 'yellow': (1, 1)}
    assert figures['classes_with_objects'] == 3 and figures['classes'] == 4


def test_an_ensemble_is_the_normalised_mean_of_normalised_prompts():
    said = torch.tensor([[[3.0, 0.0], [0.0, 0.1]]])  # length must not weigh
    assert ensemble(said)[0].tolist() == pytest.approx([2**-0.5, 2**-0.5])


def test_a_class_without_an_object_is_left_out_and_not_counted_as_zero():
    scores = np.eye(4)[[0, 0, 1]]
    figures = classify(scores, [0, 0, 2], LABELS).to_dict()
    assert set(figures['per_class']) == {'red', 'blue'}
    assert figures['mean_class_accuracy'] == 0.5  # of red 1 and blue 0
    assert figures['accuracy'] == pytest.approx(2 / 3, abs=1e-6)


@settings(BUSY, max_examples=60)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.floats(-5, 5))
def test_answers_that_are_all_alike_are_all_wrong(truth, value):
    assert classify(np.full((len(truth), 4), value), truth, LABELS).correct == 0
    assert classify(np.full((len(truth), 4), np.nan), truth, LABELS).correct == 0


@settings(BUSY, max_examples=60)
@given(st.data())
def test_every_object_is_counted_once_in_its_row(data):
    truth = data.draw(st.lists(st.integers(0, 3), max_size=15))
    rows = st.lists(st.integers(-2, 2), min_size=4, max_size=4)
    scores = np.array([data.draw(rows) for _ in truth], float).reshape(-1, 4)
    found = classify(scores, truth, LABELS)
    assert found.confusion.sum(1).tolist() == np.bincount(truth, minlength=4).tolist()
    best = [all(s < row[t] for i, s in enumerate(row) if i != t) for row, t in zip(scores, truth)]
    assert found.correct == sum(best)


def test_a_part_of_the_classes_keeps_their_wrong_answers():
    found = classify(np.eye(4)[[1, 1, 0]], [0, 1, 1], LABELS).only(['green'])
    assert found.per_class() == {'green': (1, 2)} and found.count == 2


def test_prompts_use_trained_words_alone():
    splits = load_splits()
    known = {
        word
        for phrases in splits.train_phrases.values()
        for phrase in phrases
        for word in normalize_instruction(phrase.format(object='', tray='', side='left')).split()
    }
    for prompt in prompts('red cube'):
        assert set(prompt.split()) <= known | {'red', 'cube'}


def test_an_object_alone_keeps_its_place_and_the_rest_is_table():
    rng = np.random.default_rng(0)
    image = np.full((40, 60, 3), (150, 140, 120), np.uint8)
    image[5:9, 40:50] = rng.integers(0, 255, (4, 10, 3))  # another thing
    image[20:30, 10:22] = (200, 30, 30)
    mask = np.zeros((40, 60), bool)
    mask[20:30, 10:22] = True
    alone = isolate(image, mask)
    assert (alone[mask] == image[mask]).all()
    assert (alone[5:9, 40:50] == (150, 140, 120)).all()
    assert (isolate(image, np.zeros_like(mask)) == blank(image)).all()


def test_the_cells_of_a_mask_hold_their_share_of_it():
    mask = np.zeros((16, 24), bool)
    mask[0:8, 4:12] = True  # half of one cell of 8 and a whole one
    shares = cover(mask, 2, 3)
    assert shares.shape == (2, 3)
    assert shares.ravel().tolist() == pytest.approx([0.5, 0.5, 0, 0, 0, 0], abs=1e-6)
