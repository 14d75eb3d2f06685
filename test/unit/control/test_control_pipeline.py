"""The pipeline moves only on a matching score, stays within limits, and starts anew when told."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from scripted_policy import answer

from vla_alignment_ros.control.pipeline import DecisionPipeline, PipelineConfig
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.observation import Observation

STEP_NS = 100_000_000
GATE = {'go': 0.6, 'hold': 0.3, 'confirm': 2, 'dwell': 2}


class ScriptedPolicy:
    """Answers every observation with the same action and a score that the test sets."""

    def __init__(self, action, score=0.9, horizon=4):
        self.action, self.score, self.horizon = action, score, horizon
        self.seeds: list[int] = []
        self.resets = 0
        self.pause: threading.Event | None = None
        self.entered = threading.Event()

    def reset(self):
        self.resets += 1

    def step(self, observation, candidates=1, seed=None):
        self.seeds.append(seed)
        self.entered.set()
        if self.pause is not None:
            assert self.pause.wait(5.0)
        actions = np.tile(np.asarray(self.action, np.float32), (self.horizon, 1))
        return answer(observation, actions, self.score)


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


@pytest.mark.parametrize('apart_s', [1.7e9, -1.7e9, 20.0])
def test_a_clock_that_is_not_that_of_the_stamps_is_named(embodiment, apart_s):
    pipeline = make(embodiment, ScriptedPolicy(FORWARD))
    for step in range(3):
        seen = observation(step)
        pipeline.decide(seen)
        command = pipeline.command(seen.ts_ns + int(apart_s * 1e9))
    assert command.state == 'hold'
    assert f'differ by {abs(apart_s):.0f} s' in command.reason
    assert 'use_sim_time' in command.reason


def test_a_policy_that_falls_silent_is_not_blamed_on_the_clock(embodiment):
    pipeline = make(embodiment, ScriptedPolicy(FORWARD))
    run(pipeline, 3)
    late = [pipeline.command(observation(step).ts_ns) for step in (10, 200)]
    assert all('used up' in command.reason for command in late)


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
    policy.pause = threading.Event()
    pipeline = make(embodiment, policy)
    verdicts = []
    worker = threading.Thread(target=lambda: verdicts.append(pipeline.decide(observation(0))))
    worker.start()
    assert policy.entered.wait(5.0)
    pipeline.reset()
    policy.pause.set()
    worker.join(5.0)
    assert verdicts[0].gate == 'hold' and 'reset' in verdicts[0].refused
    assert pipeline.command(observation(0).ts_ns).reason == 'no decision yet'


def test_a_slow_decision_does_not_delay_commands(embodiment):
    policy = ScriptedPolicy(FORWARD, horizon=9)
    pipeline = make(embodiment, policy)
    run(pipeline, 3)
    policy.pause = threading.Event()
    policy.entered.clear()
    worker = threading.Thread(target=pipeline.decide, args=(observation(3),))
    worker.start()
    assert policy.entered.wait(5.0)
    assert pipeline.command(observation(3).ts_ns).state == 'go'
    policy.pause.set()
    worker.join(5.0)


def test_verdict_tells_its_figures_as_text(embodiment):
    pipeline = make(embodiment, ScriptedPolicy(FORWARD))
    values = pipeline.decide(observation(0)).key_values()
    assert values['instruction'] == 'pick up the red cube'
    assert float(values['vl_score']) == pytest.approx(0.9)
    assert (values['gate'], values['refused'], values['ts_ns']) == ('hold', '', '1000000000')


@pytest.mark.parametrize(
    'wrong', [{'slow_speed': 0.0}, {'max_gap_s': 0.0}, {'candidates': 0}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PipelineConfig(**wrong)
