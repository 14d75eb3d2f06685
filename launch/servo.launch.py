"""Run servo_node: twists of the hand in, joint commands out, for arms without MoveIt Servo.

    ros2 launch vla_alignment_ros servo.launch.py embodiment:=my_robot.yaml
"""

from launch import LaunchDescription

from vla_alignment_ros.nodes.launching import argument, deployment, MAYBE, package_node


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([
        *deployment('servo.yaml'),
        argument('embodiment', 'Name or YAML file of the robot to move.'),
        argument('autostart', 'false: wait for a lifecycle manager.', 'true', MAYBE),
        argument('command_timeout_s', 'Seconds without a twist until the arm brakes to rest.'),
        package_node('servo_node', embodiment=str, autostart=bool, command_timeout_s=float),
    ])
