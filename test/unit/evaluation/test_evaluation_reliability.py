"""Calibration error, AUROC and sensitivities are those of their definitions."""

from __future__ import annotations

import math

from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from vla_alignment_ros.evaluation.reliability import (
    action_sensitivity,
    auroc,
    reliability,
    score_sensitivity,
)

# a busy machine is no reason to fail
BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SCORES = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def naive_ece(probability, match, bins):
    error = 0.0
    for index in range(bins):
        low, high = index / bins, (index + 1) / bins
        last = index == bins - 1
        inside = [(p, y) for p, y in zip(probability, match) if low <= p < high or last and p == 1]
        if inside:
            p, y = (sum(values) / len(inside) for values in zip(*inside))
            error += len(inside) / len(probability) * abs(p - y)
    return error


def test_the_error_is_that_of_a_plain_loop():
    rng = np.random.default_rng(0)
    probability = rng.beta(0.6, 0.6, 500)
    match = rng.random(500) < probability**2
    found = reliability(probability, match)
    assert found.ece == pytest.approx(naive_ece(probability, match, 15))
    assert found.count == sum(b.count for b in found.bins) == 500
    assert len(reliability(probability, match, bins=4).bins) == 4


def test_a_score_that_is_always_right_has_no_error_and_a_sure_wrong_one_the_whole():
    match = np.array([True, False, True])
    assert reliability(match.astype(float), match).ece == 0.0
    assert reliability(1.0 - match, match).ece == 1.0
    half = reliability(np.full(4, 0.5), np.array([True, False, True, False]))
    assert half.ece == 0.0 and [b.count for b in half.bins] == [4]


def test_adaptive_bins_hold_equal_counts_and_equal_scores_share_one():
    rng = np.random.default_rng(1)
    skewed = rng.random(600) ** 6  # nearly all in the first bin of equal width
    match = rng.random(600) < skewed
    adaptive = reliability(skewed, match, adaptive=True)
    assert [b.count for b in adaptive.bins] == [40] * 15
    assert all(b.low <= b.confidence <= b.high for b in adaptive.bins)
    same = reliability(np.r_[np.full(50, 0.3), 0.9], np.ones(51, bool), adaptive=True)
    assert sum(b.count == 50 or b.count == 51 for b in same.bins) == 1
    assert len(same.bins) <= 2


@settings(BUSY, max_examples=60)
@given(SCORES, st.booleans(), st.randoms(use_true_random=False))
def test_the_error_is_a_share_and_order_does_not_matter(pairs, adaptive, random):
    found = reliability(*map(np.array, zip(*pairs)), adaptive=adaptive)
    shuffled = list(pairs)
    random.shuffle(shuffled)
    again = reliability(*map(np.array, zip(*shuffled)), adaptive=adaptive)
    assert 0.0 <= found.ece <= 1.0
    assert again.ece == pytest.approx(found.ece, abs=1e-12)
    assert found.count == len(pairs)


@pytest.mark.parametrize('bad', [[1.2], [-0.1], [math.nan]])
def test_what_is_no_probability_is_refused(bad):
    with pytest.raises(ValueError, match='probabilities'):
        reliability(np.array(bad), np.array([True]))


def test_auroc_counts_a_tie_as_half():
    good, bad = np.array([0.9, 0.5, 0.5]), np.array([0.5, 0.1])
    wins = np.mean([(g > b) + 0.5 * (g == b) for g in good for b in bad])
    assert auroc(good, bad) == pytest.approx(wins)
    assert auroc(np.ones(3), np.ones(4)) == 0.5
    assert math.isnan(auroc(np.ones(3), np.array([])))


def test_a_score_that_stays_is_no_fall():
    mean, falls = score_sensitivity(np.array([0.9, 0.4, 0.3]), np.array([0.1, 0.4, 0.5]))
    assert mean == pytest.approx(0.2) and falls == 1


def test_an_action_that_ignores_the_words_has_no_sensitivity():
    own = np.array([[1.0, -1.0], [3.0, 1.0]])
    assert action_sensitivity(own, own) == 0.0
    assert action_sensitivity(own, -own) == pytest.approx(2.0)
    assert math.isnan(action_sensitivity(np.zeros((0, 7)), np.zeros((0, 7))))
    assert math.isnan(action_sensitivity(np.zeros((2, 7)), np.ones((2, 7))))
