"""What the launch files share: this package's nodes, their parameter files and their arguments.

Launch arguments are for what differs from one deployment to the next; what is tuned stays in the
parameter file. An argument that is left empty does not touch what the parameter file says.

Lifecycle nodes bring themselves up (`autostart`). Transitions that the launch process asks for
would have to win a race with the node's services, and would not be asked for again after a
respawn.
"""

from __future__ import annotations

from collections.abc import Sequence

from launch import LaunchContext
from launch.action import Action
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.condition import Condition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.some_substitutions_type import SomeSubstitutionsType
from launch.substitutions import (
    EqualsSubstitution,
    LaunchConfiguration,
    PathJoinSubstitution,
)
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

PACKAGE = 'vla_alignment_ros'
RESPAWN_DELAY_S = 2.0
SIGTERM_S = 30.0  # an episode that is being written is not cut off by a slow disk
BOOLEAN = ('true', 'false')
MAYBE = ('', *BOOLEAN)
VIEWERS = ('rviz', 'foxglove', 'none')


def shared(*parts: str) -> PathJoinSubstitution:
    """Path of a file that comes with the package."""
    return PathJoinSubstitution([FindPackageShare(PACKAGE), *parts])


def argument(
    name: str,
    description: str,
    default: SomeSubstitutionsType = '',
    choices: Sequence[str] | None = None,
) -> DeclareLaunchArgument:
    """Declare a launch argument; empty, where nothing else is said, for "as in the file"."""
    return DeclareLaunchArgument(
        name, default_value=default, description=description, choices=choices
    )


def deployment(params_file: str) -> list[DeclareLaunchArgument]:
    """Declare what every node of the package can be given at launch; see `package_node`."""
    return [
        argument('namespace', 'Namespace of the node; its names are relative.'),
        argument('params_file', 'Parameter file (YAML).', shared('config', params_file)),
        argument('use_sim_time', 'true: the time of /clock.', choices=MAYBE),
        argument('remap', "Names to remap, 'from:=to', several with spaces between."),
        argument('respawn', 'true: a node that ends is started again.', 'false', BOOLEAN),
    ]


def package_node(executable: str, **types: type) -> OpaqueFunction:
    """Run a node of the package with the arguments of `deployment`.

    types: parameters that are launch arguments too, and what they are.
    """
    types = {'use_sim_time': bool, **types}

    def make(context: LaunchContext) -> list[Action]:
        def said(name: str) -> str:
            return LaunchConfiguration(name).perform(context)

        given = {
            name: ParameterValue(LaunchConfiguration(name), value_type=kind)
            for name, kind in types.items()
            if said(name)
        }
        return [
            Node(
                package=PACKAGE,
                executable=executable,
                namespace=said('namespace'),
                parameters=[said('params_file'), *([given] if given else [])],
                remappings=remappings(said('remap')),
                respawn=said('respawn') == 'true',
                respawn_delay=RESPAWN_DELAY_S,
                sigterm_timeout=str(SIGTERM_S),
                output='screen',
            )
        ]

    return OpaqueFunction(function=make)


def remappings(text: str) -> list[tuple[str, str]]:
    """Read 'a:=b c:=d' as pairs.

    Raises:
        ValueError: one of them is no 'from:=to'.
    """
    pairs = []
    for rule in text.split():
        old, _, new = rule.partition(':=')
        if not old or not new:
            raise ValueError(f"remap: {rule!r} is not 'from:=to', as in instruction:=/voice/text")
        pairs.append((old, new))
    return pairs


def include(
    file: str, *, condition: Condition | None = None, **arguments: SomeSubstitutionsType
) -> GroupAction:
    """Include another launch file of the package; what it is given stays its own.

    Without a scope the first file's `params_file` would become the second one's.
    """
    source = PythonLaunchDescriptionSource(shared('launch', file))
    inner = IncludeLaunchDescription(source, launch_arguments=list(arguments.items()))
    return GroupAction([inner], scoped=True, forwarding=True, condition=condition)


def is_equal(argument_name: str, value: str) -> EqualsSubstitution:
    """Whether a launch argument has this value."""
    return EqualsSubstitution(LaunchConfiguration(argument_name), value)
