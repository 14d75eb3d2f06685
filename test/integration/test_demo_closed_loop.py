"""Episodes over real ROS topics repeat, equal those without ROS, and end cleanly in a crash."""

from __future__ import annotations

from dataclasses import asdict
import os
import signal

import pytest
from small_model import save_random_checkpoint
import torch

pytest.importorskip('rclpy')

from vla_alignment_ros.cli.vla_evaluate import connect
from vla_alignment_ros.control.decisions import PipelineConfig
from vla_alignment_ros.errors import VlaError
from vla_alignment_ros.evaluation.closed_loop import ClosedLoopConfig, ClosedLoopRunner
from vla_alignment_ros.evaluation.episode import EpisodeLimits
from vla_alignment_ros.evaluation.processes import NodeError, NodeProcesses, READY_S
from vla_alignment_ros.evaluation.rollout import InProcessRunner
from vla_alignment_ros.policy.policy import Policy

# what hangs is named by the client, with the node's log, before pytest ends it
pytestmark = pytest.mark.timeout(3 * READY_S)
LIMITS = EpisodeLimits(max_steps=10, hold_steps=5)
SCENES = [(0, 'seen', 5), (1, 'absent', 2)]


@pytest.fixture(scope='module')
def policy(tmp_path_factory):
    folder = save_random_checkpoint(tmp_path_factory.mktemp('checkpoint') / 'random', True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield folder, Policy.load(folder, device='cpu')
    torch.set_num_threads(threads)


def closed_loop(policy, film=False):
    folder, loaded = policy
    config = ClosedLoopConfig(folder, loaded.embodiment, device='cpu', limits=LIMITS, film=film)
    return ClosedLoopRunner(config, connect)


def comparable(result):
    """Everything but wall time and commands; over ROS, figures travel with six decimals."""
    values = asdict(result)
    del values['wall_s'], values['latency_s'], values['motion']
    values['scores'] = tuple(round(score, 6) for score in values['scores'])
    values['displaced_m'] = round(values['displaced_m'], 6)
    return values


def test_over_ros_as_in_one_process_again_and_again(policy):
    folder, loaded = policy
    gate = {'go': loaded.calibration.go, 'hold': loaded.calibration.hold}
    config = PipelineConfig(**gate)
    with InProcessRunner(loaded.embodiment, loaded, config, LIMITS, film=False) as runner:
        expected = [comparable(runner.run(*scene)[0]) for scene in SCENES]
    assert expected[0]['scores'] != expected[1]['scores']
    with closed_loop(policy, film=True) as runner:
        for _ in range(2):
            for scene, same in zip(SCENES, expected):
                result, film = runner.run(*scene)
                assert comparable(result) == same
                assert film.pick()[-1][0] == result.steps
        # the processes are gone when the context is left, even if one was stopped by force
        children = dict(runner.processes.children)
        os.kill(children['policy_node'], signal.SIGKILL)
        with pytest.raises(NodeError, match='policy_node was killed by signal 9'):
            runner.run(*SCENES[0])
    for pid in children.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_node_that_ends_is_named_with_the_end_of_its_log(policy):
    with NodeProcesses() as processes:
        processes.start(
            'simulator_node', 'vla_alignment_ros.nodes.simulator_node', {'embodiment': 'nowhere'}
        )
        client = connect(processes.domain_id, processes.check, None)
        try:
            with pytest.raises(NodeError, match="simulator_node ended(?s:.)*'nowhere'"):
                client.wait_until_ready(READY_S)
        finally:
            client.close()


def test_a_checkpoint_that_does_not_load_is_an_error_that_can_be_mended(policy, tmp_path):
    config = ClosedLoopConfig(tmp_path, policy[1].embodiment, device='cpu', film=False)
    with pytest.raises(VlaError, match='policy_node'), ClosedLoopRunner(config, connect):
        pass
