from __future__ import annotations

import dataclasses
import inspect

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from vla_alignment_ros import wire
from vla_alignment_ros.control import codecs
from vla_alignment_ros.control.codecs import decode_chunk, encode_chunk, make_codec
from vla_alignment_ros.control.guard import ActionGuard
from vla_alignment_ros.embodiment import CommandSpec, Embodiment, package_path
from vla_alignment_ros.errors import ControlError, EmbodimentError, WireError
from vla_alignment_ros.observation import ActionChunk

SHIPPED = sorted(p.stem for p in package_path('config', 'embodiments').glob('*.yaml'))
TS_NS = 1_234_567_890_123_456_789


def load(name: str, **changes) -> Embodiment:
    return dataclasses.replace(Embodiment.load(name), **changes)


def middle(embodiment: Embodiment) -> np.ndarray:
    """An action inside the limits, every number another."""
    low, high = np.array(embodiment.action.low), np.array(embodiment.action.high)
    return (low + (high - low) * np.linspace(0.2, 0.85, 7)).astype(np.float32)


@pytest.mark.parametrize('name', SHIPPED)
@settings(max_examples=60, deadline=None)
@given(shares=st.lists(st.floats(-3, 3, width=32), min_size=7, max_size=7))
def test_decoding_gives_back_what_was_encoded(name, shares):
    embodiment = Embodiment.load(name)
    codec = make_codec(embodiment)
    action = (np.array(shares) * np.array(embodiment.action.high)).astype(np.float32)
    back = codec.decode(codec.encode(action, TS_NS))
    assert back.dtype == np.float32
    moves = [not name.startswith('unused') for name in embodiment.action.names[:6]]
    np.testing.assert_array_equal(back[:6], np.where(moves, action[:6], 0.0))
    # the gripper may go through its joint's range, which costs a rounding
    np.testing.assert_allclose(back[6], action[6], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize('name', SHIPPED)
def test_a_shipped_embodiment_says_what_its_codec_says(name):
    embodiment = Embodiment.load(name)
    codec = make_codec(embodiment)
    assert codec.topics == embodiment.command_topics()
    raw = codec.encode(middle(embodiment), TS_NS)
    assert raw.keys() == codec.topics.keys()
    assert list(raw)[-1] == codec.trigger  # the message that completes the command goes last
    for topic, msgtype in codec.topics.items():
        wire.decode(raw[topic], msgtype)
    ActionGuard(embodiment)  # its limits leave room to stand still
    stamp = wire.stamp_ns(raw[codec.trigger], codec.topics[codec.trigger])
    assert stamp in (TS_NS, None)


def test_a_twist_is_the_delta_times_the_rate_in_the_named_frame():
    codec = make_codec(load('tabletop'))
    raw = codec.encode([0.01, -0.02, 0.03, 0.1, -0.2, 0.05, 0.25], TS_NS)
    twist = wire.decode_twist_stamped(raw['servo/delta_twist_cmds'])
    np.testing.assert_allclose(twist.linear, [0.1, -0.2, 0.3])  # m/s at 10 Hz
    np.testing.assert_allclose(twist.angular, [1.0, -2.0, 0.5])
    assert (twist.frame_id, twist.ts_ns) == ('base_link', TS_NS)
    assert wire.decode_float64(raw['gripper/command']) == 0.25


def test_a_trajectory_is_one_point_with_the_gripper_joint_in_its_own_unit():
    embodiment = load('generic_jtc')
    topic = embodiment.command.topics['command']
    raw = make_codec(embodiment).encode([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.5], TS_NS)
    sample = wire.decode_joint_trajectory(raw[topic])
    assert sample.names == (*embodiment.joint_names, 'gripper_joint')
    np.testing.assert_allclose(sample.positions, [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.025]])
    np.testing.assert_allclose(sample.time_from_start_s, [0.1])
    assert sample.ts_ns == TS_NS


