"""P16: processor time of a policy node that has nothing to do, against a node without content."""

from __future__ import annotations

import time

import torch

from bench.results import BenchSettings, Row
from bench.traffic import NODE, served
from vla_alignment_ros.policy.policy import Policy

EMPTY, PLAIN = 'empty_node', 'plain_publisher'


def run(settings: BenchSettings) -> Row:
    """All nodes side by side, while ours goes from active to unconfigured."""
    torch.set_num_threads(settings.threads)
    policy = Policy.load(settings.checkpoint)
    window_s = settings.size(60, 1)
    with served(settings, settings.checkpoint, policy) as (client, _, nodes):
        nodes.start(EMPTY, 'bench.empty_node', {})
        nodes.start(PLAIN, 'bench.plain_publisher', {'rate_hz': policy.embodiment.rate_hz})
        for name in (EMPTY, PLAIN):
            client.until(lambda name=name: name in client.node.get_node_names(), name)
        waiting = _load(client, nodes, window_s)
        client.deactivate(NODE)
        idle = _load(client, nodes, window_s)
        client.cleanup(NODE)
        unconfigured = _load(client, nodes, window_s)
    return Row(
        key='P16',
        title='processor time of an idle policy node',
        unit='% of a core',
        ours=idle[NODE],
        baseline=idle[EMPTY],
        goal=1.5,
        ours_is='policy_node, configured and inactive, no messages: it answers its services and '
        'says on `/diagnostics` every four seconds that it is there',
        baseline_is='an empty rclpy node on the same executor, at the same time',
        figures={
            'policy_node, unconfigured': unconfigured[NODE],
            'empty node meanwhile': unconfigured[EMPTY],
            'policy_node, active without any input: a hold every control period': waiting[NODE],
            'a plain rclpy node that publishes the same two messages as often': waiting[PLAIN],
            'empty node while ours is active': waiting[EMPTY],
            'window, s': window_s,
        },
    )


def _load(client: object, nodes: object, window_s: float) -> dict[str, float]:
    """Processor time of every node within a window, % of a core."""
    before = {name: cpu_s(pid) for name, pid in nodes.children.items()}
    start = time.monotonic()
    client.until(lambda: time.monotonic() - start >= window_s, 'the window', window_s + 60)
    passed_s = time.monotonic() - start
    return {
        name: 100 * (cpu_s(pid) - before[name]) / passed_s
        for name, pid in nodes.children.items()
    }


def cpu_s(pid: int) -> float:
    """User and system time of a process so far, s: its clock, as clock_getcpuclockid(3) names it.

    Not from /proc, which counts in hundredths of a second: an idle node needs one or two a minute.
    """
    return time.clock_gettime(((~pid) << 3) | 2)
