"""Run simulator_node: the arm at its table, simulated by MuJoCo, behind a real robot's topics.

    ros2 launch vla_alignment_ros simulation.launch.py split:=seen seed:=7
"""

from launch import LaunchDescription

from vla_alignment_ros.nodes.launching import argument, deployment, MAYBE, package_node


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([
        *deployment('simulator.yaml'),
        argument('embodiment', 'Name or YAML file of the robot to simulate.'),
        argument('split', 'Where the first episode is from: seen, unseen_objects, absent …'),
        argument('seed', 'Scene number of the first episode within its split.'),
        argument('publish_instruction', 'true: a reset says what to do.', choices=MAYBE),
        package_node(
            'simulator_node', embodiment=str, split=str, seed=int, publish_instruction=bool
        ),
    ])
