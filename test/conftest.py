"""Isolation for every test: a ROS domain of its own, this machine only, one thread each.

All of it is set while pytest starts, before a test module can import rclpy, torch or mujoco.
"""

from __future__ import annotations

import os
import signal

from hypothesis import settings
import pytest

from vla_alignment_ros.evaluation.processes import DomainLock

pytest_plugins = ['recordings']

# the same examples every time: what fails, fails for everybody, however slow the machine
settings.register_profile('repeatable', derandomize=True, deadline=None)
settings.load_profile('repeatable')

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell starts background jobs deaf to Ctrl-C, and so would be all that the tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)

_DOMAIN = DomainLock()
os.environ['ROS_DOMAIN_ID'] = str(_DOMAIN.domain_id)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
os.environ.pop('ROS_STATIC_PEERS', None)
for _name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ[_name] = '1'
os.environ['TOKENIZERS_PARALLELISM'] = 'false'
os.environ['HF_HUB_OFFLINE'] = '1'


@pytest.fixture(scope='session')
def session_domain() -> int:
    """The ROS domain id of this test session."""
    return _DOMAIN.domain_id


@pytest.fixture
def ros_domain(monkeypatch: pytest.MonkeyPatch):
    """Another free ROS domain id, in the environment of this test and of what it starts."""
    lock = DomainLock()
    monkeypatch.setenv('ROS_DOMAIN_ID', str(lock.domain_id))
    yield lock.domain_id
    lock.release()
