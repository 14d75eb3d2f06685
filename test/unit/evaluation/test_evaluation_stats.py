"""The intervals are Wilson's: known values, bounds, and behaviour over all counts."""
import math

from hypothesis import given
from hypothesis import strategies as st
import pytest

from vla_alignment_ros.evaluation.stats import median, rate, wilson_interval


@pytest.mark.parametrize(
    ('successes', 'trials', 'low', 'high'),
    [
        (15, 50, 0.191036, 0.437504),
        (43, 50, 0.738138, 0.930492),
        (0, 10, 0.0, 0.277533),
        (20, 20, 0.838875, 1.0),
        (1, 1, 0.206549, 1.0),
    ],
)
def test_interval_matches_reference_values(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=2e-6)


def test_no_trials_say_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert rate(0, 0) == 0.0


@pytest.mark.parametrize(('successes', 'trials'), [(-1, 5), (6, 5), (0, -1)])
def test_impossible_counts_are_refused(successes, trials):
    with pytest.raises(ValueError, match='possible outcome'):
        wilson_interval(successes, trials)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_holds_the_rate_and_mirrors(counts):
    successes, trials = counts
    low, high = wilson_interval(successes, trials)
    assert 0.0 <= low <= successes / trials <= high <= 1.0
    assert high - low < 1.0
    mirrored_low, mirrored_high = wilson_interval(trials - successes, trials)
    assert (1 - mirrored_high, 1 - mirrored_low) == pytest.approx((low, high), abs=1e-9)


@given(st.integers(1, 1000))
def test_interval_solves_wilsons_equation(trials):
    successes = trials // 3
    for bound in wilson_interval(successes, trials):
        if 0.0 < bound < 1.0:
            distance = abs(successes / trials - bound)
            expected = 1.959964 * math.sqrt(bound * (1 - bound) / trials)
            assert distance == pytest.approx(expected, rel=1e-6)


def test_median_of_none_is_nan():
    assert math.isnan(median([]))
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5
