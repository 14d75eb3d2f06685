"""Who has the arm: a person from a command on until they are silent, else the policy."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from vla_alignment_ros.control.intervention import Intervention
from vla_alignment_ros.errors import ConfigError, ControlError

MS = 1_000_000
RIGHT = np.array([0.01, 0, 0, 0, 0, 0, 1.0])


@pytest.fixture
def told() -> list[bool]:
    return []


@pytest.fixture
def person(told) -> Intervention:
    return Intervention(0.5, told.append)


def test_a_command_takes_over_and_silence_lets_go(person, told):
    assert person.wish(0) is None and not person.drives
    person.take(RIGHT, 100 * MS)
    assert not person.drives  # whoever commands has not asked yet
    np.testing.assert_array_equal(person.wish(200 * MS), RIGHT)
    assert person.drives
    person.take(-RIGHT, 500 * MS)
    np.testing.assert_array_equal(person.wish(1000 * MS), -RIGHT)
    assert person.wish(1001 * MS) is None and not person.drives
    assert told == [True, False]
    assert person.take_overs == 1
    assert person.driven_s(9000 * MS) == pytest.approx(0.801)


def test_a_command_that_was_too_old_when_it_was_looked_for_never_took_over(person, told):
    person.take(RIGHT, 0)
    assert person.wish(501 * MS) is None
    assert told == [] and person.take_overs == 0


def test_what_is_not_finite_is_refused_and_the_command_before_it_stands(person):
    person.take(RIGHT, 0)
    for bad in (np.nan, np.inf):
        with pytest.raises(ControlError, match='finite'):
            person.take(RIGHT + [0, 0, bad, 0, 0, 0, 0], 400 * MS)
    np.testing.assert_array_equal(person.wish(400 * MS), RIGHT)
    assert person.wish(501 * MS) is None  # they did not count as a sign of life either


def test_a_beginning_says_that_nobody_drives_and_an_end_lets_go(person, told):
    person.take(RIGHT, 0)
    person.wish(0)
    person.end(300 * MS)
    person.end(400 * MS)
    assert told == [True, False]
    person.take(RIGHT, 500 * MS)
    person.begin()
    assert told == [True, False, False]
    assert person.wish(500 * MS) is None
    assert person.key_values(600 * MS) == {
        'driver': 'policy', 'take_overs': '1', 'driven_s': '0.3'}  # fmt: skip


def test_the_figures_count_whoever_drives_now(person):
    person.take(RIGHT, 0)
    person.wish(0)
    assert person.key_values(400 * MS) == {
        'driver': 'person', 'take_overs': '1', 'driven_s': '0.4'}  # fmt: skip


@pytest.mark.parametrize('timeout_s', [0.0, -1.0, float('nan')])
def test_a_person_who_can_never_drive_is_refused(timeout_s):
    with pytest.raises(ConfigError, match='intervention_timeout_s'):
        Intervention(timeout_s)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.integers(0, 900), st.booleans()), max_size=30))
def test_whatever_comes_when_the_newest_command_counts_for_its_time_and_hands_alternate(steps):
    told: list[bool] = []
    person = Intervention(0.5, told.append)
    now, newest, owner, since, driven = 0, None, False, 0, 0
    for wait_ms, commands in steps:
        now += wait_ms * MS
        if commands:
            newest = (now, np.full(7, len(told) + now / 1e15))
            person.take(newest[1], now)
        wish = person.wish(now)
        fresh = newest is not None and now - newest[0] <= 500 * MS
        assert (wish is not None) == fresh == person.drives
        if fresh:
            np.testing.assert_array_equal(wish, newest[1])
        driven += (now - since) * owner
        owner, since = fresh, now
        assert person.driven_s(now) == pytest.approx(driven * 1e-9)
    assert told == [bool(k % 2 == 0) for k in range(len(told))]
    assert person.take_overs == told.count(True)
