from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

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
    assert executor.remaining(at(1)) == 0  # a chunk that ran out is forgotten, not replayed


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
    executor = ChunkExecutor(10.0, ensemble=True)
    executor.submit(chunk(0, value=1))
    executor.submit(chunk(0, value=3))
    assert value_at(executor, 0) == 3


def test_ensembling_weighs_by_age_with_the_oldest_first():
    executor = ChunkExecutor(10.0, ensemble=True, decay=0.5)
    executor.submit(chunk(0, value=1.0))
    executor.submit(chunk(1, value=2.0))
    executor.submit(chunk(2, value=4.0))
    weights = np.exp(-0.5 * np.arange(3))
    expected = weights @ [1.0, 2.0, 4.0] / weights.sum()
    action = executor.next(at(2))
    np.testing.assert_allclose(action[:6], expected)
    assert action[6] == 4.0  # the gripper is not averaged


def test_ensembling_leaves_out_chunks_that_have_run_out():
    executor = ChunkExecutor(10.0, ensemble=True)
    executor.submit(chunk(0, rows=2, value=1.0))
    executor.submit(chunk(1, rows=4, value=3.0))
    assert value_at(executor, 3) == 3.0


@settings(max_examples=50)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.floats(0, 2))
def test_an_ensemble_never_leaves_the_range_of_its_members(values, decay):
    executor = ChunkExecutor(10.0, ensemble=True, decay=decay)
    for step, value in enumerate(values):
        executor.submit(chunk(step, rows=10, value=value))
    action = executor.next(at(len(values) - 1))
    assert min(values) - 1e-6 <= action[0] <= max(values) + 1e-6


def test_a_chunk_for_another_instruction_flushes_the_plan():
    executor = ChunkExecutor(10.0, ensemble=True)
    executor.submit(chunk(0, value=1.0))
    executor.submit(chunk(1, rows=1, value=5.0, instruction='push'))
    assert value_at(executor, 1) == 5.0
    assert value_at(executor, 2) is None


def test_after_a_new_instruction_no_action_of_the_old_one_comes_out():
    executor = ChunkExecutor(10.0)
    executor.submit(chunk(0))
    executor.set_instruction('push')
    assert value_at(executor, 0) is None
    assert not executor.submit(chunk(1))  # decided before, arrives after
    assert value_at(executor, 1) is None
    assert executor.submit(chunk(1, instruction='push'))
    assert value_at(executor, 1) == 1


def test_the_same_instruction_again_keeps_the_plan():
    executor = ChunkExecutor(10.0)
    executor.submit(chunk(0))
    executor.set_instruction('lift')
    assert value_at(executor, 0) == 0


def test_flush_forgets_everything():
    executor = ChunkExecutor(10.0)
    executor.set_instruction('lift')
    executor.submit(chunk(0))
    executor.flush()
    assert value_at(executor, 0) is None
    assert executor.instruction is None
    assert executor.submit(chunk(0, instruction='push'))


def test_a_chunk_from_ahead_of_time_is_not_played():
    executor = ChunkExecutor(10.0)
    executor.submit(chunk(50))
    assert value_at(executor, 0) is None


def test_remaining_counts_the_step_due_now():
    executor = ChunkExecutor(10.0)
    assert executor.remaining(at(0)) == 0
    executor.submit(chunk(0, rows=4))
    assert [executor.remaining(at(i)) for i in range(5)] == [4, 3, 2, 1, 0]


@pytest.mark.parametrize(
    ('bad', 'message'),
    [
        (ActionChunk(0, np.zeros((4, 6), np.float32), 10.0), r'\(H, 7\), got \(4, 6\)'),
        (ActionChunk(0, np.full((4, 7), np.nan, np.float32), 10.0), 'finite'),
        (ActionChunk(0, np.zeros((4, 7), np.float32), 20.0), '20.0 Hz'),
    ],
)
def test_a_chunk_that_cannot_be_played_is_an_error(bad, message):
    with pytest.raises(ControlError, match=message):
        ChunkExecutor(10.0).submit(bad)


def test_a_rate_that_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match='rate_hz'):
        ChunkExecutor(0.0)
