"""Another checkpoint while the node serves: it takes over cleanly, or the old one stays."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import json
import math
from pathlib import Path
import pickle
import shutil
import struct
import threading

import numpy as np
from pickle_bomb import Bomb
import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue, SetParametersResult
from rcl_interfaces.srv import SetParameters
import rclpy.parameter
from safetensors.numpy import load_file, save_file
from small_model import save_random_checkpoint
from tabletop_robot import NODE, PATIENCE_S, Robot, start, STEP, T0

from vla_alignment_ros.nodes import models
from vla_alignment_ros.nodes.policy_node import PolicyNode
from vla_alignment_ros.policy.checkpoint import load_checkpoint, save_checkpoint

RELOAD = f'{NODE}/reload'
WEIGHTS, CONFIG, TOKENIZER = 'model.safetensors', 'config.json', 'tokenizer.json'
WENT_OFF = 'went_off'  # a folder that a pickle makes when somebody loads it


@pytest.fixture
def other(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint like the first, with thresholds and a revision of its own."""
    loaded = load_checkpoint(checkpoint)
    calibration = dataclasses.replace(loaded.calibration, go=0.7, hold=0.2)
    changed = dataclasses.replace(
        loaded, calibration=calibration, training={'git_revision': 'another'}
    )
    return save_checkpoint(changed, tmp_path / 'other')


class Gate:
    """Holds the loading of checkpoints until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.entered = threading.Event(), threading.Event()
        self.loaded: list[str] = []
        load = models.Policy.load

        def slow(folder, device):
            self.entered.set()
            assert self.opened.wait(PATIENCE_S)
            self.loaded.append(Path(folder).name)
            return load(folder, device)

        monkeypatch.setattr(models.Policy, 'load', slow)


class Asking(threading.Thread):
    """A call that is waited for later."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__()
        self._call, self._answer = call, None
        self.start()

    def run(self) -> None:
        self._answer = self._call()

    def answer(self) -> object:
        self.join(PATIENCE_S)
        assert not self.is_alive()
        return self._answer


def set_checkpoint(ros, folder: object) -> SetParametersResult:
    """As `ros2 param set` does it."""
    value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=str(folder))
    request = SetParameters.Request(parameters=[Parameter(name='checkpoint', value=value)])
    return ros.call(SetParameters, f'{NODE}/set_parameters', request).results[0]


def act(robot: Robot, step: int) -> np.ndarray:
    """Show the robot moment number `step`; the (6,) speeds that it answers with."""
    robot.show(T0 + step * STEP)
    sample = robot.twist(T0 + step * STEP)
    return np.concatenate([sample.linear, sample.angular])


def test_state_queries_are_answered_while_a_checkpoint_loads(ros, checkpoint, monkeypatch):
    gate = Gate(monkeypatch)
    ros.add(PolicyNode, checkpoint=str(checkpoint), threads=1)
    configuring = Asking(lambda: ros.transition(NODE, 'configure'))
    assert gate.entered.wait(PATIENCE_S)
    assert ros.state(NODE) == 'configuring'  # answered: the gate opens only behind this
    refused = set_checkpoint(ros, checkpoint)
    assert not refused.successful
    assert 'being loaded' in refused.reason
    gate.opened.set()
    assert configuring.answer() is True
    assert ros.state(NODE) == 'inactive'


@pytest.mark.parametrize('way', ['service', 'parameter', 'in process'])
def test_another_checkpoint_takes_over_between_two_decisions(ros, checkpoint, other, way):
    folder = other.parent / 'serving'
    shutil.copytree(checkpoint, folder)
    robot, node = start(ros, folder, act_on_arrival=True)
    robot.say()
    for step in range(3):
        act(robot, step)
    pipeline = node._loop.pipeline
    old = pipeline.policy
    if way == 'service':
        shutil.rmtree(folder)
        shutil.copytree(other, folder)
        answer = ros.trigger(RELOAD)
        assert answer.success, answer.message
        assert str(folder) in answer.message
    elif way == 'parameter':
        result = set_checkpoint(ros, other)
        assert result.successful, result.reason
        assert node.get_parameter('checkpoint').value == str(other)
    else:
        parameter = rclpy.parameter.Parameter('checkpoint', value=str(other))
        assert node.set_parameters([parameter])[0].successful
        ros.until(lambda: node._serving.exchanges == 1, 'the exchange')
    assert pipeline.policy is not old
    assert node._serving.model.revision == 'another'
    assert np.any(act(robot, 3))
    ros.until(lambda: node._loop.decisions == 4, 'the end of the decision')
    assert node._loop.pipeline is pipeline
    assert ros.state(NODE) == 'active'


def test_the_thresholds_of_the_new_checkpoint_count(ros, checkpoint, other):
    robot, node = start(ros, checkpoint, act_on_arrival=True, **{'gate.enabled': True})
    config = node._loop.pipeline.config
    assert (config.go, config.hold) == (0.6, 0.3)
    assert set_checkpoint(ros, other).successful
    config = node._loop.pipeline.config
    assert (config.go, config.hold) == (0.7, 0.2)


