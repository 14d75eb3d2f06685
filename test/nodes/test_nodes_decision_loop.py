"""The decision loop: its thread outlives what goes wrong, and it begins from nothing old."""

from __future__ import annotations

import dataclasses
import threading

from decision_bench import Bench, STEP, T0
import pytest
from scripted_policy import PATIENCE_S

from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ControlError


@pytest.fixture
def bench(make_bench) -> Bench:
    return make_bench()


@pytest.fixture
def free_running(make_bench, steady) -> Bench:
    """Served at the control rate; the test is its clock, and the steady one stands still."""
    bench = make_bench(on_arrival=False, watchdog_s=0.0)
    bench.loop.start()
    bench.say()
    return bench


def test_at_the_control_rate_a_fresh_frame_moves_the_arm(free_running):
    free_running.show(T0)
    free_running.until(lambda: free_running.verdicts)
    free_running.loop.tick(T0 + STEP)
    assert free_running.commands[-1].state == 'go'


def test_frames_that_are_old_by_their_stamps_are_neither_decided_nor_acted_on(free_running):
    bench = free_running
    for step in range(10):
        now_ns = T0 + step * STEP
        bench.show(now_ns - 6 * STEP, now_ns)  # long under way, all of them alike
        bench.loop.tick(now_ns)
    assert not bench.policy.entered.is_set()
    assert {c.state for c in bench.commands} == {'hold'}
    assert 'front is 0.60 s old by its stamp (limit 0.30 s)' in bench.commands[-1].reason


def test_a_plan_is_not_played_on_once_frames_come_late(free_running):
    bench = free_running
    bench.policy.horizon = 50
    bench.show(T0)
    bench.until(lambda: bench.verdicts)
    for step in range(8):
        bench.loop.tick(T0 + step * STEP)
    states = [c.state for c in bench.commands]
    assert states[:3] == ['go'] * 3 and states[4:] == ['hold'] * 4


@pytest.mark.parametrize('on_arrival', [False, True])
def test_sensors_that_are_slower_than_their_limits_are_named_although_none_is_old_now(
    make_bench, steady, on_arrival
):
    slow = dataclasses.replace(
        Embodiment.load('tabletop'), max_age_s={'front': 0.05, 'wrist': 0.05, 'joint_states': 0.2}
    )
    bench = make_bench(on_arrival=on_arrival, watchdog_s=0.0, embodiment=slow)
    bench.loop.start()
    bench.say()
    for step in range(25):
        now_ns = T0 + step * STEP
        bench.show(now_ns, but=('wrist', 'joint_states'))
        steady.ns += 20_000_000
        bench.show(now_ns + 20_000_000, but=('front',))
        bench.loop.tick(now_ns + 20_000_000)
        bench.loop.watch(now_ns + 20_000_000)
        steady.ns += 80_000_000
    reason = bench.loop.key_values()['reason']
    assert 'front came after 0.10 s (limit 0.05 s), wrist came after 0.10 s' in reason
    assert not bench.policy.entered.is_set()


def test_frames_of_another_clock_move_nothing_and_the_clock_is_named(free_running):
    bench = free_running
    for step in range(5):
        now_ns = T0 + step * STEP
        bench.show(now_ns + 1_700_000_000 * 10**9, now_ns)
        bench.loop.tick(now_ns)
    assert {c.state for c in bench.commands} == {'hold'}
    assert 'differ by 1700000000 s: set use_sim_time' in bench.commands[-1].reason


@pytest.mark.parametrize(('now_ns', 'said'), [(0, 'nothing has come on /clock'), (T0, 'stood')])
def test_without_a_clock_the_arm_holds_and_says_so(make_bench, now_ns, said):
    bench = make_bench(on_arrival=False, watchdog_s=0.01)
    bench.loop.start()
    bench.say(now_ns=now_ns)
    pause = threading.Event()
    for _ in range(1000):
        bench.show(T0, now_ns)  # sensors that speak, but no tick ever comes
        bench.loop.watch(now_ns)
        if bench.commands:
            break
        pause.wait(0.02)
    assert bench.commands[-1].state == 'hold'
    assert said in bench.commands[-1].reason
    assert said in bench.loop.key_values()['reason']


def test_a_tick_whose_command_cannot_be_published_is_counted_and_does_not_end_the_node(
    free_running
):
    bench = free_running
    bench.show(T0)
    bench.until(lambda: bench.verdicts)
    bench.broken = [RuntimeError('publisher is invalid')]
    bench.loop.tick(T0)
    assert 'publisher is invalid' in bench.commands[-1].reason
    assert bench.loop.key_values()['held: RuntimeError'] == '1'


def test_after_a_new_instruction_no_command_answers_the_old_one(free_running):
    bench = free_running
    bench.policy.horizon = 50
    bench.show(T0)
    bench.until(lambda: bench.verdicts)
    bench.loop.tick(T0)
    bench.policy.free.clear()
    bench.policy.entered.clear()
    bench.show(T0 + STEP)  # a decision for the old instruction begins …
    assert bench.policy.entered.wait(PATIENCE_S)
    bench.loop.tick(T0 + STEP)
    bench.say('Push the ball.', T0 + STEP)  # … and is overtaken
    bench.loop.tick(T0 + 2 * STEP)
    bench.policy.free.set()
    bench.until(lambda: len(bench.verdicts) == 2)
    assert 'another instruction' in bench.verdicts[1].refused
    assert bench.loop.causes.snapshot() == {'outdated decision': 1}
    bench.loop.tick(T0 + 2 * STEP)
    bench.show(T0 + 3 * STEP)
    bench.until(lambda: len(bench.verdicts) == 3)
    bench.loop.tick(T0 + 3 * STEP)
    told = [(c.state, c.instruction, c.instruction_id) for c in bench.commands]
    old, new = 'pick up the red cube', 'push the ball'
    assert told == [('go', old, 1)] * 2 + [('hold', new, 2)] * 2 + [('go', new, 2)]


