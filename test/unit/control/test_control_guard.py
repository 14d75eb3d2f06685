from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st
from motion_limits import (
    assert_all_were_tried,
    assert_within_limits,
    EMBODIMENTS,
    make_embodiment,
    random_wishes,
    RANGE,
    RATE_HZ,
    SLACK,
    speeds,
)
import numpy as np
import pytest

from vla_alignment_ros.control.guard import ActionGuard
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ControlError


def start_of(embodiment: Embodiment) -> tuple[ActionGuard, np.ndarray, np.ndarray]:
    guard = ActionGuard(embodiment)
    state = np.array([0.3, -0.2, 0.1, 1.9, -1.99, 0.0, 0.5])
    guard.reset(state)
    start = np.where(embodiment.action.space == 'joint_position', state, 0.0)
    start = np.where(np.arange(7) == 6, 0.5, start)
    return guard, state, start


def run_chunks(
    rng: np.random.Generator, embodiment: Embodiment, chunks: int
) -> dict[str, float]:
    """Play adversarial chunks to a standstill, and assert that no limit was ever broken.

    Chunks are cut off anywhere, some hold a value that is not finite, watchdogs brake in between,
    the gate slows; the hand, where it is known, is somewhere in its box and measured now and then;
    so are joints that have a range.
    """
    guard, state, start = start_of(embodiment)
    bounded = guard.bounded
    if bounded is not None:
        position = rng.uniform(bounded.low, bounded.high)
        if bounded.first is not None:
            guard.reset(np.append(position, state[6]))
    sent, moved = [], False

    def execute(action: np.ndarray) -> None:
        nonlocal position
        sent.append(action)
        if bounded is not None:
            position = position + action[: len(position)] * bounded.way
            assert (position >= bounded.low - SLACK).all(), f'{position} is too low'
            assert (position <= bounded.high + SLACK).all(), f'{position} is too high'

    for _ in range(chunks):
        horizon = int(rng.integers(1, 10))
        wishes = random_wishes(rng, embodiment, horizon)
        if rng.random() < 0.1:
            wishes[rng.integers(horizon), rng.integers(7)] = rng.choice([np.nan, np.inf, -np.inf])
        if guard.check(wishes):
            assert not np.isfinite(wishes).all()
            execute(guard.decelerate())
            continue
        assert np.isfinite(wishes).all()
        speed = float(rng.choice([1.0, 1.0, 0.5, 0.0]))
        # before its first motion the hand has been seen; later it is only now and then
        seen = bounded is not None and (not moved or rng.random() < 0.5)
        measured = position if seen else None
        moved = True
        for wish in wishes[: int(rng.integers(1, horizon + 1))]:
            execute(guard.step(wish, measured, speed).action)
            measured = None
        if rng.random() < 0.3:
            for _ in range(int(rng.integers(1, 5))):
                execute(guard.decelerate())
    while not guard.at_rest:
        execute(guard.decelerate())
        assert len(sent) < 2000
    hold = guard.decelerate()
    used = assert_within_limits(embodiment, np.array([*sent, hold, hold]), start)
    assert not sent or not speeds(embodiment, np.array([hold]), sent[-1])[0].any()
    return used


def run_many(sequences: int) -> None:
    used = []
    for seed in range(sequences):
        rng = np.random.default_rng(seed)
        embodiment = EMBODIMENTS[seed % len(EMBODIMENTS)]
        try:
            used.append(run_chunks(rng, embodiment, chunks=int(rng.integers(1, 5))))
        except AssertionError as broken:
            raise AssertionError(f'sequence {seed}: {broken}') from broken
    assert_all_were_tried(used)


def test_two_thousand_sequences_of_chunks_break_no_limit():
    run_many(2000)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_sequences_of_chunks_break_no_limit():
    run_many(100_000)


@pytest.mark.parametrize('embodiment', EMBODIMENTS)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_limit_is_broken_by_any_long_sequence_of_chunks(embodiment, seed):
    run_chunks(np.random.default_rng(seed), embodiment, chunks=12)


