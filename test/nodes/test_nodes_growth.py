"""A node that is configured and cleaned up again and again stays as large as it was."""

from __future__ import annotations

import platform
import threading

from memory import resident_mb
import pytest
from tabletop_robot import NODE

from vla_alignment_ros.nodes.policy_node import PolicyNode


def held(node: PolicyNode) -> dict[str, int]:
    """How many of everything there is."""
    return {
        'threads': threading.active_count(),
        'subscriptions': len(list(node.subscriptions)),
        'publishers': len(list(node.publishers)),
        'timers': len(list(node.timers)),
        'services': len(list(node.services)),
    }


def cycle(ros, node: PolicyNode) -> dict[str, int]:
    assert ros.transition(NODE, 'configure'), node.last_error
    configured = held(node)
    assert ros.transition(NODE, 'cleanup')
    return configured


def test_configure_and_cleanup_leave_nothing_behind(ros, checkpoint):
    node = ros.add(PolicyNode, checkpoint=str(checkpoint), threads=1)
    first = cycle(ros, node)
    empty = held(node)
    assert first['subscriptions'] == empty['subscriptions'] + 4 + 2  # and a person's commands
    assert first['timers'] == empty['timers'] == 1
    assert first['threads'] > empty['threads']
    for _ in range(9):
        assert cycle(ros, node) == first
        assert held(node) == empty


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='measures with Linux and glibc')
def test_a_hundred_cycles_do_not_grow(ros, checkpoint):
    node = ros.add(PolicyNode, checkpoint=str(checkpoint), threads=1)
    for _ in range(20):
        cycle(ros, node)
    counts, size_mb = held(node), resident_mb()
    for _ in range(80):
        cycle(ros, node)
    assert held(node) == counts
    assert resident_mb() - size_mb < 5.0  # a few MB: a kept model would be 80 times its size
