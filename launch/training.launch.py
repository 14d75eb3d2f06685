"""Run training_node: record demonstrations, one bag per episode.

    ros2 launch vla_alignment_ros training.launch.py embodiment:=my_robot.yaml folder:=demos
"""

from launch import LaunchDescription

from vla_alignment_ros.nodes.launching import argument, deployment, MAYBE, package_node


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([
        *deployment('training.yaml'),
        argument('embodiment', 'Name or YAML file of the robot to record.'),
        argument('folder', 'Folder that receives one bag per episode.'),
        argument('autostart', 'false: wait for a lifecycle manager.', 'true', MAYBE),
        package_node('training_node', embodiment=str, folder=str, autostart=bool),
    ])
