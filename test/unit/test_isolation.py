from __future__ import annotations

import os
import subprocess
import sys

import pytest

from vla_alignment_ros.evaluation import processes
from vla_alignment_ros.evaluation.processes import DomainLock, NodeError


def test_the_session_has_a_domain_of_its_own_on_this_machine_only(session_domain):
    assert os.environ['ROS_DOMAIN_ID'] == str(session_domain)
    assert os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'


def test_a_second_domain_differs_from_the_sessions(session_domain, ros_domain):
    assert ros_domain != session_domain
    assert os.environ['ROS_DOMAIN_ID'] == str(ros_domain)


def test_a_reserved_domain_is_refused_to_other_processes(session_domain):
    name = f'\0vla_alignment_ros.domain.{session_domain}'
    bind = f'import socket; socket.socket(socket.AF_UNIX).bind({name!r})'
    child = subprocess.run(
        [sys.executable, '-c', bind], capture_output=True, text=True, check=False
    )
    assert child.returncode != 0
    assert 'Address already in use' in child.stderr


def test_a_domain_is_free_again_when_its_lock_is_released(monkeypatch):
    lock = DomainLock()
    lock.release()
    monkeypatch.setattr(processes, 'DOMAINS', [lock.domain_id])
    again = DomainLock()
    again.release()
    assert again.domain_id == lock.domain_id


def test_when_every_domain_is_taken_the_error_says_so(monkeypatch, session_domain):
    monkeypatch.setattr(processes, 'DOMAINS', [session_domain])
    with pytest.raises(NodeError, match='all ROS domains of this machine are in use'):
        DomainLock()
