"""Ranks are those of a plain double loop, ties never help, and blocks change nothing."""

from __future__ import annotations

import math

from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from vla_alignment_ros.evaluation.retrieval import (
    modality_gap,
    NO_ID,
    retrieve,
    retrieve_embeddings,
    top,
    uniformity,
)

# a busy machine is no reason to fail
BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def naive_ranks(similarity, right):
    """Row by row: 1 + wrong ones at least as similar as the best right one; None without any."""
    ranks = []
    for row, good in zip(similarity, right):
        if not good.any():
            ranks.append(None)
            continue
        best = max(s for s, g in zip(row, good) if g)
        ranks.append(1 + sum(s >= best for s, g in zip(row, good) if not g))
    return ranks


def share_an_id(one, other):
    sets = [[{int(i) for i in np.atleast_1d(row)} - {NO_ID} for row in ids]
            for ids in (one, other)]  # fmt: skip
    return np.array([[bool(a & b) for b in sets[1]] for a in sets[0]]).reshape(
        len(sets[0]), len(sets[1])
    )


def assert_same_as_naive(result, similarity, right):
    for direction, values, good in (
        (result.scene_to_sentence, similarity, right),
        (result.sentence_to_scene, similarity.T, right.T),
    ):
        ranks = naive_ranks(values, good)
        answered = [rank for rank in ranks if rank is not None]
        assert direction.queries == len(answered)
        assert direction.left_out == ranks.count(None)
        assert direction.gallery == values.shape[1]
        if not answered:
            assert math.isnan(direction.mean_rank) and math.isnan(direction.recall[1])
            continue
        assert direction.mean_rank == pytest.approx(np.mean(answered))
        assert direction.median_rank == pytest.approx(np.median(answered))
        for k in (1, 5, 10):
            assert direction.recall[k] == pytest.approx(np.mean([r <= k for r in answered]))
        blind = [good_row.mean() for good_row in good if good_row.any()]
        assert direction.chance == pytest.approx(np.mean(blind))
    assert result.pairs == right.sum()
    if right.any():
        assert result.positive_similarity == pytest.approx(similarity[right].mean())


def from_matrix(similarity, *args, **kwargs):
    return retrieve(lambda r, c: similarity[r][:, c], *args, **kwargs)


@st.composite
def problems(draw):
    """A similarity matrix of few distinct values (so there are ties), and sets of ids."""
    scenes, sentences = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    values = st.integers(-4, 4)
    flat = draw(st.lists(values, min_size=scenes * sentences, max_size=scenes * sentences))
    ids = st.integers(NO_ID, 5)
    groups = draw(st.integers(1, 3))
    scene_ids = draw(st.lists(st.lists(ids, min_size=groups, max_size=groups),
                              min_size=scenes, max_size=scenes))  # fmt: skip
    sentence_ids = draw(st.lists(ids, min_size=sentences, max_size=sentences))
    return (
        torch.tensor(flat, dtype=torch.float32).reshape(scenes, sentences) / 4,
        torch.tensor(scene_ids),
        torch.tensor(sentence_ids),
    )


@settings(BUSY, max_examples=60)
@given(problems(), st.integers(2, 5), st.integers(2, 7))
def test_ranks_are_those_of_a_double_loop_whatever_the_blocks(problem, rows, columns):
    similarity, scene_ids, sentence_ids = problem
    result = from_matrix(similarity, scene_ids, sentence_ids, rows=rows, columns=columns)
    right = share_an_id(scene_ids.numpy(), sentence_ids.numpy())
    assert_same_as_naive(result, similarity.double().numpy(), right)
    assert result == from_matrix(similarity, scene_ids, sentence_ids) or not right.any()


@settings(BUSY, max_examples=30)
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_scenes_and_sentences_does_not_matter(problem, random):
    similarity, scene_ids, sentence_ids = problem
    rows, columns = list(range(len(scene_ids))), list(range(len(sentence_ids)))
    random.shuffle(rows)
    random.shuffle(columns)
    shuffled = from_matrix(
        similarity[rows][:, columns], scene_ids[rows], sentence_ids[columns], rows=3, columns=4
    )
    same = from_matrix(similarity, scene_ids, sentence_ids, rows=3, columns=4)
    assert shuffled.to_dict() == same.to_dict()


@settings(BUSY, max_examples=30)
@given(problems())
def test_a_tie_is_worth_no_more_than_a_loss(problem):
    similarity, scene_ids, sentence_ids = problem
    right = torch.from_numpy(share_an_id(scene_ids.numpy(), sentence_ids.numpy()))
    lost = similarity + 0.01 * (~right)  # every tie turned into a loss
    tied, worse = (from_matrix(s, scene_ids, sentence_ids) for s in (similarity, lost))
    for name in ('scene_to_sentence', 'sentence_to_scene'):
        assert getattr(tied, name) == getattr(worse, name) or not right.any()


