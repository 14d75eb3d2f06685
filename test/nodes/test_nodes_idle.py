"""An idle policy node is woken rarely, and still says at once what becomes of it."""

from __future__ import annotations

import shutil

from diagnostic_msgs.msg import DiagnosticStatus
import pytest
from tabletop_robot import NODE, STATUS

from vla_alignment_ros.nodes import policy_node
from vla_alignment_ros.nodes.policy_node import PolicyNode
from vla_alignment_ros.nodes.qos import latched


def periods_s(node: PolicyNode) -> list[float]:
    """Of all timers that the node has."""
    return sorted(timer.timer_period_ns * 1e-9 for timer in node.timers)


def values(status: DiagnosticStatus) -> dict[str, str]:
    return {item.key: item.value for item in status.values}


def test_timers_of_an_idle_node_are_one_sign_of_life_every_few_seconds(ros, checkpoint):
    node = ros.add(PolicyNode, checkpoint=str(checkpoint), threads=1)
    idle = [policy_node.IDLE_STATUS_S]
    assert periods_s(node) == idle
    assert ros.transition(NODE, 'configure'), node.last_error
    assert periods_s(node) == idle
    assert ros.transition(NODE, 'activate')
    assert periods_s(node) == pytest.approx([0.1, 0.1, 1.0])  # tick, watch, status
    assert ros.transition(NODE, 'deactivate')
    assert periods_s(node) == idle
    assert ros.transition(NODE, 'activate')
    node.release()  # as an error does
    assert periods_s(node) == idle


def test_every_transition_and_every_reload_is_told_at_once(ros, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / 'own')
    node = ros.add(PolicyNode, checkpoint=str(folder), threads=1, status_period_s=60.0)
    inbox = ros.listen(f'{NODE}/status', STATUS, latched(), raw=False)

    def told(text: str) -> None:
        inbox.wait_for(lambda messages: messages and text in messages[-1].message)

    told('not configured')
    assert ros.transition(NODE, 'configure'), node.last_error
    told('inactive')
    assert ros.transition(NODE, 'activate')
    inbox.wait_for(lambda messages: messages[-1].message not in ('inactive', 'not configured'))
    assert ros.transition(NODE, 'deactivate')
    told('inactive')
    for good in (True, False):
        if not good:
            shutil.rmtree(folder)
        assert ros.trigger(f'{NODE}/reload').success is good
        key = 'exchanges' if good else 'reload refused: CheckpointError'
        inbox.wait_for(lambda messages, key=key: values(messages[-1]).get(key) == '1')
    assert ros.transition(NODE, 'cleanup')
    told('not configured')


def test_an_idle_node_says_that_it_is_there_and_its_status_once(ros, checkpoint, monkeypatch):
    monkeypatch.setattr(policy_node, 'IDLE_STATUS_S', 0.05)
    inbox = ros.listen(f'{NODE}/status', STATUS, latched(), raw=False)
    arrays = ros.listen('/diagnostics', 'diagnostic_msgs/msg/DiagnosticArray', raw=False)
    node = ros.add(PolicyNode, checkpoint=str(checkpoint), threads=1, status_period_s=0.05)
    assert ros.transition(NODE, 'configure'), node.last_error
    inbox.wait_for(lambda messages: messages and messages[-1].message == 'inactive')
    said = len(inbox.messages)
    inactive = arrays.wait_for(
        lambda messages: [m for m in messages if m.status[0].message == 'inactive'][10:]
    )
    status = inactive[-1].status[0]
    assert (status.name, status.hardware_id) == (f'/{NODE}', 'tabletop')
    assert not status.values  # they have not changed
    assert len(inbox.messages) == said
