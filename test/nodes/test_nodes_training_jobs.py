"""Training from ROS: begun, watched, stopped and offered, while the node goes on recording."""

from __future__ import annotations

from functools import partial
import json
from pathlib import Path
import shutil
import subprocess
import sys

from diagnostic_msgs.msg import DiagnosticStatus
import numpy as np
import pytest
from rcl_interfaces.msg import ParameterValue, SetParametersResult
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future
from recordings import Recorder
from small_model import save_random_checkpoint
from std_srvs.srv import Trigger
from tabletop_robot import start
from test_nodes_training import LATCHED, Robot
from training_stand_in import CHECKPOINT, words
import yaml

from vla_alignment_ros.data.bag import EpisodeReader
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.nodes import offers, training_jobs
from vla_alignment_ros.nodes.offers import PolicyClient
from vla_alignment_ros.nodes.qos import latched, reliable
from vla_alignment_ros.nodes.training_node import TrainingNode
from vla_alignment_ros.policy.policy import pick_device
from vla_alignment_ros.training.job import JobSupervisor

NODE, POLICY = 'training_node', 'policy_node'
STATUS, ARRAY = 'diagnostic_msgs/msg/DiagnosticStatus', 'diagnostic_msgs/msg/DiagnosticArray'
LONG_S = 400.0  # for what really trains, on a busy machine


@pytest.fixture
def demos(tmp_path: Path) -> Path:
    """What looks like two episodes: stand-ins open none."""
    for name in ('a', 'b'):
        (tmp_path / 'demos' / name).mkdir(parents=True)
        (tmp_path / 'demos' / name / 'metadata.yaml').write_text('')
    return tmp_path / 'demos'


class Training:
    """A training node, and ears for its progress."""

    def __init__(self, ros, folder: Path, launcher: tuple[str, ...] = (), **parameters) -> None:
        self.ros = ros
        given = {'training.niceness': 0}  # or they never end on a busy machine
        given |= {name.replace('__', '.'): value for name, value in parameters.items()}
        if launcher:
            given['training.launcher'] = list(launcher)
        self.progress = ros.listen(f'{NODE}/progress', STATUS, latched(), raw=False)
        self.node = ros.add(
            TrainingNode, folder=str(folder), **{'training.runs': str(folder.parent / 'runs')},
            **given,
        )  # fmt: skip

    def call(self, service: str, timeout_s: float = 60.0):
        return self.ros.call(Trigger, f'{NODE}/{service}', Trigger.Request(), timeout_s)

    def set(self, **values: object) -> list[SetParametersResult]:
        return self.node.set_parameters(
            [Parameter(f'training.{name}', value=value) for name, value in values.items()]
        )

    def until(self, timeout_s: float = 60.0, **wanted: str) -> dict[str, str]:
        """Wait until ~/progress says so; all that it says then."""

        def said(messages):
            values = read(messages[-1]) if messages else {}
            return values if all(values.get(k) == v for k, v in wanted.items()) else None

        return self.progress.wait_for(said, timeout_s)


def read(status: DiagnosticStatus) -> dict[str, str]:
    return {item.key: item.value for item in status.values} | {'message': status.message}


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch):
    """Lets a stand-in judge: the reason of its refusal, or '' for none."""

    def by(reason: str) -> None:
        judge = words(f'judge:{reason}' if reason else 'judge')
        monkeypatch.setattr(training_jobs, 'JobSupervisor', partial(JobSupervisor, judge=judge))

    by('')
    return by