def test_a_hand_with_its_own_topic_leaves_the_arm_controller_its_six_values():
    embodiment = load('ur_forward_velocity')
    raw = make_codec(embodiment).encode([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.9], TS_NS)
    values = wire.decode_float64_multi_array(raw[embodiment.command.topics['command']])
    np.testing.assert_array_equal(values, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert wire.decode_float64(raw['gripper/command']) == 0.9


def test_a_gripper_that_closes_at_a_larger_angle_keeps_the_sign_of_the_action():
    topics = {'command': 'forward_velocity_controller/commands'}
    embodiment = load('ur_forward_velocity', command=CommandSpec('multi_array', topics))
    codec = make_codec(embodiment)
    values = wire.decode_float64_multi_array(codec.encode([0] * 6 + [1.0], 0)[codec.trigger])
    assert values[6] == 0.0  # open
    values = wire.decode_float64_multi_array(codec.encode([0] * 6 + [0.0], 0)[codec.trigger])
    assert values[6] == 0.8  # closed


def test_seven_joints_are_sent_as_they_are():
    base = Embodiment.load('generic_jtc')
    names = tuple(f'joint_{i}' for i in range(1, 8))
    codec = make_codec(dataclasses.replace(base, joint_names=names))
    action = np.linspace(-1, 1, 7, dtype=np.float32)
    raw = codec.encode(action, TS_NS)
    assert wire.decode_joint_trajectory(raw[codec.trigger]).names == names
    np.testing.assert_array_equal(codec.decode(raw), action)
    topics = {**base.command.topics, 'gripper': 'gripper/command'}
    with pytest.raises(ControlError, match='remove it'):
        make_codec(
            dataclasses.replace(
                base, joint_names=names, command=CommandSpec('joint_trajectory', topics)
            )
        )


def test_an_arm_of_five_joints_sends_five_and_the_gripper_and_leaves_one_number_unused():
    embodiment = load('so101')
    codec = make_codec(embodiment)
    lerobot = {'shoulder_pan': 90.0, 'shoulder_lift': -45.0, 'elbow_flex': 30.0,
               'wrist_flex': 0.0, 'wrist_roll': 180.0 / np.pi, 'gripper': 25.0}  # fmt: skip
    joints = np.deg2rad([lerobot[name] for name in embodiment.joint_names])
    action = np.array([*joints, 0.0, lerobot['gripper'] / 100.0], np.float32)
    raw = codec.encode(action, TS_NS)
    sample = wire.decode_joint_trajectory(raw[codec.trigger])
    assert sample.names == (*embodiment.joint_names, 'gripper')
    expected = [np.pi / 2, -np.pi / 4, np.pi / 6, 0.0, 1.0, -0.174533 + 0.25 * 1.919863]
    np.testing.assert_allclose(sample.positions[0], expected, atol=1e-6)
    np.testing.assert_allclose(codec.decode(raw), action, atol=1e-6)


def test_an_arm_of_five_joints_is_held_where_it_is():
    embodiment = load('so101')
    codec, guard = make_codec(embodiment), ActionGuard(embodiment)
    state = np.array([0.1, -0.2, 0.3, -0.4, 0.5, 0.75])  # five joints, the opening
    expected = [0.1, -0.2, 0.3, -0.4, 0.5, 0.0, 0.75]
    np.testing.assert_allclose(codec.hold_action(state=state)[0], expected)
    guard.reset(state)
    np.testing.assert_allclose(guard.decelerate(), expected)


# where robots' own descriptions end; what is allowed is within that: source in each file
PUBLISHED = {
    'so101': ([-1.91986, -1.74533, -1.69, -1.65806, -2.74385],
              [1.91986, 1.74533, 1.69, 1.65806, 2.84121], [10.0] * 5),
    'ur_forward_velocity': ([-2 * np.pi, -2 * np.pi, -np.pi, *[-2 * np.pi] * 3],
                            [2 * np.pi, 2 * np.pi, np.pi, *[2 * np.pi] * 3], [np.pi] * 6),
}  # fmt: skip


@pytest.mark.parametrize('name', PUBLISHED)
def test_what_is_allowed_is_within_what_the_robot_can(name):
    embodiment = load(name)
    low, high, velocity = map(np.array, PUBLISHED[name])
    count, action = len(low), embodiment.action
    assert len(embodiment.joint_names) == count
    assert (np.array(action.max_velocity)[:count] <= velocity).all()
    ends = (low, high) if action.space == 'joint_position' else (-velocity, velocity)
    assert (np.array(action.low)[:count] >= ends[0]).all()
    assert (np.array(action.high)[:count] <= ends[1]).all()
    if action.position_low is not None:
        assert (np.array(action.position_low) >= low).all()
        assert (np.array(action.position_high) <= high).all()


# -- hold ---------------------------------------------------------------------------------------


def state_of(embodiment: Embodiment, opening: float) -> np.ndarray:
    return np.array([0.1 * i for i in range(1, len(embodiment.joint_names) + 1)] + [opening, 9.0])


def test_holding_a_twist_is_zero_motion_and_the_gripper_as_commanded():
    codec = make_codec(load('tabletop'))
    last = np.array([0.02] * 6 + [0.0])
    # the fingers stand on an object, so they measure more than what is commanded
    held = codec.decode(codec.hold(TS_NS, last, state_of(codec.embodiment, 0.4)))
    np.testing.assert_array_equal(held, np.zeros(7))
    held = codec.decode(codec.hold(TS_NS, state=state_of(codec.embodiment, 0.4)))
    np.testing.assert_allclose(held, [0, 0, 0, 0, 0, 0, 0.4], rtol=1e-6)


def test_holding_with_nothing_known_leaves_the_gripper_alone():
    codec = make_codec(load('tabletop'))
    assert codec.hold(TS_NS).keys() == {'servo/delta_twist_cmds'}
    twist = wire.decode_twist_stamped(codec.hold(TS_NS)['servo/delta_twist_cmds'])
    assert not twist.linear.any()
    assert not twist.angular.any()


def test_holding_joint_positions_is_staying_where_the_joints_are():
    codec = make_codec(load('generic_jtc'))
    last = np.array([1.0] * 6 + [0.0])
    state = state_of(codec.embodiment, 0.7)
    held = codec.decode(codec.hold(TS_NS, last, state))
    np.testing.assert_allclose(held, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(codec.decode(codec.hold(TS_NS, last)), last)
    with pytest.raises(ControlError, match='state or last_action'):
        codec.hold(TS_NS)


def test_holding_joint_velocities_is_zero():
    codec = make_codec(load('ur_forward_velocity'))
    held = codec.decode(codec.hold(TS_NS, np.ones(7)))
    np.testing.assert_array_equal(held, [0, 0, 0, 0, 0, 0, 1])


def test_a_gripper_that_is_sent_with_the_arm_is_never_guessed():
    topics = {'command': 'commands'}
    codec = make_codec(load('ur_forward_velocity', command=CommandSpec('multi_array', topics)))
    with pytest.raises(ControlError, match='where the gripper is'):
        codec.hold(TS_NS)


# -- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_an_action_that_is_not_finite_is_never_encoded(bad):
    with pytest.raises(ControlError, match=r'dimensions \[3\]'):
        make_codec(load('tabletop')).encode([0, 0, 0, bad, 0, 0, 1], TS_NS)


def test_an_action_of_another_length_is_never_encoded():
    with pytest.raises(ControlError, match=r'shape \(7,\), got \(6,\)'):
        make_codec(load('tabletop')).encode(np.zeros(6), TS_NS)


def test_a_command_that_is_not_finite_is_refused():
    codec = make_codec(load('tabletop'))
    raw = codec.encode(np.zeros(7), TS_NS)
    raw['servo/delta_twist_cmds'] = wire.encode_twist_stamped(
        TS_NS, 'base_link', np.array([np.nan, 0, 0]), np.zeros(3)
    )
    with pytest.raises(ControlError, match='finite'):
        codec.decode(raw)


def test_a_twist_in_another_frame_is_refused_with_both_named():
    codec = make_codec(load('tabletop'))
    raw = codec.encode(np.zeros(7), TS_NS)
    raw['servo/delta_twist_cmds'] = wire.encode_twist_stamped(
        TS_NS, 'tool0', np.zeros(3), np.zeros(3)
    )
    with pytest.raises(ControlError, match=r"'tool0'.*'base_link'"):
        codec.decode(raw)


def test_a_missing_command_topic_is_named():
    codec = make_codec(load('tabletop'))
    raw = codec.encode(np.zeros(7), TS_NS)
    del raw['gripper/command']
    with pytest.raises(ControlError, match="'gripper/command'"):
        codec.decode(raw)


def trajectory(names, rows, frame='base_link') -> bytes:
    return wire.encode_joint_trajectory(
        TS_NS, frame, names, np.array(rows), 0.1 * (1 + np.arange(len(rows)))
    )


def test_joints_in_another_order_are_sorted_by_name():
    codec = make_codec(load('generic_jtc'))
    names = tuple(reversed(codec.sent_names))
    raw = {codec.trigger: trajectory(names, [[0.05, 6, 5, 4, 3, 2, 1]])}
    np.testing.assert_array_equal(codec.decode(raw), [1, 2, 3, 4, 5, 6, 1])


@pytest.mark.parametrize(
    ('rows', 'change', 'frame', 'message'),
    [
        (1, lambda n: ('elbow', *n[1:]), 'base_link', r"'elbow'.*'joint_1'"),
        (1, lambda n: n[:6], 'base_link', 'moves joints'),
        (1, lambda n: (n[1], *n[1:]), 'base_link', 'moves joints'),
        (2, lambda n: n, 'base_link', 'one point per control step'),
        (0, lambda n: n, 'base_link', 'one point'),
        (1, lambda n: n, 'tool0', "'tool0'"),
    ],
)
def test_a_trajectory_of_something_else_is_refused(rows, change, frame, message):
    codec = make_codec(load('generic_jtc'))
    names = change(codec.sent_names)
    raw = {codec.trigger: trajectory(names, np.zeros((rows, len(names))), frame)}
    with pytest.raises(ControlError, match=message):
        codec.decode(raw)


def test_an_array_of_another_length_is_refused():
    codec = make_codec(load('ur_forward_velocity'))
    raw = codec.encode(np.zeros(7), TS_NS)
    raw[codec.trigger] = wire.encode_float64_multi_array(np.zeros(7))
    with pytest.raises(ControlError, match=r'shape \(7,\).*sends 6 values'):
        codec.decode(raw)


def test_truncated_bytes_are_a_named_error():
    codec = make_codec(load('tabletop'))
    raw = codec.encode(np.zeros(7), TS_NS)
    raw['servo/delta_twist_cmds'] = raw['servo/delta_twist_cmds'][:-20]
    with pytest.raises(WireError, match='TwistStamped'):
        codec.decode(raw)


@pytest.mark.parametrize('name', sorted(codecs.CODECS))
def test_every_codec_carries_some_action_space_and_refuses_the_others(name):
    codec = codecs.CODECS[name]
    assert codec.spaces
    assert not inspect.isabstract(codec)
    for shipped in SHIPPED:
        embodiment = Embodiment.load(shipped)
        if embodiment.action.space not in codec.spaces:
            with pytest.raises(ControlError, match='cannot carry'):
                codec(embodiment)


def test_an_embodiment_with_an_unknown_codec_does_not_load():
    with pytest.raises(EmbodimentError, match='twist'):
        load('tabletop', command=CommandSpec('telepathy', {}))


# -- chunks -------------------------------------------------------------------------------------


def test_a_published_chunk_is_read_back():
    embodiment = load('tabletop')
    actions = np.random.default_rng(0).uniform(-0.05, 0.05, (6, 7)).astype(np.float32)
    chunk = ActionChunk(TS_NS, actions, 10.0, 'lift the red cube')
    raw = encode_chunk(embodiment, chunk)
    sample = wire.decode_joint_trajectory(raw)
    assert sample.names == embodiment.action.names
    np.testing.assert_allclose(sample.time_from_start_s, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    back = decode_chunk(embodiment, raw, 'lift the red cube')
    np.testing.assert_array_equal(back.actions, actions)
    assert back.actions.dtype == np.float32
    assert (back.ts_ns, back.rate_hz, back.instruction) == (TS_NS, 10.0, 'lift the red cube')


def test_a_chunk_of_another_robot_is_refused():
    embodiment = load('tabletop')
    raw = encode_chunk(load('generic_jtc'), ActionChunk(0, np.zeros((2, 7), np.float32), 10.0))
    with pytest.raises(ControlError, match=r'joint_1.*dx'):
        decode_chunk(embodiment, raw)


def test_a_chunk_without_points_is_refused():
    embodiment = load('tabletop')
    raw = trajectory(embodiment.action.names, np.zeros((0, 7)))
    with pytest.raises(ControlError, match='at least one point'):
        decode_chunk(embodiment, raw)


def test_a_chunk_of_another_width_is_refused():
    with pytest.raises(ControlError, match=r'\(H, 7\), got \(2, 6\)'):
        encode_chunk(load('tabletop'), ActionChunk(0, np.zeros((2, 6), np.float32), 10.0))
