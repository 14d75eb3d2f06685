"""Isolation for every test: a ROS domain of its own, this machine only, one thread each.

All of it is set while pytest starts, before a test module can import rclpy, torch or mujoco.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket

import pytest

pytest_plugins = ['recordings']

# Linux hands out ports from 32768 on; ROS 2 domains above 101 would reach into them.
DOMAINS = range(1, 102)


def reserve_domain() -> tuple[int, socket.socket]:
    """Reserve a ROS domain id until the returned socket is closed, or this process ends.

    An abstract Unix socket is the lock: held once per network namespace, which is also as far as
    discovery reaches, and never left behind by a killed process.
    """
    for domain in random.SystemRandom().sample(DOMAINS, len(DOMAINS)):
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.suppress(OSError):
            lock.bind(f'\0vla_alignment_ros.domain.{domain}')
            return domain, lock
        lock.close()
    raise RuntimeError('every ROS domain id is in use by another test session')


DOMAIN, _LOCK = reserve_domain()
os.environ['ROS_DOMAIN_ID'] = str(DOMAIN)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
os.environ.pop('ROS_STATIC_PEERS', None)
for _name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ[_name] = '1'
os.environ['TOKENIZERS_PARALLELISM'] = 'false'
os.environ['HF_HUB_OFFLINE'] = '1'


@pytest.fixture
def ros_domain(monkeypatch: pytest.MonkeyPatch):
    """Another free ROS domain id, in the environment of this test and of what it starts."""
    domain, lock = reserve_domain()
    monkeypatch.setenv('ROS_DOMAIN_ID', str(domain))
    with contextlib.closing(lock):
        yield domain
