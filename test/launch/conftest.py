"""Launch files of the installed package, started by launch_pytest in a ROS domain of their own.

`launch` and what comes with it is only where ROS 2 is installed, and so is imported late.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_model import save_random_checkpoint

from vla_alignment_ros.nodes.client import Client

START_S = 300.0  # importing torch and loading checkpoints, several at once, on a busy machine


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real checkpoint, tiny and with random weights."""
    return save_random_checkpoint(tmp_path_factory.mktemp('checkpoint') / 'tiny', willing=True)


@pytest.fixture
def launched(ros_domain: int) -> Any:
    """What a test's launch service starts; see launch_bench."""
    from launch_bench import Launched

    return Launched()


@pytest.fixture
def client(launched: Any, ros_domain: int) -> Iterator[Client]:
    """Calls services and listens; fails as soon as a process ends that should run."""
    made = Client('launch_test', ros_domain, launched.check, START_S)
    yield made
    made.close()
