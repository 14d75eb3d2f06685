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
    return [gate.update(value, instruction, 0) for value in values]


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


def scored(g, *values: float, start_s: float = 0.0, instruction: str = 'lift it') -> list[str]:
    """What it asks for after each score; one per second."""
    asked = []
    for second, value in enumerate(values):
        g.update(value, instruction, round((start_s + second) * 1e9))
        asked.append(g.needs_help)
    return asked


def test_a_score_that_stays_low_asks_for_help_in_words():
    *before, asked = scored(gate(help_s=3.0), 0.03, 0.03, 0.03, 0.03)
    assert before == [''] * 3
    assert asked == (
        "the scene does not seem to contain what 'lift it' names (score 0.03, needs 0.60)"
    )


def test_after_the_first_motion_help_names_the_score_that_ends_the_hold():
    g = gate(help_s=2.0)
    states(g, 0.9, 0.9)
    assert 'needs 0.35' in scored(g, *[0.1] * 5)[-1]


def test_a_score_that_is_not_a_number_asks_for_help_too():
    assert 'score nan' in scored(gate(help_s=1.0), math.nan, math.nan)[-1]


def test_help_is_not_needed_any_more_once_the_gate_opens():
    g = gate(help_s=1.0)
    assert scored(g, 0.1, 0.1, 0.9, 0.9)[-1] == ''
    assert scored(g, 0.1, 0.1, start_s=10.0)[-1] == ''  # a new hold begins to count


def test_another_instruction_takes_the_cry_for_help_back():
    g = gate(help_s=1.0)
    assert scored(g, 0.1, 0.1)[-1]
    assert scored(g, 0.1, start_s=2.0, instruction='push it') == ['']


def test_a_pause_without_scores_does_not_count_as_a_low_score():
    g = gate(help_s=3.0)
    scored(g, 0.1, 0.1)
    g.interrupt()
    assert scored(g, 0.1, 0.1, start_s=5.0)[-1] == ''


def test_good_scores_that_are_not_confirmed_yet_are_no_reason_for_help():
    assert scored(gate(help_s=2.0, confirm=9), *[0.9] * 5)[-1] == ''


@given(st.lists(st.tuples(scores, st.sampled_from('ab')), max_size=60))
def test_no_sequence_moves_without_confirmation_or_against_two_low_scores(updates):
    g = gate()
    history: list[tuple[float, str]] = []
    for score, instruction in updates:
        state = g.update(score, instruction, 0)
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
        {'go_threshold': 0.6, 'hold_threshold': 0.3, 'help_s': -1.0},
    ],
)
def test_thresholds_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ConfigError, match='gate'):
        AlignmentGate(**arguments)
