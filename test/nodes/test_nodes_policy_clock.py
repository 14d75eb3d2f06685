"""policy_node without the time it was told to wait for."""

from __future__ import annotations

from vla_alignment_ros.nodes.policy_node import PolicyNode

STATUS = 'diagnostic_msgs/msg/DiagnosticStatus'


def test_simulated_time_without_a_clock_is_a_hold_that_is_explained(ros, checkpoint):
    statuses = ros.listen('policy_node/status', STATUS, raw=False)
    twists = ros.listen('servo/delta_twist_cmds', 'geometry_msgs/msg/TwistStamped', raw=False)
    node = ros.add(
        PolicyNode,
        checkpoint=str(checkpoint),
        use_sim_time=True,
        watchdog_s=0.2,
        status_period_s=0.1,
    )
    assert node.bring_up(), node.last_error
    held = twists.wait_for(lambda messages: len(messages) > 3 and messages[-1])
    assert held.twist.linear.x == held.twist.linear.y == held.twist.linear.z == 0.0
    told = statuses.wait_for(
        lambda messages: [m for m in messages if 'nothing has come on /clock' in m.message]
    )
    assert told[0].message.startswith('hold')
