"""The decision loop: its thread outlives what goes wrong, and it begins from nothing old."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import threading

import numpy as np
import pytest
from scripted_policy import answer

from vla_alignment_ros import wire
from vla_alignment_ros.control.pipeline import DecisionPipeline, PipelineConfig
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ControlError
from vla_alignment_ros.nodes.decision_loop import DecisionLoop, LoopConfig

T0, STEP = 5_000_000_000, 100_000_000
PATIENCE_S = 30.0


class Policy:
    """Moves forward; while `gate` is clear it does not come to an answer."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def reset(self) -> None:
        pass

    def step(self, observation, seed=None):
        self.entered.set()
        assert self.gate.wait(PATIENCE_S)
        actions = np.tile(np.array([0.02, 0, 0, 0, 0, 0, 1], np.float32), (4, 1))
        return answer(observation, actions, 0.9)


class Bench:
    """A loop in lock-step, and everything that comes out of it."""

    def __init__(self) -> None:
        self.embodiment = Embodiment.load('tabletop')
        self.policy = Policy()
        self.changed = threading.Condition()
        self.commands, self.verdicts, self.logged = [], [], []
        self.broken: list[Exception] = []  # raised by the next publications
        self.broken_report: list[Exception] = []
        pipeline = DecisionPipeline(
            self.embodiment, self.policy, PipelineConfig(go=0.0, hold=0.0, confirm=1)
        )
        config = LoopConfig(on_arrival=True, watchdog_s=PATIENCE_S)
        self.loop = DecisionLoop(pipeline, config, self._send, self._report, self.logged.append)

    def _send(self, command) -> None:
        with self.changed:
            self.changed.notify_all()
            if self.broken:
                raise self.broken.pop(0)
            self.commands.append(command)

    def _report(self, verdict) -> None:
        with self.changed:
            self.changed.notify_all()
            if self.broken_report:
                raise self.broken_report.pop(0)
            self.verdicts.append(verdict)

    def say(self) -> None:
        self.loop.push('instruction', wire.encode_string('pick up the red cube'), T0)

    def show(self, ts_ns: int) -> None:
        for camera in self.embodiment.cameras:
            image = np.zeros((camera.height, camera.width, 3), np.uint8)
            self.loop.push(camera.topic, wire.encode_image(image, ts_ns, camera.name), ts_ns)
        names = (*self.embodiment.joint_names, 'finger_joint')
        position = np.array([0, 0.3, 0, -1.8, 0, 2.1, 0.8, 0.04])
        self.loop.push('joint_states', wire.encode_joint_state(ts_ns, names, position), ts_ns)

    def until(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE_S)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.policy.gate.set()
    bench.loop.close()


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
    bench.policy.gate.clear()
    bench.show(T0)
    assert bench.policy.entered.wait(PATIENCE_S)
    bench.loop.stop(T0)
    count = len(bench.commands)
    bench.policy.gate.set()
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
    bench.policy.gate.clear()
    bench.show(T0)
    assert bench.policy.entered.wait(PATIENCE_S)
    bench.loop.stop(T0)
    count = len(bench.commands)
    starter = threading.Thread(target=bench.loop.start)
    starter.start()
    starter.join(0.2)  # it may have to wait for the decision
    bench.policy.gate.set()
    starter.join(PATIENCE_S)
    bench.show(T0 + STEP)
    bench.until(lambda: bench.verdicts and bench.verdicts[-1].ts_ns == T0 + STEP)
    assert [v.ts_ns for v in bench.verdicts] == [T0 + STEP]
    assert len(bench.commands) == count + 1
