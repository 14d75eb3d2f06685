"""What `--help` says about a node: its description and its parameters."""

from __future__ import annotations

from collections.abc import Sequence
import sys
import textwrap

from rclpy.node import Node

ROS_ARGS = '--ros-args'
RCLPYS = ('start_type_description_service', 'qos_overrides.')
WIDTH = 98


def wants_help(arguments: Sequence[str]) -> bool:
    """Whether `-h` or `--help` is among the arguments that are not for ROS."""
    own = list(arguments)
    own = own[: own.index(ROS_ARGS)] if ROS_ARGS in own else own
    return bool({'-h', '--help'} & set(own))


def help_text(node: Node) -> str:
    """Describe a node by the docstring of its module and by the parameters that it declared."""
    module = sys.modules[type(node).__module__]
    lines = [
        f'usage: ros2 run vla_alignment_ros {node.get_name()} '
        f'[{ROS_ARGS} [-p NAME:=VALUE …] [-r FROM:=TO …] [--params-file FILE]]',
        '',
        (module.__doc__ or '').strip(),
        '',
        'parameters:',
    ]
    for name, parameter in sorted(node.get_parameters_by_prefix('').items()):
        if name.startswith(RCLPYS):
            continue
        told = node.describe_parameter(name)
        more = f' ({told.additional_constraints})' if told.additional_constraints else ''
        value = 'not set' if parameter.value is None else repr(parameter.value)
        lines.append(f'  {name} = {value}')
        lines += textwrap.wrap(
            told.description + more, WIDTH, initial_indent=' ' * 6, subsequent_indent=' ' * 6
        )
    return '\n'.join(lines)
