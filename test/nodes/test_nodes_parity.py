"""Demonstrations recorded over ROS and headless are the same demonstrations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vla_alignment_ros import wire
from vla_alignment_ros.data.bag import EpisodeReader
from vla_alignment_ros.data.dataset import load_dataset
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.nodes.expert_node import ExpertNode
from vla_alignment_ros.nodes.qos import latched
from vla_alignment_ros.nodes.simulator_node import SimulatorNode
from vla_alignment_ros.nodes.training_node import TrainingNode
from vla_alignment_ros.sim.record import record_episode
from vla_alignment_ros.sim.tasks import sample_episode

SPLIT, SEED = 'train', 3


def _record_over_ros(ros, folder: Path) -> Path:
    simulator = ros.add(
        SimulatorNode, lockstep=True, split=SPLIT, seed=SEED, reset_on_start=False
    )
    ros.add(ExpertNode)
    training = ros.add(TrainingNode, folder=str(folder))
    assert training.bring_up()
    done = ros.listen('expert_node/done', 'std_msgs/msg/Bool', latched())
    commands = Embodiment.load('tabletop').command_topics()
    for topic in commands:  # the episode must not begin before everybody listens
        wait_for_subscribers(ros, topic, 2)
    for topic in Embodiment.load('tabletop').observation_topics():
        wait_for_subscribers(ros, topic, 1)
    wait_for_subscribers(ros, 'simulator_node/state', 1)
    assert ros.trigger('training_node/start_episode').success
    assert ros.trigger('simulator_node/reset').success
    done.wait_for(lambda raws: raws and wire.decode_bool(raws[-1]))
    assert simulator is not None
    stopped = ros.set_bool('training_node/stop_episode', True)
    assert stopped.success, stopped.message
    return Path(stopped.message)


def wait_for_subscribers(ros, topic: str, count: int) -> None:
    ros.until(lambda: ros.client.count_subscribers(topic) >= count, f'{count} on {topic}')


@pytest.mark.timeout(120)
def test_the_same_seed_gives_the_same_tensors_over_ros_and_headless(ros, tmp_path: Path):
    over_ros = _record_over_ros(ros, tmp_path / 'ros')
    headless = record_episode(
        sample_episode(SEED, SPLIT), tmp_path / 'headless', Embodiment.load('tabletop')
    )
    infos = [EpisodeReader(path).info for path in (over_ros, headless)]
    assert infos[0].instruction == infos[1].instruction
    assert infos[0].success and infos[1].success
    assert infos[0].embodiment == infos[1].embodiment
    tensors = []
    for path in (over_ros, headless):
        data = load_dataset([path], horizon=8, val_fraction=0.0, progress=False)
        tensors.append(data.train.get_batch(np.arange(len(data.train))))
    ours, theirs = tensors
    assert len(ours['action']) > 10
    for name, image in theirs['images'].items():
        np.testing.assert_array_equal(np.asarray(ours['images'][name]), np.asarray(image))
    for key in theirs:
        if key != 'images':
            np.testing.assert_array_equal(np.asarray(ours[key]), np.asarray(theirs[key]), key)
