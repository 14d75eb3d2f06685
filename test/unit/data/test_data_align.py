from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from vla_alignment_ros.data import align

STAMPS = st.lists(st.integers(0, 50), max_size=30).map(lambda v: np.array(v, np.int64))
SORTED = STAMPS.map(np.sort)


@given(STAMPS, SORTED)
def test_as_of_is_the_newest_message_and_never_a_future_one(stamps, ticks):
    picks = align.as_of(stamps, ticks)
    for tick, pick in zip(ticks, picks):
        past = [i for i, stamp in enumerate(stamps) if stamp <= tick]
        # of equal stamps the one that arrived last
        expected = max(past, key=lambda i: (stamps[i], i)) if past else -1
        assert pick == expected


@given(STAMPS, SORTED, st.integers(0, 50))
def test_messages_of_the_future_change_nothing(stamps, ticks, now):
    ticks = ticks[ticks <= now]
    known = stamps[stamps <= now]
    picks, short = align.as_of(stamps, ticks), align.as_of(known, ticks)
    seen = [stamps[i] if i >= 0 else None for i in picks]
    assert seen == [known[i] if i >= 0 else None for i in short]


def test_commands_at_the_control_rate_are_the_ticks_themselves():
    stamps = np.array([0, 101, 199, 300, 402, 300]) * 1_000_000
    assert align.control_ticks(stamps, 10.0).tolist() == sorted(set(stamps.tolist()))


@pytest.mark.parametrize('command_hz', [50.0, 2.0])
def test_commands_at_another_rate_give_a_regular_grid(command_hz):
    stamps = (np.arange(0, 5, 1 / command_hz) * 1e9).astype(np.int64)
    ticks = align.control_ticks(stamps, 10.0)
    assert (np.diff(ticks) == 100_000_000).all()
    assert ticks[0] == stamps[0]
    assert stamps[-1] - 100_000_000 < ticks[-1] <= stamps[-1]


def test_the_grid_does_not_drift_where_the_period_is_not_a_whole_nanosecond():
    stamps = (np.arange(0, 300, 0.01) * 1e9).astype(np.int64)
    ticks = align.control_ticks(stamps, 30.0)
    ideal = stamps[0] + np.arange(len(ticks)) * 1e9 / 30.0
    assert np.abs(ticks - ideal).max() <= 1


@given(st.lists(st.integers(1, 400), max_size=30))
def test_a_segment_has_no_gap_inside_and_ends_at_one(intervals):
    ticks = np.cumsum([0, *intervals]).astype(np.int64) * 1_000_000
    limit_ns = align.GAP_PERIODS * 100_000_000
    stops = align.segment_stops(ticks, 10.0)
    for i, stop in enumerate(stops):
        assert i < stop <= len(ticks)
        assert (np.diff(ticks[i:stop]) <= limit_ns).all()
        assert stop == len(ticks) or ticks[stop] - ticks[stop - 1] > limit_ns


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_next_change_is_the_first_crossing_from_here_on_or_the_end(gripper):
    found = align.next_change(np.array(gripper))
    crossings = [
        i for i in range(1, len(gripper)) if (gripper[i] >= 0.5) != (gripper[i - 1] >= 0.5)
    ]
    for i, change in enumerate(found):
        assert change == next((c for c in crossings if c >= i), len(gripper) - 1)


def test_topics_published_once_per_tick_in_either_order_belong_together():
    together = align.published_together
    assert together(np.array([10, 20, 30]), np.array([12, 19, 31]))
    assert together(np.array([10, 20]), np.array([10, 20]))
    assert not together(np.array([10, 20, 30]), np.array([12, 19]))
    assert not together(np.array([10, 20, 30]), np.array([21, 31, 41]))
    assert not together(np.array([], np.int64), np.array([], np.int64))


def test_log_time_stands_in_for_a_missing_header_where_both_clocks_agree():
    log = np.array([5, 15, 25]) * 1_000_000
    reference = np.array([0, 10, 20]) * 1_000_000
    assert (align.headerless(log, reference + 3_000_000, reference) == log).all()


def test_the_newest_stamped_message_dates_one_without_header_where_clocks_differ():
    wall = 1_700_000_000_000_000_000
    reference_log = wall + np.array([0, 10, 20])
    reference = np.array([0, 100, 200])
    log = wall + np.array([-1, 0, 9, 10, 99])
    assert align.headerless(log, reference_log, reference).tolist() == [0, 0, 0, 100, 200]


def test_stamps_that_were_never_set_are_replaced_by_log_time():
    log = np.array([3, 4, 5])
    assert (align.header_or_log(np.zeros(3, np.int64), log) == log).all()
    assert align.header_or_log(np.array([0, 1, 2]), log).tolist() == [0, 1, 2]