def test_outside_the_workspace_it_may_only_come_back():
    embodiment = make_embodiment(workspace_low=(0.3, -0.2, 0.0), workspace_high=(0.7, 0.2, 0.4))
    guard, _, _ = start_of(embodiment)
    outside = np.array([0.8, 0.0, 0.2])
    away = guard.step([0.05, 0, 0, 0, 0, 0, 1], position=outside).action
    assert away[0] == 0.0
    back = guard.step([-0.05, 0, 0, 0, 0, 0, 1], position=outside).action
    assert back[0] == pytest.approx(-0.05)


RANGED = {'position_low': tuple(RANGE[0]), 'position_high': tuple(RANGE[1])}
RANGED |= {'max_velocity': (0.8,) * 7, 'max_acceleration': (1.0,) * 7, 'max_jerk': (10.0,) * 7}


@pytest.mark.parametrize('side', [-1, 1])
def test_a_joint_that_is_driven_at_its_end_comes_to_rest_just_before_it(side):
    embodiment = make_embodiment('joint_velocity', **RANGED)
    guard = ActionGuard(embodiment)
    guard.reset(np.array([0.0] * 6 + [0.5]))
    joints, fastest = np.zeros(6), 0.0
    for _ in range(60):
        speed = guard.step([2.0 * side] * 6 + [0.5]).action[:6]
        joints, fastest = joints + speed / RATE_HZ, max(fastest, np.abs(speed).max())
    assert fastest > 0.6  # it did not creep there
    np.testing.assert_allclose(joints, RANGE[int(side > 0)], atol=5e-3)
    assert (joints >= RANGE[0] - SLACK).all() and (joints <= RANGE[1] + SLACK).all()


def test_a_joint_found_beyond_its_range_may_only_come_back():
    guard = ActionGuard(make_embodiment('joint_velocity', **RANGED | {'max_jerk': None}))
    guard.reset(np.array([1.2, -1.2, 0, 0, 0, 0, 0.5]))
    away = guard.step([0.5, -0.5, 0, 0, 0, 0, 0.5]).action
    np.testing.assert_array_equal(away[:2], 0.0)
    back = guard.step([-0.1, 0.1, 0, 0, 0, 0, 0.5]).action
    np.testing.assert_allclose(back[:2], [-0.1, 0.1])


def test_what_is_measured_counts_more_than_what_was_commanded():
    guard = ActionGuard(make_embodiment('joint_velocity', **RANGED))
    guard.reset(np.array([0.0] * 6 + [0.5]))
    nearer = np.array([0.999, 0, 0, 0, 0, 0])
    assert guard.step([0.1] * 6 + [0.5], nearer).action[0] < 0.011  # 1 mrad is left
    with pytest.raises(ControlError, match='6 finite numbers'):
        guard.step([0.1] * 6 + [0.5], np.full(6, np.nan))


def test_an_arm_whose_joints_have_a_range_is_not_moved_before_they_are_known():
    guard = ActionGuard(make_embodiment('joint_velocity', **RANGED))
    assert 'reset(state)' in guard.check(np.zeros((2, 7)))
    assert guard.step([0.1] * 7).action is None
    guard.reset(np.array([0.0] * 6 + [0.5]))
    assert guard.step([0.1] * 6 + [0.5]).refused is None


def test_what_is_within_the_limits_is_left_as_it_is():
    embodiment = make_embodiment(max_acceleration=(10.0,) * 7, max_jerk=(200.0,) * 7)
    guard, _, _ = start_of(embodiment)
    chunk = np.outer([0.2, 0.4, 0.6, 0.4, 0.2], [0.05] * 3 + [0.01] * 3 + [0.0])
    chunk[:, 6] = 0.5
    assert guard.check(chunk) is None
    steps = [guard.step(wish) for wish in chunk]
    np.testing.assert_allclose([step.action for step in steps], chunk, atol=1e-15)
    assert not any(step.clipped or step.refused for step in steps)


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('dim', range(7))
def test_one_value_that_is_not_finite_refuses_the_whole_chunk(bad, dim):
    guard, _, _ = start_of(make_embodiment())
    chunk = np.zeros((4, 7))
    chunk[2, dim] = bad
    assert guard.check(chunk).startswith(f'{"abcdefg"[dim]} of step 2')


