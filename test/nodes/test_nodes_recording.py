"""The recording client: patient with a slow machine, not with one that stands still."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from vla_alignment_ros.data.bag import EpisodeReader
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import SimulationError
from vla_alignment_ros.evaluation.processes import READY_S
from vla_alignment_ros.nodes import client as client_module
from vla_alignment_ros.nodes.expert_node import ExpertNode
from vla_alignment_ros.nodes.recording_client import RecordingClient
from vla_alignment_ros.nodes.simulator_node import SimulatorNode
from vla_alignment_ros.nodes.training_node import TrainingNode

SPLIT, SEED = 'train', 3


class SlowTime(RecordingClient):
    """In an episode, hours pass with what it hears of it; and none otherwise."""

    now_s = 0.0
    step_s, repeat_s = 0.0, 0.0  # with a new step, and with one that is said again
    in_episode = False

    def _until_finished(self, before: str | None, what: str) -> None:
        self.in_episode = True
        super()._until_finished(before, what)
        self.in_episode = False

    def _on_status(self, values: dict[str, str]) -> None:
        if self.in_episode:
            new = values.get('steps') != self._status.get('steps')
            type(self).now_s += self.step_s if new else self.repeat_s
        super()._on_status(values)


@pytest.fixture
def client(ros, ros_domain: int, tmp_path: Path, monkeypatch):
    ros.add(SimulatorNode, lockstep=True, reset_on_start=False)
    ros.add(ExpertNode)
    ros.add(TrainingNode, folder=str(tmp_path))
    made = SlowTime(ros_domain, lambda: None, Embodiment.load('tabletop'))
    made.wait_until_ready(READY_S)
    monkeypatch.setattr(SlowTime, 'now_s', 0.0)
    clock = SimpleNamespace(monotonic=lambda: SlowTime.now_s)
    monkeypatch.setattr(client_module, 'time', clock)
    yield made
    made.close()


@pytest.mark.timeout(600)
def test_an_episode_may_take_long_as_long_as_steps_come(client, monkeypatch):
    monkeypatch.setattr(SlowTime, 'step_s', 0.9 * client_module.PATIENCE_S)
    path = client.record(SPLIT, SEED)
    assert SlowTime.now_s > 2 * client_module.PATIENCE_S
    assert EpisodeReader(path).info.success


@pytest.mark.timeout(600)
def test_an_episode_that_stands_still_is_named(client, ros, monkeypatch):
    monkeypatch.setattr(SlowTime, 'repeat_s', client_module.PATIENCE_S / 5)
    expert = next(node for node in ros.nodes if isinstance(node, ExpertNode))
    monkeypatch.setattr(expert._commands, 'publish', lambda messages: None)
    with pytest.raises(SimulationError, match='waited 120 s for the expert to go on with'):
        client.record(SPLIT, SEED)