def test_a_training_is_begun_told_refused_twice_cancelled_and_gone_on_with(ros, demos, judge):
    training = Training(ros, demos, words('wait'), status_period_s=0.05)
    diagnostics = ros.listen('/diagnostics', ARRAY, reliable(), raw=False)
    assert training.until(state='idle')['message'] == 'nothing was trained yet'
    assert 'no training is running' in training.call('cancel_training').message
    begun = training.call('train')
    assert begun.success, begun.message
    said = training.until(state='running', step='4')
    assert begun.message.startswith(f'begins {said["run_folder"]}: 2400 steps, 2 episodes')
    assert Path(said['log_file']).is_file()
    assert (said['steps'], said['loss'], said['eta_s']) == ('9', '0.5', '2')

    def heard(messages):
        return any(read(s).get('step') == '4' for m in messages for s in m.status)

    diagnostics.wait_for(heard)
    second = training.call('train')
    assert not second.success and 'one training at a time, and run_000000' in second.message
    stopped = training.call('cancel_training')
    assert stopped.success and 'cancelled, step 4 of 9' in stopped.message
    assert training.until(state='cancelled')['reason'].startswith('stopped at step 4')
    assert training.progress.messages[-1].level == DiagnosticStatus.WARN
    assert all(result.successful for result in training.set(resume=True))
    again = training.call('train')
    assert again.success and again.message.startswith(f'goes on with {said["run_folder"]}')
    training.until(state='running', step='4')


def test_what_cannot_be_trained_is_refused_with_the_reason(ros, demos, tmp_path):
    training = Training(ros, demos)
    for values, reason in (
        ({'config': 'no_such'}, 'no training config named'),
        ({'config': 'tabletop', 'data': str(tmp_path / 'no')}, 'no folder'),
        ({'data': '', 'from_checkpoint': str(tmp_path / 'no')}, 'checkpoint folder not found'),
        ({'from_checkpoint': 'current'}, 'training.offer_to names no policy node'),
        ({'from_checkpoint': '', 'device': 'gpu'}, "device 'gpu' is none of"),
    ):
        assert all(result.successful for result in training.set(**values))
        refused = training.call('train')
        assert not refused.success and reason in refused.message
    assert not (tmp_path / 'runs').exists()
    refused = training.call('offer_checkpoint')
    assert not refused.success and 'training.offer_to names no policy node' in refused.message


def test_a_node_that_only_watches_does_not_load_torch():
    code = 'import sys, vla_alignment_ros.nodes.training_node; print("torch" in sys.modules)'
    assert subprocess.check_output([sys.executable, '-c', code], text=True) == 'False\n'


def test_nobody_can_say_over_ros_what_is_executed_or_whose_policy_changes(ros, demos):
    training = Training(ros, demos)
    for name, value in (
        ('launcher', ['touch', 'x']), ('runs', 'x'), ('offer_to', 'x'), ('auto_offer', True)
    ):  # fmt: skip
        (result,) = training.set(**{name: value})
        assert not result.successful and 'read-only' in result.reason, name


def test_a_node_that_ends_takes_its_training_along(ros, demos, judge):
    training = Training(ros, demos, words('wait'))
    assert training.call('train').success
    run = Path(training.until(state='running', step='4')['run_folder'])
    ros.until((run / 'wait.pid').is_file, 'the training')
    training.node.close()
    assert not Path(f'/proc/{(run / "wait.pid").read_text()}').exists()
    training.until(state='cancelled')
    again = Training(ros, demos, words('wait'), training__resume=True)
    assert again.until(state='cancelled', step='4')['run_folder'] == str(run)
    begun = again.node._jobs._train()
    assert begun.startswith(f'goes on with {run}')


def test_a_killed_training_is_an_error_with_its_reason(ros, demos, judge):
    training = Training(ros, demos, words('dies'))
    assert training.call('train').success
    said = training.until(state='failed')
    assert 'was killed (SIGKILL)' in said['reason']
    assert training.progress.messages[-1].level == DiagnosticStatus.ERROR


def test_every_message_is_recorded_while_a_training_runs(ros, demos, judge):
    training = Training(ros, demos, words('wait'))
    assert_recorded_meanwhile(ros, training, ticks=20)
    assert training.until(state='running')


