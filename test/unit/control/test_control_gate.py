from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
import pytest

from vla_alignment_ros.control.gate import AlignmentGate
from vla_alignment_ros.errors import ConfigError

scores = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.3, 0.6, 1.0, math.nan]))


def gate(**settings) -> AlignmentGate:
    return AlignmentGate(0.6, 0.3, **{'hysteresis': 0.05, 'confirm': 2, 'dwell': 2, **settings})


def states(gate: AlignmentGate, *values: float, instruction: str = 'lift it') -> list[str]:
    return [gate.update(value, instruction) for value in values]


def test_motion_starts_only_after_enough_good_scores_in_a_row():
    assert states(gate(confirm=3), 0.9, 0.9, 0.5, 0.9, 0.9, 0.9) == ['hold'] * 5 + ['go']


def test_an_object_that_is_not_there_never_starts_a_motion():
    assert set(states(gate(), *[0.59] * 50)) == {'hold'}


def test_a_new_instruction_has_to_be_confirmed_again():
    g = gate()
    assert states(g, 0.9, 0.9) == ['hold', 'go']
    assert states(g, 0.9, 0.9, instruction='push it') == ['hold', 'go']


def test_a_falling_score_slows_then_holds_and_each_takes_its_dwell():
    g = gate()
    states(g, 0.9, 0.9)
    assert states(g, 0.5, 0.5, 0.2, 0.2, 0.2) == ['go', 'slow', 'slow', 'hold', 'hold']


def test_a_single_good_score_does_not_end_the_slow():
    g = gate()
    states(g, 0.9, 0.9)
    assert states(g, 0.5, 0.5, 0.9, 0.9) == ['go', 'slow', 'slow', 'go']


def test_a_fall_below_both_thresholds_holds_at_once_after_the_dwell():
    g = gate()
    states(g, 0.9, 0.9)
    assert states(g, 0.5, 0.1) == ['go', 'hold']


def test_a_single_outlier_changes_nothing():
    g = gate()
    states(g, 0.9, 0.9)
    assert states(g, 0.0, 0.9, 0.0, 0.9) == ['go'] * 4


def test_hysteresis_keeps_the_state_near_a_threshold():
    g = gate()
    states(g, 0.9, 0.9)
    assert states(g, *[0.56] * 4) == ['go'] * 4
    assert states(g, 0.54, 0.54) == ['go', 'slow']
    assert states(g, *[0.58] * 4) == ['slow'] * 4
    assert states(g, 0.61, 0.61) == ['slow', 'go']
    assert states(g, 0.1, 0.1) == ['go', 'hold']
    assert states(g, *[0.33] * 4) == ['hold'] * 4
    assert states(g, 0.36, 0.36) == ['hold', 'slow']


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_holds_at_once_and_asks_for_confirmation(bad):
    g = gate()
    states(g, 0.9, 0.9)
    assert states(g, bad, 0.9, 0.9) == ['hold', 'hold', 'go']


def test_updates_in_hold_are_counted_for_a_cry_for_help():
    g = gate()
    states(g, *[0.1] * 7)
    assert g.updates_in_hold == 7
    states(g, 0.9, 0.9)
    assert g.updates_in_hold == 0


@given(st.lists(st.tuples(scores, st.sampled_from('ab')), max_size=60))
def test_no_sequence_moves_without_confirmation_or_against_two_low_scores(updates):
    g = gate()
    history: list[tuple[float, str]] = []
    for score, instruction in updates:
        state = g.update(score, instruction)
        history.append((score, instruction))
        if state == 'hold':
            continue
        same = [s for s, i in history[-2:] if i == instruction]
        assert len(same) == 2  # never on the first decision for an instruction
        assert not all(s < 0.3 for s in same)
        assert math.isfinite(score)


@pytest.mark.parametrize(
    'arguments',
    [
        {'go_threshold': 0.2, 'hold_threshold': 0.3},
        {'go_threshold': 1.2, 'hold_threshold': 0.3},
        {'go_threshold': math.nan, 'hold_threshold': 0.3},
        {'go_threshold': 0.6, 'hold_threshold': 0.3, 'confirm': 0},
        {'go_threshold': 0.6, 'hold_threshold': 0.3, 'hysteresis': -0.1},
    ],
)
def test_thresholds_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ConfigError, match='gate'):
        AlignmentGate(**arguments)
