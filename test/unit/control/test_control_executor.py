from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from vla_alignment_ros.control.continuation import Continuation
from vla_alignment_ros.control.executor import ChunkExecutor
from vla_alignment_ros.errors import ConfigError, ControlError
from vla_alignment_ros.observation import ActionChunk

STEP_NS = 100_000_000
START_NS = 5_000_000_000


def chunk(step=0, rows=4, value=None, instruction='lift', rate_hz=10.0) -> ActionChunk:
    """A chunk that answers the observation of control step `step`; row i holds step + i."""
    actions = np.repeat(step + np.arange(rows)[:, None], 7, axis=1).astype(np.float32)
    if value is not None:
        actions[:] = value
    return ActionChunk(START_NS + step * STEP_NS, actions, rate_hz, instruction)


def at(step: float) -> int:
    return START_NS + round(step * STEP_NS)


def value_at(executor: ChunkExecutor, step: float) -> float | None:
    action = executor.next(at(step))
    return None if action is None else float(action[0])


def test_rows_come_due_one_per_control_period_and_then_nothing_is_left():
    executor = ChunkExecutor(10.0)
    executor.submit(chunk(rows=3))
    assert [value_at(executor, i) for i in range(5)] == [0, 1, 2, None, None]
    assert value_at(executor, 1) is None  # a chunk that ran out is forgotten, not replayed


def test_in_lock_step_the_first_row_of_the_newest_chunk_is_executed():
    executor = ChunkExecutor(10.0)
    for step in range(4):
        executor.submit(chunk(step, value=100 + step))
        assert value_at(executor, step) == 100 + step


def test_steps_that_passed_during_inference_are_dropped():
    executor = ChunkExecutor(10.0)
    executor.submit(chunk(0))
    assert value_at(executor, 2.2) == 2


@given(jitter=st.lists(st.floats(-0.45, 0.45), min_size=4, max_size=4))
def test_a_jittering_tick_neither_repeats_nor_skips_a_step(jitter):
    executor = ChunkExecutor(10.0)
    executor.submit(chunk(rows=4))
    assert [value_at(executor, i + j) for i, j in enumerate(jitter)] == [0, 1, 2, 3]


def test_the_newest_stamp_wins_whatever_the_order_of_arrival():
    executor = ChunkExecutor(10.0)
    executor.submit(chunk(2, value=22))
    executor.submit(chunk(0, value=20))
    assert value_at(executor, 2) == 22


def test_the_same_stamp_replaces():
    executor = ChunkExecutor(10.0, execution='ensemble')
    executor.submit(chunk(0, value=1))
    executor.submit(chunk(0, value=3))
    assert value_at(executor, 0) == 3


def test_ensembling_weighs_by_age_with_the_oldest_first():
    executor = ChunkExecutor(10.0, execution='ensemble', decay=0.5)
    executor.submit(chunk(0, value=1.0))
    executor.submit(chunk(1, value=2.0))
    executor.submit(chunk(2, value=4.0))
    weights = np.exp(-0.5 * np.arange(3))
    expected = weights @ [1.0, 2.0, 4.0] / weights.sum()
    action = executor.next(at(2))
    np.testing.assert_allclose(action[:6], expected)
    assert action[6] == 4.0  # the gripper is not averaged


def test_ensembling_leaves_out_chunks_that_have_run_out():
    executor = ChunkExecutor(10.0, execution='ensemble')
    executor.submit(chunk(0, rows=2, value=1.0))
    executor.submit(chunk(1, rows=4, value=3.0))
    assert value_at(executor, 3) == 3.0


@settings(max_examples=50)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.floats(0, 2))
def test_an_ensemble_never_leaves_the_range_of_its_members(values, decay):
    executor = ChunkExecutor(10.0, execution='ensemble', decay=decay)
    for step, value in enumerate(values):
        executor.submit(chunk(step, rows=10, value=value))
    action = executor.next(at(len(values) - 1))
    assert min(values) - 1e-6 <= action[0] <= max(values) + 1e-6


def test_flush_forgets_everything():
    executor = ChunkExecutor(10.0)
    executor.submit(chunk(0))
    executor.flush()
    assert value_at(executor, 0) is None


