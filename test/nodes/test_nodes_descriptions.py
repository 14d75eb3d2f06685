"""`ros2 param describe` answers for every parameter of every node."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
import re

import pytest
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import DescribeParameters, ListParameters
from rclpy.node import Node

from vla_alignment_ros import nodes
from vla_alignment_ros.nodes.usage import wants_help
from vla_alignment_ros.resources import package_path

MODULES = sorted(path.stem for path in Path(nodes.__file__).parent.glob('*_node.py'))
NUMBERS = (ParameterType.PARAMETER_DOUBLE, ParameterType.PARAMETER_INTEGER)
RCLPYS = ('use_sim_time', 'start_type_description_service')  # declared and described by rclpy


def node_class(module: str) -> type[Node]:
    name = ''.join(word.title() for word in module.split('_'))
    return getattr(import_module(f'vla_alignment_ros.nodes.{module}'), name)


def test_there_are_nodes():
    assert {'policy_node', 'training_node', 'simulator_node', 'expert_node'} <= set(MODULES)


@pytest.mark.parametrize('module', MODULES)
def test_help_describes_the_node_and_its_parameters_and_runs_nothing(module, ros_domain, capsys):
    main = import_module(f'vla_alignment_ros.nodes.{module}').main
    assert main(['--help']) == 0
    said = capsys.readouterr().out
    assert said.startswith(f'usage: ros2 run vla_alignment_ros {module} ')
    assert (import_module(main.__module__).__doc__ or '').strip() in said
    config = package_path('config', f'{module.removesuffix("_node")}.yaml')
    if config.is_file():
        for line in config.read_text().splitlines():
            name = line.strip().partition(':')[0]
            if ':' in line and not name.startswith(('#', '/', 'ros__')):
                assert re.search(rf'^  (\w+\.)?{name}( = |\.)', said, re.MULTILINE), name


def test_help_that_is_meant_for_ros_is_not_ours():
    assert wants_help(['-h', '--ros-args', '-p', 'device:=cpu'])
    assert not wants_help(['--ros-args', '-p', 'device:=cpu', '--', '--help'])
    assert not wants_help([])


@pytest.mark.parametrize('module', MODULES)
def test_every_parameter_says_what_it_is_and_how_far_it_goes(ros, tmp_path, module):
    given = {
        'simulator_node': {'reset_on_start': False},
        'training_node': {'folder': str(tmp_path)},
    }
    ros.add(node_class(module), **given.get(module, {}))
    listed = ros.call(ListParameters, f'{module}/list_parameters', ListParameters.Request())
    names = [
        name for name in listed.result.names
        if name not in RCLPYS and not name.startswith('qos_overrides.')
    ]  # fmt: skip
    assert names
    request = DescribeParameters.Request(names=names)
    answer = ros.call(DescribeParameters, f'{module}/describe_parameters', request)
    assert len(answer.descriptors) == len(names)
    for told in answer.descriptors:
        assert len(told.description) > 8, told.name
        if told.type in NUMBERS:
            ranges = [*told.floating_point_range, *told.integer_range]
            assert len(ranges) == 1, f'{told.name} has no range'
            assert ranges[0].from_value < ranges[0].to_value
