"""Demonstrations recorded over ROS and headless are the same demonstrations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vla_alignment_ros.data.bag import EpisodeReader
from vla_alignment_ros.data.dataset import load_dataset
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.evaluation.processes import READY_S
from vla_alignment_ros.nodes.expert_node import ExpertNode
from vla_alignment_ros.nodes.recording_client import RecordingClient
from vla_alignment_ros.nodes.simulator_node import SimulatorNode
from vla_alignment_ros.nodes.training_node import TrainingNode
from vla_alignment_ros.sim.record import record_episode
from vla_alignment_ros.sim.tasks import sample_episode

SPLIT, SEED = 'train', 3


def _record_over_ros(ros, domain_id: int, folder: Path) -> Path:
    embodiment = Embodiment.load('tabletop')
    ros.add(SimulatorNode, lockstep=True, reset_on_start=False)
    ros.add(ExpertNode)
    ros.add(TrainingNode, folder=str(folder))
    client = RecordingClient(domain_id, lambda: None, embodiment)
    try:
        client.wait_until_ready(READY_S)
        return client.record(SPLIT, SEED)
    finally:
        client.close()


@pytest.mark.timeout(600)
def test_the_same_seed_gives_the_same_tensors_over_ros_and_headless(
    ros, ros_domain: int, tmp_path: Path
):
    over_ros = _record_over_ros(ros, ros_domain, tmp_path / 'ros')
    headless = record_episode(
        sample_episode(SEED, SPLIT), tmp_path / 'headless', Embodiment.load('tabletop')
    )
    infos = [EpisodeReader(path).info for path in (over_ros, headless)]
    assert infos[0].instruction == infos[1].instruction
    assert infos[0].success and infos[1].success
    assert infos[0].embodiment == infos[1].embodiment
    assert infos[0].extra == infos[1].extra  # also what training learns from: group, target …
    assert infos[0].extra['group']
    tensors = []
    for path in (over_ros, headless):
        data = load_dataset([path], horizon=8, val_fraction=0.0, progress=False)
        tensors.append(data.train.get_batch(np.arange(len(data.train))))
    ours, theirs = tensors
    assert len(ours['action']) > 10
    for kind in ('images', 'labels'):
        for name, image in theirs[kind].items():
            np.testing.assert_array_equal(np.asarray(ours[kind][name]), np.asarray(image))
    for key in theirs:
        if key not in ('images', 'labels'):
            np.testing.assert_array_equal(np.asarray(ours[key]), np.asarray(theirs[key]), key)
