"""Run policy_node: cameras, joint states and an instruction in, commands out.

    ros2 launch vla_alignment_ros policy.launch.py checkpoint:=runs/mine/checkpoint
"""

from launch import LaunchDescription

from vla_alignment_ros.nodes.launching import argument, deployment, MAYBE, package_node


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([
        *deployment('policy.yaml'),
        argument('checkpoint', 'Folder of the model; its embodiment names topics and limits.'),
        argument('device', 'Torch device: auto, cpu, cuda, cuda:0 …'),
        argument('mode', 'act, or as a judge of another policy: shadow, inline.'),
        argument('autostart', 'false: wait for a lifecycle manager.', 'true', MAYBE),
        package_node('policy_node', checkpoint=str, device=str, mode=str, autostart=bool),
    ])
