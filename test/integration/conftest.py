"""Processes and a client that talks to them, in a ROS domain of their own."""

from __future__ import annotations

from pathlib import Path

from node_processes import Processes, Terminal
import pytest
from small_model import save_random_checkpoint

from vla_alignment_ros.nodes.client import Client


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_checkpoint(tmp_path_factory.mktemp('checkpoint') / 'tiny', willing=True)


@pytest.fixture
def processes(ros_domain: int, tmp_path: Path):
    made = Processes(tmp_path)
    yield made
    made.close()


@pytest.fixture
def client(ros_domain: int, processes: Processes):
    made = Client('test_client', ros_domain, processes.check)
    yield made
    made.close()


@pytest.fixture
def terminal():
    made = Terminal()
    yield made
    made.hang_up()