def assert_recorded_meanwhile(
    ros, training: Training, ticks: int, shared: tuple[str, ...] = ()
) -> None:
    """An episode, begun while it trains, holds what was sent: exactly, but for shared topics."""
    robot = Robot(ros)
    assert training.node.bring_up()
    robot.matched(ros)
    robot.say('push the ball left')
    assert training.call('train').success
    training.until(state='running')
    assert ros.trigger(f'{NODE}/start_episode').success

    def received() -> int:
        counts = training.node._recorder.counts()
        return min(counts[topic].received for topic in robot.outputs if topic not in LATCHED)

    for step in range(1, ticks + 1):
        robot.tick(step * 100_000_000)
        if step % 5 == 0:  # no more than the queues of a robot's publishers hold
            ros.until(lambda step=step: received() == step, f'{step} of each')
    stopped = ros.set_bool(f'{NODE}/stop_episode', True)
    assert stopped.success, stopped.message
    written = EpisodeReader(Path(stopped.message)).info.message_counts
    sent = {topic: ticks for topic in robot.outputs if topic not in LATCHED} | {'instruction': 1}
    found = {topic: written[topic] for topic in sent}
    assert found == sent | {topic: max(ticks, found[topic]) for topic in shared}
    assert all(count.dropped == 0 for count in training.node._recorder.counts().values())


# -- offers -------------------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint that stand-ins say they trained."""
    folder = save_random_checkpoint(tmp_path / 'other', willing=False)
    monkeypatch.setenv(CHECKPOINT, str(folder))
    return folder


def served(node) -> str:
    return node._serving.model.folder


def trained(training: Training) -> str:
    assert training.call('train').success
    return training.until(state='succeeded')['checkpoint']


def test_a_good_checkpoint_is_offered_when_a_person_agrees(ros, demos, judge, checkpoint, other):
    _, policy = start(ros, checkpoint)
    training = Training(ros, demos, words('done'), training__offer_to=POLICY)
    new = trained(training)
    said = training.until(offer='waits for ~/offer_checkpoint')
    assert said['compared_with'] == str(checkpoint)
    assert served(policy) == str(checkpoint)  # nothing changes unasked
    newer = other.parent / 'newer'  # than what it was compared with
    shutil.copytree(checkpoint, newer)
    assert policy.set_parameters([Parameter('checkpoint', value=str(newer))])[0].successful
    taken = training.call('offer_checkpoint')
    told = f'{POLICY} serves {new}: tabletop on {pick_device()}'
    assert taken.success and taken.message.startswith(told)
    assert served(policy) == new == policy.get_parameter('checkpoint').value
    assert training.until(offer=taken.message)['compared_with'] == str(newer)


def test_a_good_checkpoint_is_offered_unasked_where_that_is_wanted(
    ros, demos, judge, checkpoint, other
):
    _, policy = start(ros, checkpoint)
    training = Training(
        ros, demos, words('done'), training__offer_to=POLICY, training__auto_offer=True
    )
    new = trained(training)
    ros.until(lambda: served(policy) == new, 'the exchange')


def test_a_worse_checkpoint_is_not_offered_and_the_old_one_serves(
    ros, demos, judge, checkpoint, other
):
    judge('worse: action error 0.3 instead of 0.2')
    _, policy = start(ros, checkpoint)
    training = Training(
        ros, demos, words('done'), training__offer_to=POLICY, training__auto_offer=True
    )
    assert training.call('train').success
    said = training.until(state='failed')
    assert said['reason'] == 'worse: action error 0.3 instead of 0.2'
    assert said['checkpoint'] == said['offer'] == ''
    refused = training.call('offer_checkpoint')
    assert not refused.success and 'action error 0.3 instead of 0.2' in refused.message
    assert served(policy) == str(checkpoint) and policy._serving.exchanges == 0


def test_what_the_policy_node_refuses_is_told_and_the_old_one_serves(
    ros, demos, judge, checkpoint, other
):
    (other / 'model.safetensors').write_bytes(b'no weights')
    _, policy = start(ros, checkpoint)
    training = Training(ros, demos, words('done'), training__offer_to=POLICY)
    trained(training)
    refused = training.call('offer_checkpoint')
    assert not refused.success
    assert f'{POLICY} refuses it' in refused.message
    assert 'not a safetensors file' in refused.message
    assert training.until(offer=f'not taken: {refused.message}')
    assert served(policy) == str(checkpoint)