def test_a_command_for_an_instruction_that_was_replaced_meanwhile_is_not_sent(free_running):
    bench = free_running
    bench.show(T0)
    bench.until(lambda: bench.verdicts)
    late = bench.loop.pipeline.command(T0)
    bench.say('push the ball')
    bench.loop.tick(T0)
    count = len(bench.commands)
    bench.loop._outlet.emit(late)
    assert len(bench.commands) == count


def test_a_cry_for_help_is_among_the_figures(make_bench):
    bench = make_bench()
    bench.loop.start()
    assert bench.loop.key_values()['needs_help'] == ''
    bench.loop.pipeline._gate.go_threshold = bench.loop.pipeline._gate.hold_threshold = 0.95
    bench.say()
    for step in range(40):
        bench.show(T0 + step * STEP)
        bench.until(lambda step=step: len(bench.commands) == step + 1)
    assert 'does not seem to contain' in bench.loop.key_values()['needs_help']


def test_a_command_that_cannot_be_published_is_counted_and_the_next_one_goes_out(bench):
    bench.broken = [RuntimeError('publisher is invalid')]
    bench.loop.start()
    bench.say()
    bench.show(T0)
    bench.until(lambda: bench.commands)
    assert bench.commands[0].state == 'hold'
    assert 'publisher is invalid' in bench.commands[0].reason
    assert any('Traceback' in text for text in bench.logged)
    assert bench.loop.key_values()['held: RuntimeError'] == '1'
    bench.show(T0 + STEP)
    bench.until(lambda: bench.commands[-1].state == 'go')


def test_a_hold_that_cannot_be_published_either_does_not_end_the_thread(bench):
    bench.broken = [RuntimeError('publisher is invalid'), RuntimeError('still invalid')]
    bench.loop.start()
    bench.say()
    bench.show(T0)
    bench.until(lambda: not bench.broken)
    bench.show(T0 + STEP)
    bench.until(lambda: bench.commands)
    assert bench.commands[-1].state == 'go'
    assert bench.loop.key_values()['held: hold not sent'] == '1'


@pytest.mark.parametrize('error', [ControlError('no such topic'), AttributeError('gone')])
def test_a_decision_that_cannot_be_reported_ends_in_a_hold_and_not_in_silence(bench, error):
    bench.broken_report = [error]
    bench.loop.start()
    bench.say()
    bench.show(T0)
    bench.until(lambda: bench.commands and bench.commands[-1].state == 'hold')
    assert bench.loop.key_values()[f'held: {type(error).__name__}'] == '1'
    assert bench.logged
    bench.show(T0 + STEP)
    bench.until(lambda: bench.verdicts)
    assert bench.verdicts[-1].ts_ns == T0 + STEP


def test_a_decision_that_ends_after_the_stop_is_neither_sent_nor_reported(bench):
    bench.loop.start()
    bench.say()
    bench.policy.free.clear()
    bench.show(T0)
    assert bench.policy.entered.wait(PATIENCE_S)
    bench.loop.stop(T0)
    count = len(bench.commands)
    bench.policy.free.set()
    bench.loop.close()
    assert bench.verdicts == []
    assert len(bench.commands) == count


def test_a_start_forgets_what_was_seen_before_it_but_not_the_instruction(bench):
    bench.say()
    bench.show(T0)
    bench.loop.start()
    assert bench.loop.buffer.missing() == ('front', 'wrist', 'joint_states')
    bench.show(T0 + STEP)
    bench.until(lambda: bench.verdicts)
    assert [v.ts_ns for v in bench.verdicts] == [T0 + STEP]
    assert bench.verdicts[0].instruction == 'pick up the red cube'


def test_the_observation_that_was_answered_before_a_stop_is_decided_anew_after_a_start(bench):
    bench.loop.start()
    bench.say()
    bench.show(T0)
    bench.until(lambda: len(bench.verdicts) == 1)
    bench.loop.stop(T0)
    bench.loop.start()
    bench.show(T0)  # a sensor that says the same again
    bench.until(lambda: len(bench.verdicts) == 2)
    assert bench.verdicts[1].ts_ns == T0


def test_a_decision_from_before_a_stop_does_not_reach_past_the_next_start(bench):
    bench.loop.start()
    bench.say()
    bench.policy.free.clear()
    bench.show(T0)
    assert bench.policy.entered.wait(PATIENCE_S)
    bench.loop.stop(T0)
    count = len(bench.commands)
    starter = threading.Thread(target=bench.loop.start)
    starter.start()
    starter.join(0.2)  # it may have to wait for the decision
    bench.policy.free.set()
    starter.join(PATIENCE_S)
    bench.show(T0 + STEP)
    bench.until(lambda: bench.verdicts and bench.verdicts[-1].ts_ns == T0 + STEP)
    assert [v.ts_ns for v in bench.verdicts] == [T0 + STEP]
    assert len(bench.commands) == count + 1
