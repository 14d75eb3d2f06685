"""Servoing: the hand goes where it is told, and no joint beyond its limits."""

from __future__ import annotations

import dataclasses

import daqp
import numpy as np
import pytest
from servoing import BASE, HAND, HOME, limits_used, PerfectArm, PERIOD_NS, tabletop_kinematics

from vla_alignment_ros.control.servo import GO, HOLD, Servo, ServoConfig, SLOW
from vla_alignment_ros.errors import ConfigError, ControlError, EmbodimentError
from vla_alignment_ros.kinematics import ForwardKinematics, rotation_log

FORWARD = (0.1, 0.0, 0.0, 0.0, 0.0, 0.0)
ROUNDING = 1e-9


@pytest.fixture
def arm() -> PerfectArm:
    made = PerfectArm()
    made.place()
    return made


@pytest.fixture(scope='module')
def five_joints(tmp_path_factory) -> ForwardKinematics:
    """Pan, lift, elbow, wrist and roll, as a hobby arm has them."""
    axes = {'pan': '0 0 1', 'lift': '0 1 0', 'elbow': '0 1 0', 'wrist': '0 1 0', 'roll': '0 0 1'}
    parts, parent = ['<link name="base"/>'], 'base'
    for name, axis in axes.items():
        parts.append(
            f'<joint name="{name}" type="revolute"><parent link="{parent}"/>'
            f'<child link="{name}_link"/><origin xyz="0 0 0.2"/><axis xyz="{axis}"/>'
            '<limit lower="-1.9" upper="1.9" effort="10" velocity="3"/></joint>'
            f'<link name="{name}_link"/>'
        )
        parent = f'{name}_link'
    path = tmp_path_factory.mktemp('arm') / 'five.urdf'
    path.write_text(f'<robot name="five">{"".join(parts)}</robot>')
    return ForwardKinematics(path, tuple(axes), 'base', 'roll_link')


# -- where it goes ------------------------------------------------------------------------------


def test_the_hand_moves_along_the_twist_as_fast_as_it_says(arm):
    twist = np.array([0.06, -0.08, 0.03, 0.2, -0.1, 0.3])
    steps = arm.run(twist, 100)
    (p0, r0), (p1, r1) = arm.hand(steps[-51]), arm.hand(steps[-1])
    np.testing.assert_allclose(p1 - p0, 0.5 * twist[:3], atol=2e-4)
    np.testing.assert_allclose(rotation_log(r1 @ r0.T), 0.5 * twist[3:], atol=2e-3)
    assert (steps[-1].state, steps[-1].reason) == (GO, '')


def test_a_twist_in_the_frame_of_the_hand_goes_along_its_own_axes(arm):
    steps = arm.run((0.0, 0.0, 0.05, 0.0, 0.0, 0.0), 60, HAND)
    (p0, rotation), (p1, _) = arm.hand(steps[-21]), arm.hand(steps[-1])
    np.testing.assert_allclose(p1 - p0, 0.2 * 0.05 * rotation[:, 2], atol=1e-4)
    assert p1[2] < p0[2]  # out of a hand that points down


def test_what_is_faster_than_allowed_keeps_its_direction(arm):
    steps = arm.run((1.0, 1.0, 0.0, 0.0, 0.0, 0.0), 40)
    p0, p1 = arm.hand(steps[-6])[0], arm.hand(steps[-1])[0]
    np.testing.assert_allclose((p1 - p0) / 0.05, [0.3536, 0.3536, 0.0], atol=4e-3)


def test_a_slow_joint_slows_the_hand_and_keeps_it_on_its_way():
    arm = PerfectArm(velocity_scale=0.1)
    arm.place()
    steps = arm.run((0.0, 0.3, 0.0, 0.0, 0.0, 0.0), 80)
    path = np.array([arm.hand(s)[0] for s in steps]) - arm.hand(steps[0])[0]
    assert np.abs(path[:, [0, 2]]).max() < 5e-4
    assert (np.diff(path[:, 1]) > 0).all()
    assert steps[-1].state == SLOW
    assert 'speed limit' in steps[-1].reason
    assert 0.1 < steps[-1].speed < 0.98


def test_an_arm_of_five_joints_keeps_the_position_and_turns_as_it_must(five_joints):
    arm = PerfectArm(five_joints, slow_condition=100.0, stop_condition=200.0)
    arm.place(np.array([0.3, 0.4, 0.9, 0.6, 0.2]))
    twist = (0.02, 0.05, 0.02, 0.0, 0.0, 0.0)
    steps = arm.run(twist, 70, 'base')
    p0, p1 = arm.hand(steps[-41])[0], arm.hand(steps[-1])[0]
    np.testing.assert_allclose(p1 - p0, 0.4 * np.array(twist[:3]), atol=5e-4)


# -- limits -------------------------------------------------------------------------------------


