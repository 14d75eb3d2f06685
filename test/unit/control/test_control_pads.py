"""A gamepad moves nothing but while its dead-man button is held, and a silent one is let go."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from vla_alignment_ros.control.pads import Pad, PadReader, shaped
from vla_alignment_ros.errors import ConfigError, ControlError

SMALL = {
    'deadman': 0,
    'axes': [{'axis': 1}, {'axis': 0, 'scale': -0.5}, {'plus': 2, 'minus': 3}],
    'gripper': 1,
    'start': 4,
}
LEFT_STICK_UP = {1: 1.0}


class Hand:
    """A person at a pad of eight axes and thirteen buttons."""

    def __init__(self, pad: Pad, expo: float = 0.0) -> None:
        self.reader = PadReader(pad, dead_zone=0.1, expo=expo, timeout_s=0.3)
        self.now_s = 100.0

    def send(
        self, axes: dict[int, float] = {}, *pressed: int, stamp_s: float = 0.0  # noqa: B006
    ) -> list[str]:
        self.now_s += 0.05
        sticks, buttons = np.zeros(8, np.float32), np.zeros(13, np.int32)
        for number, value in axes.items():
            sticks[number] = value
        buttons[list(pressed)] = 1
        return self.reader.take(sticks, buttons, self.now_s, stamp_s)

    def wants(self, later_s: float = 0.0):
        return self.reader.deflection(self.now_s + later_s)


@pytest.fixture
def hand() -> Hand:
    made = Hand(Pad.from_dict(SMALL))
    made.send()
    return made


def test_sticks_alone_move_nothing(hand):
    hand.send(LEFT_STICK_UP)
    assert hand.wants() is None
    hand.send(LEFT_STICK_UP, 0)
    np.testing.assert_allclose(hand.wants(), [1, 0, 0, 0, 0, 0, 0])
    hand.send(LEFT_STICK_UP)
    assert hand.wants() is None


def test_axes_and_pairs_of_buttons_move_the_dimensions_of_the_mapping(hand):
    hand.send({0: 1.0}, 0, 2)
    np.testing.assert_allclose(hand.wants(), [0, -(0.5 - 0.1) / 0.9, 1, 0, 0, 0, 0], atol=1e-6)
    hand.send({}, 0, 3)
    np.testing.assert_allclose(hand.wants(), [0, 0, -1, 0, 0, 0, 0])
    hand.send({}, 0, 2, 3)
    np.testing.assert_allclose(hand.wants(), np.zeros(7))


def test_a_silent_pad_is_let_go_and_has_to_be_taken_anew(hand):
    hand.send(LEFT_STICK_UP, 0)
    assert hand.wants(0.3) is not None
    assert hand.wants(0.31) is None
    hand.now_s += 1.0
    hand.send(LEFT_STICK_UP, 0)  # it lies on its button
    assert hand.wants() is None
    hand.send()
    hand.send(LEFT_STICK_UP, 0)
    assert hand.wants() is not None


def test_a_pad_whose_button_is_held_at_the_start_has_to_be_let_go_first():
    hand = Hand(Pad.from_dict(SMALL))
    hand.send(LEFT_STICK_UP, 0)
    hand.send(LEFT_STICK_UP, 0)
    assert hand.wants() is None
    hand.send()
    hand.send(LEFT_STICK_UP, 0)
    assert hand.wants() is not None


def test_a_driver_that_hangs_and_says_the_same_again_and_again_is_a_silent_pad(hand):
    hand.send(LEFT_STICK_UP, 0, stamp_s=7.0)
    assert hand.wants() is not None
    for _ in range(6):
        hand.send(LEFT_STICK_UP, 0, stamp_s=7.0)
    assert hand.wants(0.0) is not None  # 0.3 s since it said something new
    hand.send(LEFT_STICK_UP, 0, stamp_s=7.0)
    assert hand.wants() is None
    hand.send(LEFT_STICK_UP, 0, stamp_s=7.4)  # and has to be taken anew
    assert hand.wants() is None
    hand.send(stamp_s=7.5)
    hand.send(LEFT_STICK_UP, 0, stamp_s=7.6)
    assert hand.wants() is not None


@pytest.mark.parametrize('apart_s', [0.0, 1e6, -1e6])
def test_what_was_held_back_on_the_way_does_not_drive_whatever_the_clocks_say(hand, apart_s):
    for _ in range(3):
        hand.send(LEFT_STICK_UP, 0, stamp_s=hand.now_s + 0.05 + apart_s + 2e6)
    assert hand.wants() is not None
    sent_s = hand.now_s + apart_s + 2e6
    for step in range(1, 12):  # half as fast as time goes
        hand.send(LEFT_STICK_UP, 0, stamp_s=sent_s + 0.025 * step)
    assert hand.wants() is not None  # 0.275 s late
    for step in range(12, 20):
        hand.send(LEFT_STICK_UP, 0, stamp_s=sent_s + 0.025 * step)
    assert hand.wants() is None


def test_a_pads_clock_that_is_set_back_is_a_silence_and_no_more(hand):
    hand.send(LEFT_STICK_UP, 0, stamp_s=5000.0)
    for step in range(8):
        hand.send(LEFT_STICK_UP, 0, stamp_s=1000.0 + 0.05 * step)
    assert hand.wants() is None
    hand.send(stamp_s=1000.4)
    hand.send(LEFT_STICK_UP, 0, stamp_s=1000.45)
    assert hand.wants() is not None


def test_a_button_does_its_work_once_and_the_gripper_only_for_who_holds_the_dead_man(hand):
    assert hand.send({}, 1) == []
    assert hand.send() == []
    assert hand.send({}, 0, 1) == ['gripper']
    assert hand.send({}, 0, 1) == []
    assert hand.send({}, 4) == ['start']
    assert hand.send({}, 4) == []
    hand.now_s += 1.0
    assert hand.send({}, 4, 0) == []  # pressed who knows when


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_an_axis_that_is_not_finite_lets_go(hand, bad):
    hand.send(LEFT_STICK_UP, 0)
    with pytest.raises(ControlError, match='not finite'):
        hand.send({1: bad}, 0)
    assert hand.wants() is None


def test_another_pad_than_that_of_the_mapping_is_named_and_moves_nothing(hand):
    hand.send(LEFT_STICK_UP, 0)
    with pytest.raises(ControlError, match='has 1 axes and 2 buttons, its mapping needs 2 and 5'):
        hand.reader.take(np.zeros(1), np.ones(2), hand.now_s)
    assert hand.wants() is None


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.floats(-1, 1), st.floats(0, 0.9), st.floats(0, 1))
def test_shaping_keeps_the_way_and_the_end_and_is_nothing_in_the_dead_zone(value, zone, expo):
    found = float(shaped(np.array(value), zone, expo))
    assert abs(found) <= abs(value) + 1e-12
    assert found * value >= 0.0
    if abs(value) <= zone:
        assert found == 0.0
    assert float(shaped(np.array(np.sign(value)), zone, expo)) == pytest.approx(np.sign(value))


def test_expo_makes_small_deflections_smaller():
    assert float(shaped(np.array(0.5), 0.0, 1.0)) == pytest.approx(0.125)
    assert float(shaped(np.array(0.5), 0.0, 0.0)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ('name', 'start', 'joint7'), [('xbox', 7, (10, 9)), ('ps', 9, (12, 11))]
)
def test_shipped_pads_move_forward_left_up_with_sticks_pushed_forward_left_up(
    name, start, joint7
):
    hand = Hand(Pad.load(name))
    hand.send()
    hand.send({1: 1.0, 0: 1.0, 4: 1.0, 6: -1.0, 7: 1.0, 3: 1.0}, 4)
    np.testing.assert_allclose(hand.wants(), [1, 1, 1, 1, 1, 1, 0])
    for button, way in zip(joint7, (1.0, -1.0)):
        hand.send({}, 4, button)
        assert hand.wants()[6] == way
    assert hand.send({}, start) == ['start']
    assert 'nothing moves without it' in Pad.load(name).help


def changed(**changes):
    return {**SMALL, **changes}


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (changed(deadman=-1), 'deadman'),
        (changed(start=0), 'two things'),
        (changed(axes=[{'plus': 0}]), 'two things'),
        (changed(axes=[]), '1…7 entries'),
        (changed(axes=[{}] * 8), '1…7 entries'),
        (changed(axes={}), 'must be a list'),
        (changed(axes=[{'axis': 0, 'scale': 2.0}]), 'scale'),
        (changed(axes=[{'axis': 0, 'scale': 0}]), 'scale'),
        (changed(gripper='A'), 'gripper must be a number'),
        (changed(gripper=True), 'gripper must be a number'),
        (changed(help=3), 'help must be a text'),
        (changed(jump=3), 'unknown key jump in pad; allowed: deadman, axes'),
        ({'axes': []}, 'pad lacks deadman'),
        ([], 'pad must be a mapping'),
    ],
)  # fmt: skip
def test_a_mapping_that_makes_no_sense_is_refused_and_why(data, message):
    with pytest.raises(ConfigError, match=message):
        Pad.from_dict(data)


def test_a_file_is_named_in_what_is_wrong_with_it_and_unknown_names_list_the_shipped(tmp_path):
    with pytest.raises(ConfigError, match="no pad 'wheel'; shipped ones: ps, xbox"):
        Pad.load('wheel')
    file = tmp_path / 'mine.yaml'
    for text, message in (('deadman: [', 'not valid YAML'), ('axes: []', 'lacks deadman')):
        file.write_text(text)
        with pytest.raises(ConfigError, match=f'mine.yaml.*{message}'):
            Pad.load(file)


@pytest.mark.parametrize('wrong', [(1.0, 0.0, 0.3), (0.1, 2.0, 0.3), (0.1, 0.0, 0.0)])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match='dead_zone'):
        PadReader(Pad.from_dict(SMALL), *wrong)
