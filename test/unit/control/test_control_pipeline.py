"""The pipeline moves only on a matching score, stays within limits, and starts anew when told."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from scripted_policy import ScriptedPolicy

from vla_alignment_ros.control.decisions import PipelineConfig
from vla_alignment_ros.control.pipeline import DecisionPipeline
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.observation import Observation

STEP_NS = 100_000_000
GATE = {'go': 0.6, 'hold': 0.3, 'confirm': 2, 'dwell': 2}


@pytest.fixture
def embodiment():
    return Embodiment.load('tabletop')


def observation(step, instruction='pick up the red cube'):
    state = np.zeros(17, np.float32)
    state[7] = 0.8  # gripper opening
    state[8:11] = (0.5, 0.0, 0.2)
    state[11], state[15] = 1.0, 1.0
    return Observation((step + 10) * STEP_NS, {}, state, instruction)


def make(embodiment, policy, **settings):
    return DecisionPipeline(embodiment, policy, PipelineConfig(**GATE, **settings))


def run(pipeline, steps, first=0):
    commands = []
    for step in range(first, first + steps):
        seen = observation(step)
        pipeline.decide(seen)
        commands.append(pipeline.command(seen.ts_ns))
    return commands


FORWARD = [0.02, 0, 0, 0, 0, 0, 1]


def test_motion_begins_once_the_score_is_confirmed(embodiment):
    commands = run(make(embodiment, ScriptedPolicy(FORWARD)), 3)
    assert [c.state for c in commands] == ['hold', 'go', 'go']
    assert commands[0].action[0] == 0.0
    assert commands[2].action[0] == pytest.approx(0.02)


def test_command_bytes_decode_to_the_action(embodiment):
    pipeline = make(embodiment, ScriptedPolicy(FORWARD))
    command = run(pipeline, 3)[-1]
    np.testing.assert_allclose(
        pipeline.codec.decode(command.messages), command.action, atol=1e-7)


def test_low_score_never_moves_and_keeps_the_gripper(embodiment):
    commands = run(make(embodiment, ScriptedPolicy(FORWARD, score=0.1)), 20)
    for command in commands:
        assert command.state == 'hold' and 'alignment score 0.10' in command.reason
        np.testing.assert_allclose(command.action, [0, 0, 0, 0, 0, 0, 0.8], atol=1e-6)


def test_score_between_the_thresholds_slows_the_arm(embodiment):
    policy = ScriptedPolicy(FORWARD)
    pipeline = make(embodiment, policy, slow_speed=0.5)
    run(pipeline, 3)
    policy.score = 0.45
    slowed = run(pipeline, 4, first=3)
    assert slowed[-1].state == 'slow'
    assert slowed[-1].action[0] == pytest.approx(0.01)


def test_not_a_number_in_the_chunk_is_refused_whole(embodiment):
    policy = ScriptedPolicy(FORWARD)
    pipeline = make(embodiment, policy)
    run(pipeline, 3)
    policy.action = [0.02, float('nan'), 0, 0, 0, 0, 1]
    seen = observation(3)
    verdict = pipeline.decide(seen)
    assert verdict.gate == 'hold' and 'dy of step 0 is not finite' in verdict.refused
    assert not verdict.outdated
    command = pipeline.command(seen.ts_ns)
    assert command.state == 'hold' and np.isfinite(command.action).all()
    policy.action = FORWARD
    assert run(pipeline, 1, first=4)[0].state == 'go'


def test_not_a_number_as_score_holds(embodiment):
    commands = run(make(embodiment, ScriptedPolicy(FORWARD, score=float('nan'))), 3)
    assert commands[-1].state == 'hold'


def test_actions_beyond_the_limits_are_clipped(embodiment):
    commands = run(make(embodiment, ScriptedPolicy([9, 0, 0, 0, 0, 0, 1])), 6)
    high = np.array(embodiment.action.high)
    assert all((c.action <= high + 1e-9).all() for c in commands)
    assert commands[-1].clipped


def test_plan_that_is_used_up_holds(embodiment):
    pipeline = make(embodiment, ScriptedPolicy(FORWARD, horizon=2))
    run(pipeline, 3)
    late = pipeline.command(observation(9).ts_ns)
    assert late.state == 'hold' and 'used up' in late.reason


def test_before_the_first_decision_nothing_moves(embodiment):
    command = make(embodiment, ScriptedPolicy(FORWARD)).command(STEP_NS)
    assert (command.state, command.reason, command.action) == ('hold', 'no decision yet', None)
    assert embodiment.command.topics['gripper'] not in command.messages


def test_watchdog_hold_drops_the_plan(embodiment):
    pipeline = make(embodiment, ScriptedPolicy(FORWARD, horizon=9))
    run(pipeline, 3)
    assert pipeline.hold(observation(3).ts_ns, 'front is stale').reason == 'front is stale'
    for step in range(4, 9):  # comes to rest within the acceleration limit
        command = pipeline.command(observation(step).ts_ns)
    assert command.state == 'hold' and command.reason == 'front is stale'
    assert command.action[0] == 0.0


def test_same_decisions_after_a_reset(embodiment):
    policy = ScriptedPolicy(FORWARD)
    pipeline = make(embodiment, policy, seed=3)
    first = [c.messages for c in run(pipeline, 5)]
    pipeline.reset()
    assert [c.messages for c in run(pipeline, 5)] == first
    assert policy.seeds[:5] == policy.seeds[5:]
    assert len(set(policy.seeds)) == 5


@pytest.mark.parametrize('jump', [-5, 40])
def test_broken_time_starts_anew(embodiment, jump):
    policy = ScriptedPolicy(FORWARD)
    pipeline = make(embodiment, policy)
    run(pipeline, 3)
    again = run(pipeline, 2, first=3 + jump)
    assert [c.state for c in again] == ['hold', 'go']
    assert policy.resets == 2


def test_a_decision_that_a_reset_overtook_is_not_executed(embodiment):
    policy = ScriptedPolicy(FORWARD)
    policy.free.clear()
    pipeline = make(embodiment, policy)
    verdicts = []
    worker = threading.Thread(target=lambda: verdicts.append(pipeline.decide(observation(0))))
    worker.start()
    assert policy.entered.wait(5.0)
    pipeline.reset()
    policy.free.set()
    worker.join(5.0)
    assert verdicts[0].gate == 'hold' and 'reset' in verdicts[0].refused
    assert verdicts[0].outdated
    assert pipeline.command(observation(0).ts_ns).reason == 'no decision yet'


def test_a_slow_decision_does_not_delay_commands(embodiment):
    policy = ScriptedPolicy(FORWARD, horizon=9)
    pipeline = make(embodiment, policy)
    run(pipeline, 3)
    policy.free.clear()
    policy.entered.clear()
    worker = threading.Thread(target=pipeline.decide, args=(observation(3),))
    worker.start()
    assert policy.entered.wait(5.0)
    assert pipeline.command(observation(3).ts_ns).state == 'go'
    policy.free.set()
    worker.join(5.0)


def test_a_new_instruction_stops_the_motion_before_anything_is_decided_for_it(embodiment):
    pipeline = make(embodiment, ScriptedPolicy(FORWARD, horizon=30))
    moving = run(pipeline, 4)[-1]
    assert (moving.instruction, moving.instruction_id) == ('pick up the red cube', 1)
    pipeline.set_instruction('push the ball')
    commands = [pipeline.command(observation(step).ts_ns) for step in range(4, 12)]
    assert {c.state for c in commands} == {'hold'}
    assert {(c.instruction, c.instruction_id) for c in commands} == {('push the ball', 2)}
    assert "no decision yet for 'push the ball'" in commands[0].reason
    assert commands[-1].action[0] == 0.0
    step_m = np.abs(np.diff([moving.action[0], *(c.action[0] for c in commands)]))
    assert (step_m <= 5.0 * 0.1**2 + 1e-9).all()  # max_acceleration


def test_the_same_instruction_again_keeps_the_plan(embodiment):
    pipeline = make(embodiment, ScriptedPolicy(FORWARD, horizon=9))
    pipeline.set_instruction('pick up the red cube')
    run(pipeline, 3)
    pipeline.set_instruction('pick up the red cube')
    command = pipeline.command(observation(3).ts_ns)
    assert (command.state, command.instruction_id) == ('go', 1)


@pytest.mark.parametrize('back', [False, True])
def test_a_decision_that_another_instruction_overtook_is_not_executed(embodiment, back):
    policy = ScriptedPolicy(FORWARD, horizon=9)
    pipeline = make(embodiment, policy)
    pipeline.set_instruction('pick up the red cube')
    run(pipeline, 3)
    policy.free.clear()
    policy.entered.clear()
    verdicts = []
    worker = threading.Thread(target=lambda: verdicts.append(pipeline.decide(observation(3))))
    worker.start()
    assert policy.entered.wait(5.0)
    pipeline.set_instruction('push the ball')
    if back:  # the words are the same again, but the arm was to stop in between
        pipeline.set_instruction('pick up the red cube')
    policy.free.set()
    worker.join(5.0)
    assert verdicts[0].gate == 'hold' and 'another instruction' in verdicts[0].refused
    assert pipeline.command(observation(4).ts_ns).state == 'hold'


def test_an_observation_with_the_words_from_before_does_not_bring_them_back(embodiment):
    pipeline = make(embodiment, ScriptedPolicy(FORWARD))
    pipeline.set_instruction('push the ball')
    assert {c.state for c in run(pipeline, 4)} == {'hold'}
    assert pipeline.command(observation(4).ts_ns).instruction == 'push the ball'


def test_the_instruction_outlives_a_reset_and_its_number_never_goes_back(embodiment):
    pipeline = make(embodiment, ScriptedPolicy(FORWARD))
    pipeline.set_instruction('push the ball')
    pipeline.reset()
    command = pipeline.command(0)
    assert (command.instruction, command.instruction_id) == ('push the ball', 1)


def test_a_scene_without_the_named_thing_asks_for_help_until_it_is_there(embodiment):
    policy = ScriptedPolicy(FORWARD, score=0.03)
    pipeline = make(embodiment, policy, help_s=1.0)
    commands = run(pipeline, 12)
    assert [bool(c.needs_help) for c in commands] == [False] * 10 + [True] * 2
    assert pipeline.needs_help == commands[-1].needs_help
    assert "'pick up the red cube' names (score 0.03, needs 0.60)" in pipeline.needs_help
    policy.score = 0.9
    assert [bool(c.needs_help) for c in run(pipeline, 2, first=12)] == [True, False]


def test_a_watchdogs_hold_says_nothing_about_the_scene(embodiment):
    pipeline = make(embodiment, ScriptedPolicy(FORWARD, score=0.03), help_s=1.0)
    run(pipeline, 12)
    assert pipeline.hold(observation(12).ts_ns, 'front is stale').needs_help == ''


@pytest.mark.parametrize('late', [0, 3])
def test_a_position_that_was_measured_before_motion_does_not_let_the_hand_out(embodiment, late):
    """The arm goes on during inference; the box must hold for where it is by then."""
    policy = ScriptedPolicy([0.05, 0, 0, 0, 0, 0, 1], horizon=9)
    pipeline = make(embodiment, policy, max_gap_s=9.0)
    x = [0.5]
    for step in range(20):
        seen = observation(step - late)
        seen.state[8] = x[max(0, len(x) - 1 - late)]
        pipeline.decide(seen)
        command = pipeline.command(observation(step).ts_ns)
        x.append(x[-1] + command.action[0])
    high = embodiment.action.workspace_high[0]
    assert max(x) <= high + 1e-6
    assert x[-1] == pytest.approx(high, abs=1e-3)


def test_a_workspace_that_cannot_be_watched_is_said(embodiment):
    policy = ScriptedPolicy(FORWARD)
    assert make(embodiment, policy).unguarded == ''
    blind = make(Embodiment.load('franka_servo'), policy)
    assert 'workspace box is not enforced' in blind.unguarded and 'urdf' in blind.unguarded


def test_verdict_tells_its_figures_as_text(embodiment):
    pipeline = make(embodiment, ScriptedPolicy(FORWARD))
    values = pipeline.decide(observation(0)).key_values()
    assert values['instruction'] == 'pick up the red cube'
    assert float(values['vl_score']) == pytest.approx(0.9)
    assert (values['gate'], values['refused'], values['ts_ns']) == ('hold', '', '1000000000')


@pytest.mark.parametrize(
    'wrong', [{'slow_speed': 0.0}, {'max_gap_s': 0.0}, {'candidates': 0},
              {'execution': 'latest'}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PipelineConfig(**wrong)


def test_another_policy_takes_over_without_a_jump_and_after_its_first_decision(embodiment):
    pipeline = make(embodiment, ScriptedPolicy(FORWARD, horizon=8))
    run(pipeline, 6)
    other = ScriptedPolicy([-0.02, 0, 0, 0, 0, 0, 1])
    pipeline.exchange(other, PipelineConfig(**{**GATE, 'confirm': 1}))
    assert other.resets == 1
    before = [pipeline.command(observation(step).ts_ns) for step in (6, 7)]
    assert [c.state for c in before] == ['go', 'go']  # the old plan, until there is a new one
    assert all(c.action[0] == pytest.approx(0.02) for c in before)
    after = run(pipeline, 12, first=8)
    speed = np.array([c.action[0] for c in [*before, *after]]) * embodiment.rate_hz
    change = np.diff(speed) * embodiment.rate_hz  # m/s²
    assert np.abs(change).max() <= embodiment.action.max_acceleration[0] * (1 + 1e-6)
    assert after[-1].action[0] == pytest.approx(-0.02)


def test_another_policy_has_to_convince_a_gate_with_its_own_thresholds(embodiment):
    pipeline = make(embodiment, ScriptedPolicy(FORWARD, score=0.7))
    assert run(pipeline, 4)[-1].state == 'go'
    pipeline.exchange(ScriptedPolicy(FORWARD, score=0.7), PipelineConfig(**GATE))
    assert [c.state for c in run(pipeline, 3, first=4)] == ['hold', 'go', 'go']
    pipeline.exchange(
        ScriptedPolicy(FORWARD, score=0.7), PipelineConfig(**{**GATE, 'go': 0.8})
    )
    assert {c.state for c in run(pipeline, 5, first=7)} == {'hold'}


def test_averaged_chunks_are_not_those_of_two_policies(embodiment):
    settings = {**GATE, 'confirm': 1, 'go': 0.0, 'hold': 0.0, 'execution': 'ensemble'}
    pipeline = DecisionPipeline(
        embodiment, ScriptedPolicy(FORWARD, horizon=8), PipelineConfig(**settings)
    )
    run(pipeline, 4)
    pipeline.exchange(ScriptedPolicy([0, 0, 0, 0, 0, 0, 1]), PipelineConfig(**settings))
    commands = run(pipeline, 4, first=4)
    assert commands[-1].action[0] == 0.0


def test_a_decision_of_the_old_policy_does_not_reach_past_the_exchange(embodiment):
    old = ScriptedPolicy(FORWARD)
    pipeline = make(embodiment, old)
    run(pipeline, 3)
    old.free.clear(), old.entered.clear()
    verdicts = []
    decider = threading.Thread(target=lambda: verdicts.append(pipeline.decide(observation(3))))
    decider.start()
    assert old.entered.wait(5.0)
    pipeline.exchange(ScriptedPolicy(FORWARD), PipelineConfig(**GATE))
    old.free.set()
    decider.join(5.0)
    assert verdicts[0].gate == 'hold' and verdicts[0].refused


def measured(step, state=None):
    seen = observation(step)
    return seen.ts_ns, seen.state if state is None else state


def drive(pipeline, wish, steps, first):
    commands = []
    for step in range(first, first + steps):
        ts_ns, state = measured(step)
        commands.append(pipeline.drive(ts_ns, np.array(wish, float), (ts_ns, state)))
    return commands


BACK = [-0.02, 0, 0, 0, 0, 0, 1]


def test_a_person_has_the_arm_whatever_gate_and_watchdog_say(embodiment):
    pipeline = make(embodiment, ScriptedPolicy(FORWARD, score=0.1))
    run(pipeline, 3)
    pipeline.hold(observation(3).ts_ns, 'front is stale')
    commands = drive(pipeline, BACK, 4, first=3)
    assert {c.state for c in commands} == {'driven'}
    assert commands[-1].action[0] == pytest.approx(-0.02)
    np.testing.assert_allclose(
        pipeline.codec.decode(commands[-1].messages), commands[-1].action, atol=1e-7)


def test_after_a_person_the_policy_goes_on_from_a_decision_that_was_begun_since(embodiment):
    policy = ScriptedPolicy(FORWARD, horizon=30)
    pipeline = make(embodiment, policy)
    run(pipeline, 4)
    drive(pipeline, BACK, 3, first=4)
    pipeline.decide(observation(6))  # while the person drives: scored, and of no use after
    pipeline.release()
    resets = policy.resets
    waiting = [pipeline.command(observation(step).ts_ns) for step in range(7, 12)]
    assert {(c.state, c.reason) for c in waiting} == {
        ('hold', 'no decision yet since a person drove')}  # fmt: skip
    assert waiting[-1].action[0] == 0.0
    again = run(pipeline, 3, first=12)
    assert [c.state for c in again] == ['go'] * 3
    assert policy.resets == resets + 1  # what it remembered is of before
    everything = [*waiting, *again]
    assert np.abs(np.diff([c.action[0] for c in everything])).max() <= 5.0 * 0.1**2 + 1e-9


@pytest.mark.parametrize('during', ['take over', 'let go', 'both'])
def test_a_decision_that_a_person_overtook_is_not_executed(embodiment, during):
    policy = ScriptedPolicy(FORWARD, horizon=30)
    pipeline = make(embodiment, policy)
    run(pipeline, 3)
    if during == 'let go':
        drive(pipeline, BACK, 1, first=3)
    policy.free.clear(), policy.entered.clear()
    verdicts = []
    worker = threading.Thread(target=lambda: verdicts.append(pipeline.decide(observation(4))))
    worker.start()
    assert policy.entered.wait(5.0)
    if during != 'let go':
        drive(pipeline, BACK, 1, first=4)
    if during != 'take over':
        pipeline.release()
    policy.free.set()
    worker.join(5.0)
    assert 'a person took over or let go' in verdicts[0].refused and verdicts[0].outdated
    pipeline.release()
    assert pipeline.command(observation(5).ts_ns).state == 'hold'


def test_while_a_person_drives_nobody_asks_for_help(embodiment):
    pipeline = make(embodiment, ScriptedPolicy(FORWARD, score=0.03), help_s=1.0)
    for step in range(30):
        pipeline.decide(observation(step))
        command = drive(pipeline, BACK, 1, first=step)[0]
    assert command.needs_help == pipeline.needs_help == ''
    pipeline.release()
    assert [bool(c.needs_help) for c in run(pipeline, 12, first=30)][-1]


def test_a_wish_that_is_not_finite_brakes_and_says_so(embodiment):
    pipeline = make(embodiment, ScriptedPolicy(FORWARD))
    drive(pipeline, BACK, 3, first=0)
    commands = drive(pipeline, [float('nan'), 0, 0, 0, 0, 0, 1], 3, first=3)
    assert {c.state for c in commands} == {'hold'}
    assert 'dx of step 0 is not finite' in commands[0].reason
    assert commands[-1].action[0] == 0.0


@pytest.mark.parametrize('decided', [False, True])
def test_a_person_cannot_leave_the_workspace_with_or_without_a_decision(embodiment, decided):
    pipeline = make(embodiment, ScriptedPolicy(FORWARD))
    x, state = 0.5, observation(0).state
    if decided:
        run(pipeline, 1)
    for step in range(1, 40):
        state[8] = x
        ts_ns = observation(step).ts_ns
        command = pipeline.drive(ts_ns, np.array([1.0, 0, 0, 0, 0, 0, 1]), (ts_ns, state))
        x += command.action[0]
        assert x <= embodiment.action.workspace_high[0] + 1e-6
    assert x == pytest.approx(embodiment.action.workspace_high[0], abs=1e-3)


def test_joints_are_driven_from_where_they_were_measured_and_not_from_a_guess():
    robot = Embodiment.load('generic_jtc')
    pipeline = make(robot, ScriptedPolicy(FORWARD))
    wish = np.array([0.5, 0, 0, 0, 0, 0, 1.0])
    blind = pipeline.drive(STEP_NS, wish)
    assert (blind.state, blind.action, blind.messages) == ('hold', None, {})
    assert 'where the joints are is unknown' in blind.reason
    state = np.array([0.4, 0.1, 0, 0, 0, 0, 1.0], np.float32)
    first = pipeline.drive(2 * STEP_NS, wish, (2 * STEP_NS, state)).action
    assert 0.4 < first[0] < 0.5 and first[1] == pytest.approx(0.1, abs=0.05)


def test_a_first_decision_does_not_take_the_gripper_out_of_a_persons_hand():
    """Measured fingers that hold something are wider than what they were told."""
    pipeline = make(Embodiment.load('franka_servo'), ScriptedPolicy(FORWARD))
    closed = [0, 0, 0, 0, 0, 0, 0.0]
    drive(pipeline, closed, 20, first=0)
    assert pipeline.opening() == 0.0
    pipeline.decide(observation(20))  # its state says 0.8 open
    assert drive(pipeline, closed, 1, first=20)[0].action[6] == 0.0