def test_parity_with_float64_on_embeddings():
    generator = torch.Generator().manual_seed(0)
    scenes = torch.randn(301, 24, generator=generator)
    sentences = torch.randn(157, 24, generator=generator)
    scene_ids = torch.randint(0, 40, (301, 3), generator=generator)
    sentence_ids = torch.randint(0, 45, (157,), generator=generator)
    ids = (scene_ids, sentence_ids)
    v, t = (x.double() / x.double().norm(dim=1, keepdim=True) for x in (scenes, sentences))
    exact = retrieve_embeddings(scenes.double(), sentences.double(), *ids, rows=64, columns=50)
    right = share_an_id(scene_ids.numpy(), sentence_ids.numpy())
    assert_same_as_naive(exact, (v @ t.T).numpy(), right)
    # half the digits: what is equal within rounding is a tie, so a rank may be worse, never better
    half = retrieve_embeddings(scenes, sentences, *ids, rows=64, columns=50)
    for name in ('scene_to_sentence', 'sentence_to_scene'):
        short, long = getattr(half, name), getattr(exact, name)
        assert 0 <= short.mean_rank - long.mean_rank < 0.05
        assert all(0 <= long.recall[k] - short.recall[k] < 0.01 for k in (1, 5, 10))


@pytest.mark.parametrize('count', [7, 130, 700])
def test_collapsed_embeddings_get_the_worst_rank(count):
    one = torch.randn(48, generator=torch.Generator().manual_seed(1))
    rows = one.expand(count, -1) * torch.linspace(0.3, 3.0, count).unsqueeze(1)
    ids = torch.arange(count)
    result = retrieve_embeddings(rows, rows.flip(0), ids, ids, rows=37, columns=53)
    for direction in (result.scene_to_sentence, result.sentence_to_scene):
        assert direction.mean_rank == direction.median_rank == count
        assert direction.recall[1] == direction.recall[5] == 0.0
    assert uniformity(rows) == pytest.approx(0.0, abs=1e-5)


def test_a_sentence_said_twice_is_right_twice():
    vectors = torch.eye(3)
    twice = vectors[[0, 0, 1, 2]]  # the first sentence stands in the gallery two times
    result = retrieve_embeddings(vectors, twice, torch.arange(3), torch.tensor([0, 0, 1, 2]))
    assert result.scene_to_sentence.recall[1] == result.sentence_to_scene.recall[1] == 1.0
    assert result.pairs == 4
    as_strangers = retrieve_embeddings(vectors, twice, torch.arange(3), torch.tensor([0, 9, 1, 2]))
    assert as_strangers.scene_to_sentence.recall[1] == pytest.approx(2 / 3)
    assert as_strangers.sentence_to_scene.left_out == 1


def test_what_is_not_a_number_never_helps():
    similarity = torch.tensor([[math.nan, 0.1, 0.2], [0.1, 0.9, math.nan], [0.0, 0.0, 1.0]])
    result = from_matrix(similarity, torch.arange(3), torch.arange(3)).scene_to_sentence
    # a right answer without a number is last; a wrong one without a number stands before
    assert result.mean_rank == pytest.approx((3 + 2 + 1) / 3)


def test_a_block_is_all_that_is_ever_asked_for():
    asked = []

    def similarity(r, c):
        asked.append((len(r), len(c)))
        return torch.zeros(len(r), len(c))

    retrieve(similarity, torch.arange(20), torch.arange(30), rows=8, columns=9)
    assert max(r for r, _ in asked) == 8 and max(c for _, c in asked) == 9
    assert sum(r * c for r, c in asked) < 2 * 20 * 30  # few blocks hold a right pair: asked twice


def test_nothing_to_rank_is_no_error():
    empty = retrieve_embeddings(
        torch.zeros(0, 4), torch.zeros(3, 4), torch.zeros(0).long(), torch.arange(3)
    ).to_dict()
    assert empty['scene_to_sentence']['queries'] == 0
    assert empty['scene_to_sentence']['recall_at_1'] is None
    assert empty['sentence_to_scene']['left_out'] == 3


def test_the_first_ones_put_wrong_before_right_where_they_tie():
    similarity = torch.tensor([[0.5, 0.5, 0.1, 0.7]])
    right = torch.tensor([[True, False, True, False]])
    index, values, good = top(similarity, right, 3)
    assert index.tolist() == [[3, 1, 0]] and good.tolist() == [[False, False, True]]
    assert values[0].tolist() == pytest.approx([0.7, 0.5, 0.5])


def test_gap_and_uniformity_are_those_of_their_definitions():
    generator = torch.Generator().manual_seed(3)
    v, t = torch.randn(83, 6, generator=generator) + 1, torch.randn(41, 6, generator=generator)
    a, b = (x.double() / x.double().norm(dim=1, keepdim=True) for x in (v, t))
    assert modality_gap(v, t) == pytest.approx(float((a.mean(0) - b.mean(0)).norm()), abs=1e-6)
    pairs = [math.exp(-2 * float((a[i] - a[j]).square().sum()))
             for i in range(83) for j in range(i)]  # fmt: skip
    for chunk in (7, 83, 500):
        assert uniformity(v, chunk) == pytest.approx(math.log(np.mean(pairs)), abs=1e-5)
    assert modality_gap(v, v * 7) == pytest.approx(0.0, abs=1e-7)
    assert math.isnan(uniformity(v[:1]))