def test_a_chunk_from_ahead_of_time_is_not_played():
    executor = ChunkExecutor(10.0)
    executor.submit(chunk(50))
    assert value_at(executor, 0) is None


def realtime() -> ChunkExecutor:
    return ChunkExecutor(10.0, execution='realtime')


def test_a_continuation_freezes_fades_and_lets_go():
    plan = Continuation(np.ones((6, 7), np.float32), frozen=2)
    weights = plan.weights(8)
    share = np.array([4, 3, 2, 1]) / 5
    fading = share * np.expm1(share) / np.expm1(1)
    np.testing.assert_allclose(weights, [1, 1, *fading, 0, 0])
    planned, mask = plan.over(8, gripper=6)
    assert planned[:6].all() and not planned[6:].any()
    assert mask[:, 6].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


def test_a_plan_that_is_all_executed_by_then_is_frozen_whole():
    assert Continuation(np.ones((2, 7)), frozen=5).weights(4).tolist() == [1, 1, 0, 0]


chunks = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).normal(size=(2, 12, 7)).cumsum(axis=1)
)


@settings(max_examples=200, deadline=None)
@given(chunks, st.integers(1, 5), st.integers(0, 6), st.floats(-0.45, 0.45))
def test_no_seam_is_larger_than_the_steps_within_the_chunks(actions, stamp, delay, phase):
    """A step is at most the chunks' own, and the fading share of what lies between them."""
    old, new = actions.astype(np.float32)
    executor = realtime()
    executor.submit(ActionChunk(at(0), old, 10.0))
    played = [executor.next(at(i)) for i in range(stamp + delay)]
    # after `delay` steps, of which nobody knew before
    executor.submit(ActionChunk(at(stamp + phase), new, 10.0))
    played += [executor.next(at(i)) for i in range(stamp + delay, stamp + 12)]
    assert all(action is not None for action in played)
    arm = np.array(played)[:, :6]
    overlap = 12 - stamp
    apart = np.abs(old[stamp:, :6] - new[:overlap, :6]).max(0)
    within = np.maximum(*(np.abs(np.diff(c[:, :6], axis=0)).max(0) for c in (old, new)))
    weights = Continuation(old[stamp:], delay).weights(12)
    fading = np.abs(np.diff(weights, prepend=1.0)).max()  # before, the plan had it all
    assert fading <= 2.6 / (overlap - delay + 1)
    assert (np.abs(np.diff(arm, axis=0)) <= within + fading * apart + 1e-5).all()
    np.testing.assert_array_equal(np.array(played)[: stamp + delay], old[: stamp + delay])
    np.testing.assert_array_equal(played[-1], new[-1])


@settings(max_examples=100, deadline=None)
@given(chunks, st.integers(1, 6), st.integers(0, 5), st.integers(0, 3))
def test_a_chunk_that_was_told_the_plan_is_played_as_it_is(actions, stamp, delay, spare):
    old, new = actions.astype(np.float32)
    executor = realtime()
    executor.submit(ActionChunk(at(0), old, 10.0))
    played = [executor.next(at(i)) for i in range(stamp + delay)]
    told = executor.ahead(at(stamp)) if played else None
    np.testing.assert_array_equal(told.actions, old[stamp:])
    frozen = min(delay + spare, len(told.actions))
    whole = Continuation(told.actions, frozen).blend(new, 6)
    executor.submit(ActionChunk(at(stamp), whole, 10.0, frozen=frozen))
    played += [executor.next(at(i)) for i in range(stamp + delay, stamp + 12)]
    np.testing.assert_array_equal(played, [*old[:stamp], *whole])


@given(chunks, st.integers(0, 5), st.integers(1, 5), st.booleans())
def test_what_is_ahead_is_what_is_played_whether_it_was_played_before_or_not(
    actions, stamp, delay, told
):
    """A decision often begins right after another: that one's chunk is not played yet."""
    old, new = actions.astype(np.float32)
    executor = realtime()
    executor.submit(ActionChunk(at(0), old, 10.0))
    for step in range(stamp + delay):
        executor.next(at(step))
    frozen = delay if told else None
    executor.submit(ActionChunk(at(stamp), new, 10.0, frozen=frozen))
    ahead = executor.ahead(at(stamp + delay)).actions
    played = [executor.next(at(i)) for i in range(stamp + delay, stamp + 12)]
    np.testing.assert_array_equal(np.float32(played), ahead)


