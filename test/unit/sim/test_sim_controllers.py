"""The simulated joint controllers behave as ros2_control's, and a servoed hand follows them."""

from __future__ import annotations

import numpy as np
import pytest
from servoing import BASE, PerfectArm, PERIOD_NS

from vla_alignment_ros import wire
from vla_alignment_ros.control.joint_commands import (
    COMMAND_TOPICS,
    encode_joints,
    GRIPPER_TOPIC,
    POSITION,
    TRAJECTORY,
    VELOCITY,
)
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ControlError, SimulationError
from vla_alignment_ros.sim.controllers import JointControllers
from vla_alignment_ros.sim.tasks import sample_episode
from vla_alignment_ros.sim.world import TabletopWorld

ROBOT = Embodiment.load('tabletop')
ARM = ROBOT.joint_names
START = np.append(np.linspace(-0.3, 0.3, 7), 0.04)
PERIOD_S = 0.01


@pytest.fixture(scope='module')
def world():
    with TabletopWorld() as made:
        yield made


def controllers(interface: str) -> JointControllers:
    made = JointControllers(ROBOT, interface)
    made.reset(START)
    return made


def trajectory(points, times_s, names=ARM, ts_ns=0) -> bytes:
    return wire.encode_joint_trajectory(ts_ns, '', names, np.array(points), np.array(times_s))


def follow(made: JointControllers, from_s: float, count: int) -> np.ndarray:
    """Arm positions (count, 7) at the end of each period."""
    return np.array([made.advance(from_s + i * PERIOD_S, PERIOD_S)[0] for i in range(count)])


def test_a_trajectory_is_followed_straight_from_point_to_point_and_its_end_is_held():
    made = controllers(TRAJECTORY)
    way = np.ones((1, 7)) * [[0.1], [0.0]] + START[:7]
    made.take(made._topic, trajectory(way, [0.05, 0.1]), now_s=1.0)
    went = follow(made, 1.0, 15) - START[:7]
    up, down = np.linspace(0.02, 0.1, 5), np.linspace(0.08, 0.0, 5)
    expected = np.concatenate([up, down, np.zeros(5)])
    np.testing.assert_allclose(went, expected[:, None] * np.ones(7), atol=1e-12)


def test_a_new_trajectory_begins_where_the_arm_is_commanded_to_be():
    made = controllers(TRAJECTORY)
    made.take(made._topic, trajectory([START[:7] + 0.1], [0.1]), now_s=1.0)
    follow(made, 1.0, 5)  # half-way
    made.take(made._topic, trajectory([START[:7]], [0.05]), now_s=1.05)
    went = follow(made, 1.05, 5) - START[:7]
    np.testing.assert_allclose(went[:, 0], [0.04, 0.03, 0.02, 0.01, 0.0], atol=1e-12)


def test_joints_of_a_trajectory_are_taken_by_name_and_the_gripper_may_be_among_them():
    made = controllers(TRAJECTORY)
    names = (*reversed(ARM), 'finger_joint')
    goal = np.append(np.arange(7) * 0.1, 0.01)
    made.take(made._topic, trajectory([goal], [0.01], names), now_s=1.0)
    joints, opening = made.advance(1.0, PERIOD_S)
    np.testing.assert_allclose(joints, goal[6::-1])
    assert opening == pytest.approx(0.25)


def test_points_of_the_past_are_left_out_and_a_whole_past_is_refused():
    made = controllers(TRAJECTORY)
    points = [START[:7] + 0.5, START[:7] + 0.1]
    made.take(made._topic, trajectory(points, [0.1, 0.3], ts_ns=1_000_000_000), now_s=1.2)
    went = follow(made, 1.2, 10) - START[:7]
    np.testing.assert_allclose(went[:, 0], np.linspace(0.01, 0.1, 10), atol=1e-9)
    with pytest.raises(ControlError, match='ended 0.70 s ago'):
        made.take(made._topic, trajectory(points, [0.1, 0.3], ts_ns=1_000_000_000), now_s=2.0)


@pytest.mark.parametrize(
    'raw',
    [
        trajectory([START[:6]], [0.1], ARM[:6]),
        trajectory([START], [0.1], (*ARM, 'elbow')),
        trajectory([np.full(7, np.nan)], [0.1]),
        trajectory([START[:7], START[:7]], [0.2, 0.1]),
        trajectory(np.zeros((0, 7)), []),
    ],
)
def test_a_trajectory_for_other_joints_or_without_sense_changes_nothing(raw):
    made = controllers(TRAJECTORY)
    with pytest.raises(ControlError):
        made.take(made._topic, raw, now_s=1.0)
    np.testing.assert_array_equal(follow(made, 1.0, 3), np.tile(START[:7], (3, 1)))


