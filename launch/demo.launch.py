"""The whole loop: a simulated arm, the policy that obeys, the recorder, and a viewer if wanted.

    ros2 launch vla_alignment_ros demo.launch.py viewer:=rviz

In a namespace all of it has a clock of its own (`<namespace>/clock`), so that several demos run
side by side.
"""

from launch import LaunchDescription
from launch.actions import GroupAction
from launch.conditions import IfCondition, UnlessCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import SetRemap

from vla_alignment_ros.nodes.launching import (
    argument,
    BOOLEAN,
    include,
    is_equal,
    shared,
    VIEWERS,
)


def generate_launch_description() -> LaunchDescription:
    said = LaunchConfiguration
    parts = [
        include(
            'simulation.launch.py',
            params_file=said('simulator_params'),
            publish_instruction='true',
        ),
        include('policy.launch.py', params_file=said('policy_params'), use_sim_time='true'),
        include(
            'training.launch.py',
            condition=IfCondition(said('training')),
            params_file=said('training_params'),
            use_sim_time='true',
        ),
        include('viewer.launch.py', use_sim_time='true'),
    ]
    own_clock = SetRemap('/clock', 'clock', condition=UnlessCondition(is_equal('namespace', '')))
    return LaunchDescription([
        argument('namespace', 'Namespace of everything.'),
        argument('checkpoint', 'Folder of the model.', shared('checkpoints', 'tabletop')),
        argument('device', 'Torch device: auto, cpu, cuda, cuda:0 …'),
        argument('split', 'Where the first episode is from: seen, unseen_objects, absent …'),
        argument('seed', 'Scene number of the first episode within its split.'),
        argument('training', 'false: nothing is recorded.', 'true', BOOLEAN),
        argument('folder', 'Folder that receives one bag per recorded episode.'),
        argument('viewer', 'What to look with.', 'none', VIEWERS),
        argument('simulator_params', 'Parameter file.', shared('config', 'simulator.yaml')),
        argument('policy_params', 'Parameter file.', shared('config', 'policy.yaml')),
        argument('training_params', 'Parameter file.', shared('config', 'training.yaml')),
        GroupAction([own_clock, *parts]),
    ])
