"""Look at a policy: the arm, what it plans, the cameras and where the words point.

    ros2 launch vla_alignment_ros viewer.launch.py viewer:=rviz

Foxglove's application connects to ws://localhost:8765; its layout is foxglove/policy.json.
"""

from launch import LaunchDescription
from launch.actions import GroupAction
from launch.conditions import IfCondition, UnlessCondition
from launch.substitutions import FileContent, LaunchConfiguration
from launch_ros.actions import Node, SetRemap
from launch_ros.parameter_descriptions import ParameterValue

from vla_alignment_ros.nodes.launching import argument, BOOLEAN, is_equal, shared, VIEWERS


def generate_launch_description() -> LaunchDescription:
    namespace = LaunchConfiguration('namespace')
    use_sim_time = ParameterValue(LaunchConfiguration('use_sim_time'), value_type=bool)
    arm = ParameterValue(FileContent(LaunchConfiguration('urdf')), value_type=str)
    viewers = [
        Node(
            package='robot_state_publisher',
            executable='robot_state_publisher',
            namespace=namespace,
            parameters=[{'robot_description': arm, 'use_sim_time': use_sim_time}],
            condition=IfCondition(LaunchConfiguration('description')),
        ),
        Node(
            package='rviz2',
            executable='rviz2',
            namespace=namespace,
            arguments=['-d', shared('rviz', 'policy.rviz')],
            parameters=[{'use_sim_time': use_sim_time}],
            condition=IfCondition(is_equal('viewer', 'rviz')),
        ),
        Node(
            package='foxglove_bridge',
            executable='foxglove_bridge',
            namespace=namespace,
            parameters=[{
                'address': ParameterValue(LaunchConfiguration('address'), value_type=str),
                'capabilities': ['connectionGraph', 'assets'],  # it looks and does not command
                'use_sim_time': use_sim_time,
            }],
            condition=IfCondition(is_equal('viewer', 'foxglove')),
        ),
    ]  # fmt: skip
    return LaunchDescription([
        argument('viewer', 'RViz, or a bridge for the Foxglove application.', 'rviz', VIEWERS),
        argument('namespace', 'Namespace of the policy that is looked at.'),
        argument('use_sim_time', 'true: the time of /clock.', 'false', BOOLEAN),
        argument('urdf', 'The arm (URDF).', shared('urdf', 'tabletop_arm.urdf')),
        argument('description', 'false: somebody else publishes the arm.', 'true', BOOLEAN),
        argument('address', 'Where the bridge listens; 0.0.0.0: everywhere.', '127.0.0.1'),
        GroupAction(
            [SetRemap('/tf', 'tf'), SetRemap('/tf_static', 'tf_static'), *viewers],
            condition=UnlessCondition(is_equal('viewer', 'none')),
        ),
    ])
