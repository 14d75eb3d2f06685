"""The world is deterministic, judges from physics, and the expert solves every task in it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vla_alignment_ros.errors import SimulationError
from vla_alignment_ros.sim.expert import Expert, grasp_pose
from vla_alignment_ros.sim.judge import EpisodeStatus, ObjectState
from vla_alignment_ros.sim.scene import TRAY_COLORS
from vla_alignment_ros.sim.spec import Disturbance, DisturbanceSpec, EpisodeSpec, TASKS
from vla_alignment_ros.sim.tasks import sample_episode
from vla_alignment_ros.sim.world import SceneConfig, TabletopWorld

REST = np.zeros(3)


@pytest.fixture(scope='module')
def world():
    with TabletopWorld() as made:
        yield made


def episode_of(task: str, split: str = 'seen', start: int = 0) -> EpisodeSpec:
    return next(
        spec
        for spec in (sample_episode(seed, split) for seed in range(start, start + 200))
        if spec.task == task
    )


def solve(world: TabletopWorld, spec: EpisodeSpec, asked: EpisodeSpec | None = None):
    """Run the expert; `asked` lets it solve another episode than the one that is judged."""
    expert = Expert(world)
    world.reset(spec)
    expert.reset(asked or spec)
    joints = []
    while not expert.done:
        action = expert.action()
        assert action.shape == (7,)
        assert np.all(np.abs(action[:3]) <= 0.05)
        assert np.all(np.abs(action[3:6]) <= 0.25)
        world.step(action[:3] * 10, action[3:6] * 10, action[6])
        joints.append(world.joint_sample()[1])
    return world.status(), np.array(joints)


@pytest.mark.parametrize('task', TASKS)
def test_expert_succeeds(world, task):
    start, failures = 0, []
    for _ in range(6):
        spec = episode_of(task, start=start)
        start = spec.seed + 1
        status, _ = solve(world, spec)
        if not status.success or status.wrong_object:
            failures.append(spec.seed)
    assert not failures


@pytest.mark.parametrize('task', TASKS)
def test_expert_recovers_from_shoves_and_a_disobedient_gripper(world, task):
    spec = episode_of(task)
    rough = DisturbanceSpec(
        noise_m_s=0.03,
        noise_rad_s=0.1,
        events=(
            Disturbance(6, 4, linear_m_s=(0.1, -0.12, 0.05), yaw_rad_s=0.5),
            Disturbance(14, 3, gripper=0.0),
            Disturbance(24, 3, gripper=1.0),
        ),
    )
    status, _ = solve(world, dataclasses.replace(spec, disturbance=rough))
    assert status.success


def test_expert_does_nothing_when_the_object_is_absent(world):
    world.reset(spec := sample_episode(3, 'absent'))
    expert = Expert(world)
    expert.reset(spec)
    np.testing.assert_array_equal(expert.action(), [0, 0, 0, 0, 0, 0, 1])


def test_the_same_episode_runs_bit_for_bit_the_same():
    spec = next(s for s in map(sample_episode, range(100)) if s.disturbance.events)
    with TabletopWorld() as one, TabletopWorld() as two:
        solve(two, sample_episode(77))  # what a world did before must not matter
        _, first = solve(one, spec)
        _, second = solve(two, spec)
    assert first.tobytes() == second.tobytes()


def test_disturbances_can_be_switched_off():
    spec = sample_episode(0, 'seen')
    noisy = dataclasses.replace(spec, disturbance=DisturbanceSpec(noise_m_s=0.05))
    with TabletopWorld(SceneConfig(disturbances=False)) as calm, TabletopWorld() as world:
        _, clean = solve(world, spec)
        _, switched_off = solve(calm, noisy)
        _, disturbed = solve(world, noisy)
    assert clean.tobytes() == switched_off.tobytes()
    assert clean.tobytes() != disturbed.tobytes()


def test_taking_another_object_is_a_wrong_object_and_no_success(world):
    spec = episode_of('pick')
    other = next(item.name for item in spec.scene.objects if item.name != spec.target)
    status, _ = solve(world, spec, asked=dataclasses.replace(spec, target=other))
    assert not status.success
    assert status.wrong_object
    assert other in status.touched
    assert spec.target not in status.touched
    assert status.holding == other


def test_the_wrong_tray_and_the_wrong_side_are_no_success(world):
    place, push = episode_of('place'), episode_of('push')
    tray = next(color for color in TRAY_COLORS if color != place.tray)
    status, _ = solve(world, place, asked=dataclasses.replace(place, tray=tray))
    assert not status.success
    side = 'right' if push.side == 'left' else 'left'
    status, _ = solve(world, push, asked=dataclasses.replace(push, side=side))
    assert not status.success


def test_time_is_up_after_max_steps():
    with TabletopWorld(SceneConfig(max_steps=3)) as world:
        world.reset(sample_episode(0, 'seen'))
        for _ in range(3):
            status = world.step(REST, REST, 1.0)
        assert status.done
        assert status.steps == 3
        assert not status.success


def test_a_step_is_one_control_period_of_the_commanded_twist(world):
    world.reset(sample_episode(0, 'seen'))
    start, time_ns = world.ee_pose()[0], world.time_ns
    places = []
    for _ in range(6):
        world.step([0.0, 0.1, 0.0], REST, 0.0)
        places.append(world.ee_pose()[0])
    assert world.time_ns - time_ns == 600_000_000
    # under way it has the commanded speed, and after stopping it is where it was sent
    np.testing.assert_allclose(places[-1] - places[-3], [0.0, 0.02, 0.0], atol=0.001)
    for _ in range(4):
        world.step(REST, REST, 0.0)
    np.testing.assert_allclose(world.ee_pose()[0] - start, [0.0, 0.06, 0.0], atol=0.001)
    assert world.gripper_opening() < 0.1


def test_the_tool_stays_above_the_table_and_inside_the_workspace(world):
    world.reset(sample_episode(0, 'seen'))
    for _ in range(40):
        world.step([0.0, 0.5, -0.5], REST, 0.0)
    position = world.ee_pose()[0]
    assert position[2] > 0.008
    assert position[1] < 0.34


def test_joint_commands_move_the_arm_to_the_joints(world):
    world.reset(sample_episode(0, 'seen'))
    goal = world.joint_sample()[1][:7] + [0.1, 0.0, 0.05, 0.0, 0.0, -0.05, 0.2]
    for _ in range(8):
        world.step_joints(goal, 0.5)
    names, position, velocity = world.joint_sample()
    assert names[:7] == tuple(f'joint{i}' for i in range(1, 8))
    assert names[7] == 'finger_joint'
    np.testing.assert_allclose(position[:7], goal, atol=0.01)
    np.testing.assert_allclose(position[7:], 0.02, atol=0.002)
    assert velocity.shape == position.shape


@pytest.mark.parametrize(
    'command', [(np.array([np.nan, 0, 0]), REST, 1.0), (REST, REST, float('inf'))]
)
def test_a_command_that_is_not_finite_is_refused(world, command):
    world.reset(sample_episode(0, 'seen'))
    with pytest.raises(SimulationError, match='finite'):
        world.step(*command)


def test_a_world_without_an_episode_says_so():
    with TabletopWorld() as world:
        with pytest.raises(SimulationError, match='reset'):
            world.render('front', 32, 32)
        with pytest.raises(SimulationError, match='reset'):
            world.step(REST, REST, 1.0)
        with pytest.raises(SimulationError, match='reset'):
            world.status()


def test_status_starts_clean_after_a_reset(world):
    solve(world, episode_of('pick'))
    status = world.reset(sample_episode(1, 'seen'))
    assert status == EpisodeStatus(False, (), False, 0, None)
    assert status == world.status()


@pytest.mark.parametrize(
    'shape, yaw, expected',
    [('cube', 0.5, 0.5), ('cube', 1.2, 1.2 - np.pi / 2), ('brick', 1.2, 1.2), ('ball', 1.0, 0.0)],
)
def test_grasp_yaw_follows_the_sides_modulo_symmetry(shape, yaw, expected):
    c, s = np.cos(yaw), np.sin(yaw)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    state = ObjectState('x', 'red', shape, np.array([0.5, 0, 0.02]), rotation, 0.0)
    assert grasp_pose(state)[1] == pytest.approx(expected)