def test_the_first_chunk_is_ahead_before_it_is_played():
    executor = realtime()
    executor.submit(chunk(0, rows=12))
    assert executor.ahead(at(3)).actions[:, 0].tolist() == list(range(3, 12))


def test_a_chunk_whose_decision_took_longer_than_it_was_told_is_faded_in():
    executor = realtime()
    executor.submit(chunk(0, rows=12, value=0.0))
    for step in range(6):
        executor.next(at(step))
    late = ActionChunk(at(1), np.ones((12, 7), np.float32), 10.0, frozen=1)
    executor.submit(late)
    assert 0.0 < value_at(executor, 6) < 0.35


phases = st.floats(-0.3, 0.3)


@given(st.lists(st.booleans(), min_size=10, max_size=10), phases, phases)
@example([False] * 10, 0.3, -0.3)
def test_neither_a_skipped_step_nor_stamps_between_ticks_shift_the_plan(skipped, phase, tick):
    executor = realtime()
    executor.submit(chunk(0, rows=12))  # each row says for which step it is
    executor.next(at(tick))
    for step, skip in enumerate(skipped, start=1):
        if step % 3 == 0:
            moved = ActionChunk(at(step - 2 + phase), chunk(step - 2, rows=12).actions, 10.0)
            executor.submit(moved)
        if not skip:
            assert value_at(executor, step + tick) == pytest.approx(step)


def test_decisions_faster_than_the_control_rate_fade_in_as_well():
    executor = realtime()
    executor.submit(chunk(0, rows=12, value=0.0))
    executor.next(at(0))
    executor.submit(chunk(0, rows=12, value=5.0))
    executor.submit(ActionChunk(at(0.3), np.ones((12, 7), np.float32), 10.0))
    assert 0.0 < value_at(executor, 1) < 0.3


def test_the_gripper_does_as_the_plan_says_and_then_as_the_new_chunk_says():
    executor = realtime()
    executor.submit(chunk(0, rows=12, value=0.0))
    for step in range(3):
        executor.next(at(step))
    executor.submit(chunk(1, rows=12, value=1.0))
    action = executor.next(at(3))
    assert 0.0 < action[0] < 0.3 and action[6] == 1.0


def test_after_a_stop_there_is_nothing_to_go_on_from():
    executor = realtime()
    executor.submit(chunk(0, rows=12, value=0.0))
    executor.next(at(0))
    executor.submit(chunk(4, rows=12, value=1.0))
    assert value_at(executor, 5) == 1.0  # nothing was played in between: no seam
    executor.flush()
    assert executor.ahead(at(6)) is None


def test_the_delay_is_a_quantile_of_what_decisions_took_without_the_first_ones():
    executor = realtime()
    assert executor.delay_steps == 0
    step = 0
    for delay in [9, 9, *[2] * 20, 7, 3]:
        executor.submit(chunk(step, rows=30))
        step += delay
        executor.next(at(step))
    assert executor.delay_steps == 2
    assert executor.ahead(at(step)).frozen == 2
    executor.flush()
    assert executor.delay_steps == 2  # a new instruction does not make it faster
    executor.reset()
    assert executor.delay_steps == 0


def test_in_lock_step_nothing_is_late():
    executor = realtime()
    for step in range(9):
        executor.submit(chunk(step))
        executor.next(at(step))
    assert executor.delay_steps == 0


@pytest.mark.parametrize('wrong', [{'execution': 'latest'}, {'decay': float('nan')}])
def test_an_execution_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ChunkExecutor(10.0, **wrong)


def test_a_chunk_of_another_rate_is_an_error():
    with pytest.raises(ControlError, match='20.0 Hz'):
        ChunkExecutor(10.0).submit(chunk(rate_hz=20.0))


def test_a_rate_that_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match='rate_hz'):
        ChunkExecutor(0.0)