def wild(arm: PerfectArm, rng: np.random.Generator, twists: int) -> list[dict[str, float]]:
    """So many random twists, silences, starting points; how much of its limits each run used."""
    limits, used = arm.servo.motion.limits, []
    while twists > 0:
        share = np.clip(rng.uniform(-0.1, 1.1, 7), 0.01, 0.99)  # some joints are near an end
        start = limits.low + share * (limits.high - limits.low)
        arm.place(start)
        steps, patience = [], int(30 ** rng.random())  # periods that a twist lasts
        for index in range(100):
            if index % patience == 0:
                twists -= 1
                sizes = 10.0 ** rng.uniform(-2, 1, 6)
                twist = rng.normal(size=6) * sizes
                frame = str(rng.choice([BASE, HAND]))
            steps.append(arm.period(twist if rng.random() < 0.9 else None, frame))
        used.append(limits_used(arm.servo, steps, start))
    return used


@pytest.mark.parametrize(
    'count', [1000, pytest.param(100_000, marks=[pytest.mark.long, pytest.mark.timeout(7200)])]
)
def test_whatever_is_wanted_no_joint_leaves_its_limits(count):
    rng, used = np.random.default_rng(5), []
    acceleration = (3.0, 5.0, 3.0, 8.0, 5.0, 20.0, 10.0)
    for config in (
        {},
        {'velocity_scale': 0.2, 'acceleration': acceleration},
        {'slow_condition': 1e5, 'stop_condition': 1e6, 'position_margin': 0.0},
        {'velocity_scale': 0.1, 'slow_condition': 1e5, 'stop_condition': 1e6},
    ):
        used += wild(PerfectArm(**config), rng, count // 4)
    for limit in ('position', 'velocity', 'acceleration'):
        most = max(one[limit] for one in used)
        assert most <= 1.0 + ROUNDING, f'{limit} broken {most} times'
        assert most > 0.999, f'{limit}: only {most:.3f} of it was tried'


def test_at_the_end_of_a_joints_range_the_arm_is_still_and_says_which_joint(arm):
    near = HOME.copy()
    near[6] = 2.5
    arm.place(near)
    steps = arm.run((0.0, 0.0, 0.0, 0.0, 0.0, -1.0), 330)
    assert not any(step.velocity.any() for step in steps[-50:])
    assert steps[-1].state == HOLD
    assert 'joint7 at the end of its range' in steps[-1].reason
    back = arm.run((0.0, 0.0, 0.0, 0.0, 0.0, 1.0), 60)
    assert back[-1].state == GO


def test_where_the_arm_is_beyond_its_range_it_may_only_come_back():
    arm = PerfectArm()
    limits = arm.servo.motion.limits
    start = HOME.copy()
    start[6] = limits.high[6] + 0.03  # within the margin
    arm.place(start)
    positions = [s.position[6] for s in arm.run((0.0, 0.0, 0.0, 0.0, 0.0, -1.0), 20)]
    assert max(positions) <= start[6]
    arm.place(start)
    positions = [s.position[6] for s in arm.run((0.0, 0.0, 0.0, 0.0, 0.0, 1.0), 60)]
    assert positions[-1] < limits.high[6]


# -- singularities ------------------------------------------------------------------------------


def test_towards_a_singularity_the_hand_slows_down_and_stops(arm):
    steps = arm.run((0.2, 0.0, 0.0, 0.0, 0.0, 0.0), 320)
    conditions = np.array([s.condition for s in steps])
    assert conditions.max() <= 30.0 * 1.01
    assert conditions.max() > 29.0
    slow = [s for s in steps if s.condition > 18.0]
    assert all('singularity' in s.reason for s in slow)
    speeds = [s.speed for s in slow]
    assert speeds[0] > 0.8 and speeds[-1] < 0.01
    assert (np.diff(speeds) <= 1e-6).all()


def test_out_of_a_singularity_the_way_is_free(arm):
    arm.run((0.2, 0.0, 0.0, 0.0, 0.0, 0.0), 320)
    steps = arm.run((-0.2, 0.0, 0.0, 0.0, 0.0, 0.0), 60)
    assert steps[-1].state == GO
    assert steps[-1].condition < 25.0
    assert arm.hand(steps[-1])[0][0] < arm.hand(steps[0])[0][0] - 0.05


# -- stopping -----------------------------------------------------------------------------------


def test_without_twists_it_rests_after_the_time_out_and_braking(arm):
    moving = arm.run((0.0, 0.4, 0.0, 0.0, 0.0, 0.0), 60)[-1]
    steps = [arm.period() for _ in range(80)]
    rest = next(i for i, s in enumerate(steps) if not s.velocity.any()) + 1
    braking = np.ceil(np.abs(moving.velocity).max() / (5.0 * 0.01))
    assert rest <= 10 + braking  # 0.1 s, at 100 Hz
    assert steps[8].state == GO and steps[9].state == HOLD
    assert steps[-1].reason.startswith('no twist for 0.8')
    changes = np.abs(np.diff([s.velocity for s in [moving, *steps]], axis=0))
    assert changes.max() <= 5.0 * 0.01 + ROUNDING


def test_it_stops_on_its_way(arm):
    arm.run((0.0, 0.4, 0.0, 0.0, 0.0, 0.0), 60)
    steps = [arm.period() for _ in range(60)]
    path = np.array([arm.hand(s)[0] for s in steps[10:]])
    assert np.ptp(path[:, 1]) > 0.01  # it needed a while
    assert np.ptp(path[:, [0, 2]], axis=0).max() < 2e-3


def test_joint_states_that_fall_silent_stop_it(arm):
    arm.run(FORWARD, 40)
    for index in range(60):
        arm.now_ns += PERIOD_NS
        arm.servo.command(np.array(FORWARD), BASE, arm.now_ns)
        step = arm.servo.step(arm.now_ns)
        if index < 19:
            assert step.state == GO
    assert step.state == HOLD
    assert step.reason == 'joint states are 0.60 s old (limit 0.2 s)'
    assert not step.velocity.any()


def test_before_joint_states_nothing_is_commanded():
    arm = PerfectArm()
    arm.servo.command(np.array(FORWARD), BASE, arm.now_ns)
    assert arm.servo.step(arm.now_ns) is None
    assert arm.servo.hold_reason(arm.now_ns) == 'no joint states yet'


@pytest.mark.parametrize(
    'twist, frame, reason',
    [
        ((np.nan, 0, 0, 0, 0, 0), BASE, 'not finite'),
        ((0, 0, 0, 0, np.inf, 0), BASE, 'not finite'),
        (FORWARD, 'camera', "in frame 'camera': send it in 'base_link', or in 'tool0'"),
        (FORWARD, '', "in frame ''"),
    ],
)
def test_a_twist_that_means_nothing_is_refused_and_stops_the_arm(arm, twist, frame, reason):
    arm.run(FORWARD, 40)
    with pytest.raises(ControlError, match=reason):
        arm.servo.command(np.array(twist), frame, arm.now_ns)
    step = arm.period()
    assert step.state == HOLD
    assert reason in step.reason
    assert arm.run(FORWARD, 5)[-1].state == GO


def test_positions_that_are_not_finite_are_refused(arm):
    for values in (np.full(7, np.nan), np.zeros(6)):
        with pytest.raises(ControlError, match='7 finite joint positions'):
            arm.servo.measure(values, arm.now_ns)


def test_an_arm_that_does_not_follow_is_stopped_and_goes_on_from_where_it_is(arm):
    for _ in range(200):  # the drives are off: whatever is commanded, nothing moves
        arm.now_ns += PERIOD_NS
        arm.servo.measure(HOME, arm.now_ns)
        arm.servo.command(np.array((0.0, 0.3, 0.0, 0.0, 0.0, 0.0)), BASE, arm.now_ns)
        step = arm.servo.step(arm.now_ns)
        if step.state == HOLD:
            break
    assert 'the arm does not follow: joint' in step.reason
    for _ in range(40):
        arm.now_ns += PERIOD_NS
        arm.servo.measure(HOME, arm.now_ns)
        step = arm.servo.step(arm.now_ns)
    np.testing.assert_array_equal(step.position, HOME)


def test_a_halt_stops_it_whatever_it_was_told(arm):
    arm.run(FORWARD, 40)
    for _ in range(40):
        arm.now_ns += PERIOD_NS
        arm.servo.command(np.array(FORWARD), BASE, arm.now_ns)
        step = arm.servo.step(arm.now_ns, halt='deactivated')
    assert (step.state, step.reason) == (HOLD, 'deactivated')
    assert arm.servo.motion.at_rest


def test_where_no_solution_is_found_it_brakes_and_says_so(arm, monkeypatch):
    moving = arm.run(FORWARD, 40)[-1]
    solve = daqp.solve

    def cycling(*problem):
        found, cost, _, about = solve(*problem)
        return found, cost, -2, about  # daqp's word for it

    monkeypatch.setattr(daqp, 'solve', cycling)
    steps = arm.run(FORWARD, 40)
    assert (steps[0].state, steps[0].reason) == (HOLD, 'no motion of the joints was found')
    assert not steps[-1].velocity.any()
    changes = np.abs(np.diff([s.velocity for s in [moving, *steps]], axis=0))
    assert changes.max() <= 5.0 * 0.01 + ROUNDING
    monkeypatch.undo()
    assert arm.run(FORWARD, 40)[-1].state == GO


# -- what cannot be servoed ---------------------------------------------------------------------


def test_other_joints_than_those_that_move_the_hand_are_refused():
    names = tabletop_kinematics().joint_names
    for others in (names[:6], (*names, 'finger_joint')):
        with pytest.raises(EmbodimentError, match='name exactly those'):
            Servo(tabletop_kinematics(others), ServoConfig())


@pytest.mark.parametrize(
    'config, error, reason',
    [
        ({'acceleration': (1.0, 2.0)}, ConfigError, 'one value, or one for each of joint1'),
        ({'position_margin': 1.6}, EmbodimentError, 'joint4 leave no room'),
    ],
)
def test_a_setting_that_fits_no_arm_is_refused(config, error, reason):
    with pytest.raises(error, match=reason):
        Servo(tabletop_kinematics(), ServoConfig(**config))


def test_thresholds_the_wrong_way_round_are_refused():
    with pytest.raises(ConfigError, match='must be below'):
        dataclasses.replace(ServoConfig(), slow_condition=40.0)