def test_a_refused_step_brakes_instead():
    guard, _, _ = start_of(make_embodiment(max_acceleration=(1.0,) * 7))
    for _ in range(4):
        moving = guard.step([0.05, 0, 0, 0, 0, 0, 0.5])
    refused = guard.step([np.nan, 0, 0, 0, 0, 0, 0.5])
    assert refused.refused
    assert refused.action[0] == pytest.approx(moving.action[0] - 0.01)


def test_stopping_takes_no_longer_than_the_limits_ask():
    embodiment = make_embodiment(max_acceleration=(1.0,) * 7)
    guard, _, _ = start_of(embodiment)
    for _ in range(5):
        guard.step([0.05, 0, 0, 0, 0, 0, 0.5])  # reaches 0.5 m/s
    braking = [guard.decelerate()[0] for _ in range(7)]
    np.testing.assert_allclose(braking, [0.04, 0.03, 0.02, 0.01, 0, 0, 0], atol=1e-12)
    assert guard.at_rest


def test_a_position_limit_is_reached_and_held():
    embodiment = make_embodiment(
        'joint_position', max_velocity=(1.0,) * 7, max_acceleration=(2.0,) * 7
    )
    guard, state, _ = start_of(embodiment)
    wish = np.array([2.0, -0.2, 0.1, 1.9, -1.99, 0.0, 0.5])
    for _ in range(60):
        action = guard.step(wish).action
    np.testing.assert_allclose(action, wish, atol=1e-3)


def test_an_arm_whose_joints_are_unknown_is_not_moved():
    guard = ActionGuard(make_embodiment('joint_position'))
    assert 'reset(state)' in guard.check(np.zeros((2, 7)))
    assert guard.step(np.zeros(7)).action is None
    with pytest.raises(ControlError, match='reset'):
        guard.decelerate()


def test_a_gripper_never_seen_takes_its_first_command_and_is_not_guessed_before():
    guard = ActionGuard(make_embodiment(max_velocity=(0.5,) * 7))
    assert guard.step([np.nan] * 7).action is None  # not: gripper 0, which would close it
    assert guard.step([0, 0, 0, 0, 0, 0, 0.8]).action[6] == 0.8
    assert guard.step([0, 0, 0, 0, 0, 0, 0.0]).action[6] == pytest.approx(0.75)


def test_joints_found_outside_their_range_come_back_within_the_limits():
    embodiment = make_embodiment('joint_position', max_velocity=(0.5,) * 7)
    guard = ActionGuard(embodiment)
    guard.reset(np.array([2.2, -2.2, 0, 0, 0, 0, 1.01]))
    away = guard.step([2.5, -2.5, 0, 0, 0, 0, 1]).action
    np.testing.assert_allclose(away[:2], [2.2, -2.2])
    back = [guard.step([1.0, -1.0, 0, 0, 0, 0, 1]).action for _ in range(6)]
    way = 0.05 * np.arange(1, 7)
    np.testing.assert_allclose([a[:2] for a in back], np.stack([2.2 - way, way - 2.2], 1))


def test_speed_slows_the_arm_and_not_the_gripper():
    guard, _, _ = start_of(make_embodiment())
    action = guard.step([0.04, 0, 0, 0.2, 0, 0, 1.0], speed=0.25).action
    np.testing.assert_allclose(action, [0.01, 0, 0, 0.05, 0, 0, 1.0], atol=1e-12)


def test_seven_joints_have_no_gripper_among_them():
    embodiment = make_embodiment('joint_position', max_velocity=(0.5,) * 7)
    embodiment = dataclasses.replace(embodiment, joint_names=tuple(f'j{i}' for i in range(7)))
    guard = ActionGuard(embodiment)
    guard.reset(np.array([0.0] * 6 + [0.7, 1.0]))
    assert guard.step([0] * 7, speed=0.5).action[6] == pytest.approx(0.65)


def test_a_chunk_of_another_width_is_an_error():
    with pytest.raises(ControlError, match=r'\(H, 7\), got \(3, 6\)'):
        ActionGuard(make_embodiment()).check(np.zeros((3, 6)))


def test_limits_that_forbid_standing_still_are_refused():
    with pytest.raises(ControlError, match='never stand still'):
        ActionGuard(make_embodiment(low=(0.01,) * 6 + (0.0,)))
