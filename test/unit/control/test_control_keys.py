"""Keys count for a moment each; what is typed is an instruction and moves nothing."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from vla_alignment_ros.control.keys import DOES, help_text, KeyParser, KeyReader, MOVES, STAY
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ConfigError


@pytest.fixture
def reader() -> KeyReader:
    return KeyReader(0.2)


def test_a_key_counts_for_a_moment_and_then_nobody_drives(reader):
    assert reader.deflection(0.0) is None
    assert reader.take('w', 1.0) is None
    np.testing.assert_array_equal(reader.deflection(1.2), [1, 0, 0, 0, 0, 0, 0])
    assert reader.deflection(1.21) is None


def test_a_key_that_is_repeated_moves_on_evenly_and_the_pause_before_is_a_stop(reader):
    reader.take('w', 0.0)  # held from here on: terminals repeat after half a second, then often
    stamps = [0.5 + 0.03 * k for k in range(20)]
    moved = []
    for now in np.arange(0.0, 1.3, 0.01):
        while stamps and stamps[0] <= now:
            reader.take('w', stamps.pop(0))
        moved.append(reader.deflection(now) is not None)
    assert np.diff(np.flatnonzero(np.diff(moved))).size == 2  # moves, stops, moves, stops
    assert not moved[40] and all(moved[51:120])


def test_keys_of_two_dimensions_count_together_and_the_later_one_of_two_ways(reader):
    reader.take('w', 0.0)
    reader.take('left', 0.1)
    np.testing.assert_array_equal(reader.deflection(0.15), [1, 1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(reader.deflection(0.25), [0, 1, 0, 0, 0, 0, 0])
    reader.take('d', 0.26)
    np.testing.assert_array_equal(reader.deflection(0.27), [0, -1, 0, 0, 0, 0, 0])


def test_who_holds_still_drives_and_moves_nothing(reader):
    reader.take('w', 0.0)
    reader.take(STAY, 0.05)
    np.testing.assert_array_equal(reader.deflection(0.1), np.zeros(7))
    assert reader.deflection(0.26) is None


def test_the_gripper_key_is_a_command_of_its_own(reader):
    assert reader.take(' ', 0.0) == ('gripper', '')
    np.testing.assert_array_equal(reader.deflection(0.1), np.zeros(7))


def test_capitals_are_the_same_keys_and_others_none(reader):
    reader.take('W', 0.0)
    assert reader.deflection(0.1)[0] == 1
    assert reader.take('1', 0.0) == ('start', '')
    assert reader.take('z', 5.0) is None and reader.deflection(5.0) is None


def test_typing_an_instruction_stops_the_arm_and_letters_are_letters(reader):
    reader.take('w', 0.0)
    assert reader.take('i', 0.05) is None
    assert reader.deflection(0.06) is None
    for key in 'lift itt':
        assert reader.take(key, 0.1) is None
    reader.take('backspace', 0.1)
    reader.take('up', 0.1)  # no letter
    assert reader.typed == 'lift it'
    assert reader.deflection(0.1) is None
    assert reader.take('enter', 0.1) == ('say', 'lift it')
    assert reader.typed is None
    assert reader.take('2', 0.2) == ('success', '')


@pytest.mark.parametrize('keys', [['a', 'escape'], ['enter'], [' ', 'enter'], ['\x04']])
def test_nothing_is_said_that_was_not_typed_or_was_given_up(reader, keys):
    reader.take('i', 0.0)
    assert [reader.take(key, 0.0) for key in keys] == [None] * len(keys)
    assert reader.typed is None


@pytest.mark.parametrize(
    ('name', 'line'),
    [
        ('tabletop', 'a d, left right   left, right'),
        ('generic_jtc', 'q e               joint_3 +, −'),
        ('ur_forward_velocity', 'w s, up down      shoulder_pan +, −'),
    ],
)
def test_every_key_that_does_something_to_a_robot_has_its_place_in_the_help(name, line):
    text = help_text(Embodiment.load(name))
    words = [word.strip(',') for word in text.split()]
    said = {' ': 'space', '\x04': 'Ctrl-D'}
    moves = [key for key, (dim, _) in MOVES.items() if dim < 6]
    for key in (*moves, *DOES, STAY):
        assert said.get(key, key) in words, key
    assert line in text
    assert 'gripper +' not in text and not {'m', 'n'} & set(words)  # there is no seventh joint


def test_a_timeout_of_nothing_is_refused():
    with pytest.raises(ConfigError, match='key_timeout_s'):
        KeyReader(0.0)


@pytest.mark.parametrize(
    ('data', 'keys'),
    [
        (b'ws ', ['w', 's', ' ']),
        (b'\x1b[A\x1bOB\x1b[C\x1b[D', ['up', 'down', 'right', 'left']),
        (b'\r\x7f\x08\n', ['enter', 'backspace', 'backspace', 'enter']),
        ('é'.encode(), ['é']),
        (b'\xff\xfew', ['w']),
        (b'\x1b[3~w', ['w']),  # Delete
        (b'\x1b[1;5Aw', ['w']),  # Ctrl and an arrow
        (b'\x1bx w', [' ', 'w']),  # Alt and x
        (b'\x1b\x1b[A', ['escape', 'up']),
        (b'\x04', ['\x04']),
    ],
)
def test_bytes_of_a_terminal_become_keys_however_they_are_cut(data, keys):
    for cut in range(len(data) + 1):
        parser = KeyParser()
        assert parser.feed(data[:cut]) + parser.feed(data[cut:]) == keys


def test_a_lone_escape_is_a_key_once_nothing_follows():
    parser = KeyParser()
    assert parser.feed(b'\x1b') == [] and parser.waiting
    assert parser.pause() == ['escape'] and not parser.waiting
    assert parser.pause() == []


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=40))
def test_no_rubbish_upsets_the_parser(data):
    parser = KeyParser()
    keys = parser.feed(data) + parser.pause()
    assert all(isinstance(key, str) and key for key in keys)
    assert parser.feed(b'[A w')[-1] == 'w'