def test_a_policy_node_that_is_not_there_is_named(ros, demos, judge, monkeypatch):
    monkeypatch.setattr('vla_alignment_ros.nodes.offers.THERE_S', 0.1)
    training = Training(ros, demos, words('done'), training__offer_to='nobody')
    trained(training)  # nothing to compare with: it is a success all the same
    refused = training.call('offer_checkpoint')
    assert not refused.success
    assert 'nobody/get_parameters is not there: does nobody run?' in refused.message
    training.set(from_checkpoint='current')
    assert 'does nobody run?' in training.call('train').message


def test_an_answer_that_is_lost_is_asked_for_again_where_that_does_no_harm(ros, monkeypatch):
    monkeypatch.setattr(offers, 'ASK_AGAIN_S', 0.2)
    monkeypatch.setattr(offers, 'LOADED_S', 1.0)
    asked = {GetParameters: 0, SetParameters: 0}

    async def answer(kind, request, response):
        asked[kind] += 1
        if asked[kind] == 1:
            await Future()  # never done
        response.values = [ParameterValue(type=4, string_value='folder')]
        return response

    for kind, service in ((GetParameters, 'get_parameters'), (SetParameters, 'set_parameters')):
        ros.client.create_service(kind, f'forgetful/{service}', partial(answer, kind))
    policy = PolicyClient(ros.add(partial(Node, 'asking')), 'forgetful')
    assert policy.serving() == 'folder' and asked[GetParameters] >= 2
    with pytest.raises(ConfigError, match='forgetful does not answer forgetful/set_parameters'):
        policy.offer('other')
    assert asked[SetParameters] == 1


# -- in earnest ---------------------------------------------------------------------------------

SENTENCES = ('pick up the red cube', 'push the blue ball to the left', 'pick up the blue ball')


@pytest.fixture(scope='module')
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small episodes of the tabletop."""
    root = tmp_path_factory.mktemp('lessons')
    for i, text in enumerate(SENTENCES * 2):
        recorder = Recorder(root, Embodiment.load('tabletop'), seed=i)
        extra = {'group': text, 'labels': json.dumps(['red cube', 'blue ball'])}
        recorder.record(f'episode_{i}', ticks=8, instruction=text, extra=extra)
    return root


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_policy_is_taught_while_it_serves_and_recording_goes_on(ros, lessons, tmp_path):
    from vla_alignment_ros.training.config import TrainConfig
    from vla_alignment_ros.training.trainer import Trainer

    settings = {
        'data': {'val_fraction': 0.3, 'horizon': 4},
        'model': {'width': 32, 'heads': 2, 'language_layers': 1, 'decoder_layers': 1},
        'optimizer': {'steps': 20, 'batch': 8, 'warmup_steps': 2},
        'threads': 1,
    }
    file = tmp_path / 'small.yaml'
    file.write_text(yaml.safe_dump(settings))
    first = Trainer(TrainConfig.from_dict(settings), [lessons], tmp_path / 'first').run()
    robot, policy = start(ros, first, act_on_arrival=True)
    training = Training(
        ros, tmp_path / 'demos', status_period_s=0.05, training__offer_to=POLICY,
        training__data=str(lessons), training__config=str(file), training__threads=1,
        training__from_checkpoint='current', training__tolerance=1.0,
    )  # fmt: skip
    commands = ('servo/delta_twist_cmds', 'gripper/command')  # the policy sends them too
    assert_recorded_meanwhile(ros, training, 30, commands)
    said = training.until(LONG_S, state='succeeded')
    assert (said['step'], said['steps']) == ('20', '20')
    assert said['compared_with'] == str(first)
    assert float(said['held-out action_l1']) < 2 * float(said['compared action_l1'])
    taken = training.call('offer_checkpoint', LONG_S)
    assert taken.success, taken.message
    assert served(policy) == said['checkpoint']
    robot.say()
    robot.show(9_000_000_000)
    assert np.isfinite(robot.twist(9_000_000_000).linear).all()