def test_positions_are_taken_at_once_and_velocities_kept_until_others_come():
    made = controllers(POSITION)
    made.take(COMMAND_TOPICS[POSITION][0], wire.encode_float64_multi_array(np.ones(7)), 1.0)
    np.testing.assert_array_equal(follow(made, 1.0, 2), np.ones((2, 7)))
    made = controllers(VELOCITY)
    made.take(COMMAND_TOPICS[VELOCITY][0], wire.encode_float64_multi_array(np.ones(7)), 1.0)
    went = follow(made, 1.0, 200) - START[:7]
    np.testing.assert_allclose(went[-1], 2.0)


def test_the_gripper_has_a_controller_of_its_own():
    for interface in COMMAND_TOPICS:
        made = controllers(interface)
        made.take(GRIPPER_TOPIC, wire.encode_float64_multi_array([0.02]), 1.0)
        assert made.advance(1.0, PERIOD_S)[1] == pytest.approx(0.5)
        for values in ([np.nan], [0.01, 0.02]):
            with pytest.raises(ControlError, match='1 finite'):
                made.take(GRIPPER_TOPIC, wire.encode_float64_multi_array(values), 1.0)


def test_parts_of_a_control_period_make_up_a_whole_one(world):
    world.reset(sample_episode(0, 'seen'))
    begin_ns, joints = world.time_ns, world.joint_sample()[1][:7]
    for index in range(1, 21):
        status = world.step_joints(joints, 1.0, 0.01)
        assert world.time_ns == begin_ns + index * 10_000_000
        assert status.steps == index // 10
        assert world.between_steps == (index % 10 == 0)
    world.step_joints(joints, 1.0, 0.06)
    for part in (0.05, 0.011, 0.0):  # no more than is left, and whole steps of the physics
        with pytest.raises(SimulationError, match='no part'):
            world.step_joints(joints, 1.0, part)
    world.step_joints(joints, 1.0, 0.04)
    assert world.between_steps


@pytest.mark.parametrize('interface', [TRAJECTORY, VELOCITY])
@pytest.mark.parametrize('radius_m', [0.05, pytest.param(0.1, marks=pytest.mark.long)])
def test_a_servoed_hand_draws_a_circle_within_two_millimetres(world, interface, radius_m):
    """At 0.1 m/s: both off the circle, and off the point of the circle where it should be now."""
    world.reset(sample_episode(3, 'seen'))
    arm = PerfectArm(corrects=interface == VELOCITY)
    made = JointControllers(ROBOT, interface)
    made.reset(world.joint_sample()[1][:8])
    topic, _ = COMMAND_TOPICS[interface]
    arm.servo.reset()

    def period(twist) -> np.ndarray:
        now_ns = world.time_ns
        arm.servo.measure(world.joint_sample()[1][:7], now_ns)
        arm.servo.command(np.array(twist), BASE, now_ns)
        step = arm.servo.step(now_ns)
        raw = encode_joints(interface, ARM, step.position, step.velocity, PERIOD_NS * 1e-9)
        made.take(topic, raw, now_ns * 1e-9)
        world.step_joints(*made.advance(now_ns * 1e-9, PERIOD_S), PERIOD_S)
        return world.ee_pose()[0]

    for _ in range(50):  # up, away from the table
        period([0.0, 0.0, 0.1, 0.0, 0.0, 0.0])
    for _ in range(40):
        centre = period(np.zeros(6)) + [radius_m, 0.0, 0.0]
    speed = 0.1
    angles = np.arange(int(2 * np.pi * radius_m / speed / PERIOD_S)) * PERIOD_S * speed / radius_m
    went = np.array([
        period([speed * np.sin(angle), speed * np.cos(angle), 0.0, 0.0, 0.0, 0.0])
        for angle in angles
    ])  # fmt: skip
    now = angles + PERIOD_S * speed / radius_m
    there = centre + radius_m * np.array([-np.cos(now), np.sin(now), 0.0 * now]).T
    off_now = np.linalg.norm(went - there, axis=1)
    off_way = np.hypot(
        np.linalg.norm((went - centre)[:, :2], axis=1) - radius_m, (went - centre)[:, 2]
    )
    rms_m = [float(np.sqrt((off**2).mean())) for off in (off_now, off_way)]
    assert max(rms_m) <= 0.002, f'off by {rms_m} m'
    assert np.ptp(went[:, 1]) > 1.9 * radius_m
    here, way = (1e3 * rms for rms in rms_m)
    print(f'{interface}, radius {radius_m} m: RMS {here:.2f} mm, {way:.2f} mm off the circle')