def test_the_motion_has_no_seam_where_the_models_change(ros, checkpoint, tmp_path):
    mirrored = tmp_path / 'mirrored'
    shutil.copytree(checkpoint, mirrored)
    weights = load_file(mirrored / WEIGHTS)
    weights['normalizer.action_scale'] *= -1
    save_file(weights, mirrored / WEIGHTS)
    robot, node = start(ros, checkpoint, act_on_arrival=True)
    robot.say()
    speeds = [act(robot, step) for step in range(8)]
    assert set_checkpoint(ros, mirrored).successful
    speeds += [act(robot, step) for step in range(8, 16)]
    action, rate_hz = robot.embodiment.action, robot.embodiment.rate_hz
    change = np.diff(speeds, axis=0) * rate_hz  # (15, 6) m/s², rad/s²
    assert (np.abs(change) <= np.array(action.max_acceleration[:6]) * (1 + 1e-6)).all()
    assert np.abs(np.array(speeds[7]) - speeds[15]).max() > 0.01  # they do want different things


def without_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def truncated(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1000])


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps(Bomb(folder / WENT_OFF)))


def huge_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(struct.pack('<Q', 2**62) + b'{}' * 50)


def misshapen(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    name = max(weights, key=lambda key: weights[key].size)
    weights[name] = np.ascontiguousarray(weights[name][1:])
    save_file(weights, folder / WEIGHTS)


def not_a_number(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    name = max(weights, key=lambda key: weights[key].size)
    weights[name].flat[7] = np.nan
    save_file(weights, folder / WEIGHTS)


def no_tokenizer(folder: Path) -> None:
    (folder / TOKENIZER).write_bytes(pickle.dumps(Bomb(folder / WENT_OFF)))


def endless_config(folder: Path) -> None:
    (folder / CONFIG).write_text('{"model":' * 200_000)


def broken_config(folder: Path) -> None:
    (folder / CONFIG).write_text('{"format": 1, ')


def boundless(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    for name in ('action_scale', 'action_centre'):
        weights[f'normalizer.{name}'][:] = 3.4e38  # finite, but their sum is not
    save_file(weights, folder / WEIGHTS)


def without_order(folder: Path) -> None:
    text = json.loads((folder / CONFIG).read_text())
    text['calibration'] |= {'go': 0.2, 'hold': 0.4}
    (folder / CONFIG).write_text(json.dumps(text))


def of_another_camera(folder: Path) -> None:
    text = json.loads((folder / CONFIG).read_text())
    sizes = text['model']['cameras']
    sizes['rear'] = sizes.pop('front')  # which its embodiment does not have
    (folder / CONFIG).write_text(json.dumps(text))


def of_another_robot(folder: Path) -> None:
    text = json.loads((folder / CONFIG).read_text())
    text['embodiment']['cameras'][0]['topic'] = 'top/image_raw'
    text['embodiment']['action']['max_velocity'] = [0.5] * 7
    (folder / CONFIG).write_text(json.dumps(text))


BAD = {
    without_weights: 'lacks model.safetensors',
    truncated: 'not a safetensors file',
    pickled: 'not a safetensors file',
    huge_header: 'not a safetensors file',
    misshapen: 'does not fit its config',
    not_a_number: 'not finite',
    no_tokenizer: 'not a tokenizer',
    endless_config: 'not valid JSON',
    broken_config: 'not valid JSON',
    boundless: 'answers with values that are not finite',
    without_order: 'a calibration needs 0 ≤ hold ≤ go ≤ 1',
    of_another_camera: 'rear',
    of_another_robot: 'another embodiment',
}


def test_what_cannot_serve_is_refused_with_the_reason_and_the_old_one_goes_on(
    ros, checkpoint, tmp_path
):
    folder = tmp_path / 'serving'
    shutil.copytree(checkpoint, folder)
    robot, node = start(ros, folder, act_on_arrival=True, **{'gate.enabled': True})
    robot.say()
    policy = node._loop.pipeline.policy
    for step, (spoil, reason) in enumerate(BAD.items()):
        bad = tmp_path / spoil.__name__
        shutil.copytree(checkpoint, bad)
        spoil(bad)
        result = set_checkpoint(ros, bad)
        assert not result.successful, spoil.__name__
        assert reason in result.reason
        assert node.get_parameter('checkpoint').value == str(folder)
        assert node.settings.current.checkpoint == str(folder)
        shutil.rmtree(folder)
        shutil.copytree(bad, folder)
        answer = ros.trigger(RELOAD)
        assert not answer.success
        assert reason in answer.message
        act(robot, step)
        assert node._loop.pipeline.policy is policy
        assert not list(tmp_path.rglob(WENT_OFF)), spoil.__name__
    ros.until(lambda: node._loop.decisions == len(BAD), 'the end of the last decision')
    assert sum(node._reloads.causes.snapshot().values()) == 2 * len(BAD)


def test_another_embodiment_is_refused_by_the_names_of_what_differs(ros, checkpoint, tmp_path):
    bad = tmp_path / 'bad'
    shutil.copytree(checkpoint, bad)
    of_another_robot(bad)
    start(ros, checkpoint)
    reason = set_checkpoint(ros, bad).reason
    assert "cameras[0].topic is 'top/image_raw' instead of 'front/image_raw'" in reason
    assert 'action.max_velocity is [0.5' in reason
    assert 'configure again' in reason


def test_decisions_go_on_while_a_checkpoint_loads_and_a_second_reload_waits(
    ros, checkpoint, other, monkeypatch
):
    robot, node = start(ros, checkpoint, act_on_arrival=True)
    robot.say()
    act(robot, 0)
    gate = Gate(monkeypatch)
    first = Asking(lambda: set_checkpoint(ros, other))
    assert gate.entered.wait(PATIENCE_S)
    second = Asking(lambda: ros.trigger(RELOAD))
    for step in range(1, 4):
        assert np.any(act(robot, step))
    assert gate.loaded == []
    gate.opened.set()
    assert first.answer().successful
    answer = second.answer()
    assert answer.success, answer.message
    assert gate.loaded[0] == 'other' and len(gate.loaded) == 2
    assert node._serving.exchanges == 2
    assert np.any(act(robot, 4))


def test_deactivating_does_not_wait_for_a_reload_and_leaves_the_arm_held(
    ros, checkpoint, monkeypatch
):
    robot, node = start(ros, checkpoint, act_on_arrival=True)
    robot.say()
    for step in range(3):
        assert np.any(act(robot, step))
    gate = Gate(monkeypatch)
    reload = Asking(lambda: ros.trigger(RELOAD))
    assert gate.entered.wait(PATIENCE_S)
    assert ros.transition(NODE, 'deactivate')
    count = len(robot.twists.messages)
    assert node._loop.last.state == 'hold'
    gate.opened.set()
    assert reload.answer().success
    assert ros.state(NODE) == 'inactive'
    assert len(robot.twists.messages) == count  # an exchange commands nothing
    assert ros.transition(NODE, 'activate')
    assert np.any(act(robot, 5))


def test_a_node_that_was_cleaned_up_meanwhile_refuses_the_reload(ros, checkpoint, monkeypatch):
    robot, node = start(ros, checkpoint)
    gate = Gate(monkeypatch)
    reload = Asking(lambda: ros.trigger(RELOAD))
    assert gate.entered.wait(PATIENCE_S)
    assert ros.transition(NODE, 'deactivate')
    assert ros.transition(NODE, 'cleanup')
    gate.opened.set()
    answer = reload.answer()
    assert not answer.success
    assert 'cleaned up' in answer.message
    assert ros.state(NODE) == 'unconfigured'


def test_before_it_is_configured_a_reload_is_refused_and_the_parameter_waits(
    ros, checkpoint, tmp_path
):
    node = ros.add(PolicyNode, threads=1)
    answer = ros.trigger(RELOAD)
    assert not answer.success
    assert 'configure the node first' in answer.message
    assert set_checkpoint(ros, tmp_path / 'nowhere').successful
    assert not ros.transition(NODE, 'configure')
    assert 'nowhere' in node.last_error
    assert set_checkpoint(ros, checkpoint).successful
    assert ros.transition(NODE, 'configure')


def test_one_thread_is_kept_unless_more_of_them_are_faster(ros, checkpoint, monkeypatch):
    measured = []
    monkeypatch.setattr(models, 'fastest_threads', lambda work: measured.append(work()) or 1)
    ros.add(PolicyNode, checkpoint=str(checkpoint), threads=0, device='cpu')
    assert ros.transition(NODE, 'configure')
    assert len(measured) == 1 and measured[0] > 0.0
    assert set_checkpoint(ros, checkpoint).successful
    assert len(measured) == 1  # a reload keeps the number: inference has begun with it


def test_the_calibration_of_the_new_checkpoint_counts(ros, checkpoint, tmp_path):
    robot, node = start(ros, checkpoint, act_on_arrival=True)
    robot.say()

    def log_odds(step: int) -> float:
        act(robot, step)  # every moment looks the same
        ros.until(lambda: node._loop.decisions == step + 1, 'the end of the decision')
        score = node._loop.verdict.vl_score
        return math.log(score / (1.0 - score))

    before = log_odds(0)
    # the same weights; the offset of the calibration is 3 in one and -6 in the other
    unwilling = save_random_checkpoint(tmp_path / 'unwilling', willing=False)
    assert set_checkpoint(ros, unwilling).successful
    assert before - log_odds(1) == pytest.approx(9.0, rel=1e-3)
