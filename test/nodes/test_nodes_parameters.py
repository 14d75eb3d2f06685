"""Parameters have one source, and what is not allowed is refused with the allowed named."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
import yaml

from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.nodes.job_parameters import JobParameters
from vla_alignment_ros.nodes.parameters import defaults, parameter, Parameters
from vla_alignment_ros.nodes.schemas import (
    PolicyParameters,
    SimulatorParameters,
    TeleopParameters,
)
from vla_alignment_ros.nodes.servo_parameters import ServoParameters
from vla_alignment_ros.nodes.training_parameters import TrainingParameters
from vla_alignment_ros.resources import package_path


@dataclass(frozen=True)
class Sample:
    rate_hz: float = parameter(10.0, 'How often.', unit='Hz', low=0.1, high=100.0, live=True)
    count: int = parameter(3, 'How many.', low=1, high=9)
    mode: str = parameter('a', 'Which.', choices=('a', 'b'), live=True)
    on: bool = parameter(True, 'Whether.', name='gate.on')
    labels: tuple[str, ...] = parameter((), 'Notes.', live=True)


class SampleNode(Node):
    def __init__(self, **kwargs):
        super().__init__('sample', **kwargs)
        self.settings = Parameters(self, Sample)


def test_defaults_overrides_and_live_changes_reach_the_snapshot(ros):
    node = ros.add(SampleNode, **{'rate_hz': 5.0, 'gate.on': False})
    assert node.settings.current == Sample(rate_hz=5.0, on=False)
    results: list[SetParametersResult] = node.set_parameters(
        [Parameter('rate_hz', value=7.0), Parameter('labels', value=['task=pick'])]
    )
    assert all(result.successful for result in results)
    assert node.settings.current == Sample(rate_hz=7.0, on=False, labels=('task=pick',))


def test_what_is_not_allowed_is_refused_and_nothing_changes(ros):
    node = ros.add(SampleNode)
    for name, value in (('rate_hz', 0.0), ('mode', 'c'), ('count', 5), ('gate.on', False)):
        result = node.set_parameters([Parameter(name, value=value)])[0]
        assert not result.successful, name
        assert result.reason
    assert node.settings.current == Sample()


def test_a_bad_choice_at_start_names_the_allowed_ones(ros):
    with pytest.raises(ConfigError, match='mode is .c.; allowed: a, b'):
        ros.add(SampleNode, mode='c')


def test_descriptors_carry_unit_range_and_read_only(ros):
    node = ros.add(SampleNode)
    rate = node.describe_parameter('rate_hz')
    assert rate.description == 'How often. [Hz]'
    assert rate.floating_point_range[0].to_value == 100.0
    assert not rate.read_only
    count = node.describe_parameter('count')
    assert count.read_only
    assert count.integer_range[0].from_value == 1


@pytest.mark.parametrize(
    'file, schemas',
    [
        ('policy.yaml', [PolicyParameters]),
        ('training.yaml', [TrainingParameters, JobParameters]),
        ('simulator.yaml', [SimulatorParameters]),
        ('servo.yaml', [ServoParameters]),
        ('teleop.yaml', [TeleopParameters]),
    ],
)
def test_shipped_parameter_files_hold_exactly_the_defaults(file: str, schemas: list[type]):
    data = yaml.safe_load(package_path('config', file).read_text(encoding='utf-8'))
    shipped = dict(_flat(data['/**']['ros__parameters']))
    every = {name: value for schema in schemas for name, value in defaults(schema).items()}
    expected = {name: value for name, value in every.items() if value != []}
    assert shipped == expected


def _flat(tree: dict, prefix: str = ''):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value
