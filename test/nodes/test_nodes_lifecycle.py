"""Transitions never block the node, never hide an error and never leave things half done."""

from __future__ import annotations

import threading
import time

import pytest

from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.nodes.lifecycle import ManagedNode


class Managed(ManagedNode):
    """Hooks that do what a test tells them to."""

    def __init__(self, **kwargs):
        super().__init__('managed', **kwargs)
        self.gate = threading.Event()
        self.gate.set()
        self.failing: dict[str, Exception] = {}
        self.called: list[str] = []

    def _hook(self, name: str) -> None:
        self.called.append(name)
        if name in self.failing:
            raise self.failing[name]

    def configure(self):
        assert self.gate.wait(20.0)
        self._hook('configure')

    def activate(self):
        self._hook('activate')

    def deactivate(self):
        self._hook('deactivate')

    def release(self):
        self._hook('release')


def test_state_queries_are_answered_while_configuring(ros):
    node = ros.add(Managed)
    node.gate.clear()
    outcome = []
    caller = threading.Thread(
        target=lambda: outcome.append(ros.transition('managed', 'configure'))
    )
    caller.start()
    ros.until(lambda: node._state_machine.current_state[1] == 'configuring', 'configuring')
    began = time.monotonic()
    assert ros.state('managed') == 'configuring'
    waited_s = time.monotonic() - began
    node.gate.set()
    caller.join(20.0)
    assert outcome == [True]
    assert ros.state('managed') == 'inactive'
    assert waited_s < 5.0  # generous for a loaded machine; blocked it would be the full wait


@pytest.mark.parametrize('error', [ConfigError('mend it'), RuntimeError('a bug')])
def test_a_failed_configure_releases_and_can_be_repeated(ros, error: Exception):
    node = ros.add(Managed)
    node.failing['configure'] = error
    assert not ros.transition('managed', 'configure')
    assert ros.state('managed') == 'unconfigured'
    assert 'release' in node.called
    assert str(error) in node.last_error
    node.failing.clear()
    assert ros.transition('managed', 'configure')
    assert ros.state('managed') == 'inactive'


def test_an_error_while_activating_frees_everything(ros):
    node = ros.add(Managed)
    assert ros.transition('managed', 'configure')
    node.failing['activate'] = RuntimeError('a bug')
    assert not ros.transition('managed', 'activate')
    assert ros.state('managed') == 'unconfigured'
    assert node.called[-1] == 'release'
    assert not node.is_active


def test_closing_an_active_node_deactivates_before_it_releases(ros):
    node = ros.add(Managed)
    assert node.bring_up()
    node.close()
    assert node.called == ['configure', 'activate', 'deactivate', 'release']
