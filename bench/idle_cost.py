"""P16: processor time of a policy node that has nothing to do, against a node without content."""

from __future__ import annotations

import os
from pathlib import Path
import time

import torch

from bench.results import BenchSettings, Row
from bench.traffic import NODE, served
from vla_alignment_ros.policy.policy import Policy

EMPTY = 'empty_node'


def run(settings: BenchSettings) -> Row:
    """Both idle side by side; then ours waits for a first observation instead."""
    torch.set_num_threads(settings.threads)
    policy = Policy.load(settings.checkpoint)
    window_s = settings.size(30, 1)
    with served(settings, settings.checkpoint, policy) as (client, _, nodes):
        nodes.start(EMPTY, 'bench.empty_node', {})
        client.until(lambda: EMPTY in client.node.get_node_names(), 'the empty node')
        waiting = _load(client, nodes, window_s)
        client.deactivate(NODE)
        idle = _load(client, nodes, window_s)
    return Row(
        key='P16',
        title='processor time of an idle policy node',
        unit='% of a core',
        ours=idle[NODE],
        baseline=idle[EMPTY],
        goal=1.5,
        ours_is='policy_node, configured and inactive, no messages',
        baseline_is='an empty rclpy node on the same executor, at the same time',
        figures={
            'policy_node, active and waiting for its first observation': waiting[NODE],
            'empty node meanwhile': waiting[EMPTY],
            'window, s': window_s,
        },
    )


def _load(client: object, nodes: object, window_s: float) -> dict[str, float]:
    """Processor time of every node within a window, % of a core; at least one clock tick."""
    before = {name: _cpu_s(pid) for name, pid in nodes.children.items()}
    start = time.monotonic()
    client.until(lambda: time.monotonic() - start >= window_s, 'the window', window_s + 60)
    passed_s = time.monotonic() - start
    least_s = 1 / os.sysconf('SC_CLK_TCK')
    return {
        name: 100 * max(least_s, _cpu_s(pid) - before[name]) / passed_s
        for name, pid in nodes.children.items()
    }


def _cpu_s(pid: int) -> float:
    """User and system time of a process so far, s."""
    fields = Path(f'/proc/{pid}/stat').read_text(encoding='ascii').rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
