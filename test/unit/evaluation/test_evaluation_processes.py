"""Node processes are isolated, named when they fail, and gone when their context is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import yaml

from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.evaluation import processes
from vla_alignment_ros.evaluation.processes import DomainLock, NodeError, NodeProcesses

STUBBORN = """
import pathlib, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
pathlib.Path(sys.argv[sys.argv.index('--params-file') + 1]).with_suffix('.up').touch()
while True:
    time.sleep(0.05)
"""
FAILING = """
import os
print('domain', os.environ['ROS_DOMAIN_ID'], os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'])
raise SystemExit('no camera found')
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    (tmp_path / 'stubborn_node.py').write_text(STUBBORN)
    (tmp_path / 'failing_node.py').write_text(FAILING)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path), prepend=os.pathsep)


def wait_for(condition):
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_runs_at_once_get_two_domains():
    first, second = DomainLock(), DomainLock()
    assert first.domain_id != second.domain_id
    first.release()
    second.release()


def test_nodes_that_outlive_a_killed_run_keep_their_domain(modules):
    run = (
        'from vla_alignment_ros.evaluation.processes import NodeProcesses\n'
        'import time\n'
        'with NodeProcesses() as running:\n'
        "    running.start('left', 'stubborn_node', {})\n"
        "    print(running.domain_id, running.children['left'], flush=True)\n"
        '    time.sleep(60)\n'
    )
    with subprocess.Popen([sys.executable, '-c', run], stdout=subprocess.PIPE, text=True) as child:
        domain_id, orphan = map(int, child.stdout.readline().split())
        child.kill()
    try:
        assert not is_free(domain_id)
    finally:
        os.kill(orphan, signal.SIGKILL)
    wait_for(lambda: is_free(domain_id))


def is_free(domain_id):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lock:
        try:
            lock.bind(f'\0vla_alignment_ros.domain.{domain_id}')
        except OSError:
            return False
    return True


def test_a_node_that_ignores_signals_is_gone_all_the_same(modules, monkeypatch):
    monkeypatch.setattr(processes, 'STOP_S', 0.2)
    with NodeProcesses() as running:
        running.start('deaf', 'stubborn_node', {})
        wait_for((running.folder / 'deaf.up').exists)
        pid = running.children['deaf']
        running.check()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_node_that_ends_is_named_with_its_last_words(modules):
    with NodeProcesses() as running:
        running.start('camera', 'failing_node', {})
        with pytest.raises(NodeError) as caught:
            wait_for(lambda: running.check())
        text = str(caught.value)
        assert text.startswith('camera ended with code 1')
        assert 'no camera found' in text
        assert f'domain {running.domain_id} LOCALHOST' in text


def test_parameters_keep_their_types(modules, tmp_path):
    with NodeProcesses(tmp_path / 'logs') as running:
        values = {'checkpoint': '123', 'lockstep': True, 'rate': 1.0, 'left_out': None}
        running.start('node', 'failing_node', values)
        read = yaml.safe_load((tmp_path / 'logs' / 'node.yaml').read_text())
    del values['left_out']
    assert read == {'/**': {'ros__parameters': values}}


def test_one_name_is_one_node(modules):
    with NodeProcesses() as running:
        running.start('node', 'failing_node', {})
        with pytest.raises(ConfigError, match="'node' runs already"):
            running.start('node', 'failing_node', {})
