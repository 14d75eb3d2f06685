from __future__ import annotations

import os
import subprocess
import sys

import conftest
import pytest


def test_the_session_has_a_domain_of_its_own_on_this_machine_only():
    assert int(os.environ['ROS_DOMAIN_ID']) == conftest.DOMAIN
    assert conftest.DOMAIN in conftest.DOMAINS
    assert os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'


def test_a_second_domain_differs_from_the_sessions(ros_domain):
    assert ros_domain != conftest.DOMAIN
    assert os.environ['ROS_DOMAIN_ID'] == str(ros_domain)


def test_a_reserved_domain_is_refused_to_other_processes_and_freed_at_the_end():
    held = f'\0vla_alignment_ros.domain.{conftest.DOMAIN}'
    bind = f'import socket; socket.socket(socket.AF_UNIX).bind({held!r})'
    child = subprocess.run(
        [sys.executable, '-c', bind], capture_output=True, text=True, check=False
    )
    assert child.returncode != 0
    assert 'Address already in use' in child.stderr


def test_when_every_domain_is_taken_the_error_says_so(monkeypatch):
    monkeypatch.setattr(conftest, 'DOMAINS', [conftest.DOMAIN])
    with pytest.raises(RuntimeError, match='every ROS domain id is in use'):
        conftest.reserve_domain()
