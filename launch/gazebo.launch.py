"""The arm at its table in Gazebo, and the policy that obeys there.

    ros2 launch vla_alignment_ros gazebo.launch.py gui:=false
    ros2 topic pub --once --qos-durability transient_local /instruction std_msgs/String \
        'data: pick up the yellow brick'

Gazebo's cameras and clock come over ros_gz_bridge. The policy's twists go to servo_node, and its
joint commands to the controllers of gz_ros2_control, as they would go to a real arm's.
"""

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import (
    Command,
    IfElseSubstitution,
    LaunchConfiguration,
    PathJoinSubstitution,
)
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from vla_alignment_ros.nodes.launching import argument, BOOLEAN, include, shared, VIEWERS

CONTROLLERS = ['joint_state_broadcaster', 'joint_trajectory_controller', 'gripper_controller']


def generate_launch_description() -> LaunchDescription:
    said = LaunchConfiguration
    simulated = {'use_sim_time': True}
    controllers = shared('config', 'gazebo_controllers.yaml')
    # a server without a window renders without a display too
    window = IfElseSubstitution(said('gui'), '', '-s --headless-rendering ')
    xacro = shared('urdf', 'tabletop_arm.gazebo.xacro')
    arm = Command(['xacro ', xacro, ' controllers:=', controllers])
    gazebo = PathJoinSubstitution([FindPackageShare('ros_gz_sim'), 'launch', 'gz_sim.launch.py'])
    return LaunchDescription([
        argument('world', 'World (SDF).', shared('worlds', 'tabletop.sdf')),
        argument('gui', 'false: no window, and no display is needed.', 'true', BOOLEAN),
        argument('checkpoint', 'Folder of the model.', shared('checkpoints', 'tabletop')),
        argument('device', 'Torch device: auto, cpu, cuda, cuda:0 …'),
        argument('policy', 'false: nobody moves the arm.', 'true', BOOLEAN),
        argument('policy_params', 'Parameter file.', shared('config', 'policy.yaml')),
        argument('servo_params', 'Parameter file.', shared('config', 'servo.yaml')),
        argument('viewer', 'What to look with.', 'none', VIEWERS),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(gazebo),
            launch_arguments=[('gz_args', ['-r ', window, said('world')])],
        ),
        Node(
            package='robot_state_publisher',
            executable='robot_state_publisher',
            parameters=[{'robot_description': ParameterValue(arm, value_type=str)}, simulated],
        ),
        Node(
            package='ros_gz_sim',
            executable='create',
            arguments=['-topic', 'robot_description', '-name', 'tabletop_arm'],
        ),
        Node(
            package='ros_gz_bridge',
            executable='parameter_bridge',
            parameters=[{'config_file': shared('config', 'gazebo_bridge.yaml')}, simulated],
        ),
        Node(  # waits for the controller manager, which comes with the arm
            package='controller_manager',
            executable='spawner',
            arguments=[*CONTROLLERS, '--param-file', controllers],
        ),
        include(
            'servo.launch.py',
            params_file=said('servo_params'),
            use_sim_time='true',
            command_timeout_s='0.2',  # two of the policy's periods
        ),
        include(
            'policy.launch.py',
            condition=IfCondition(said('policy')),
            params_file=said('policy_params'),
            use_sim_time='true',
        ),
        include('viewer.launch.py', use_sim_time='true', description='false'),
    ])
