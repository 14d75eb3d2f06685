"""Node parameters: one frozen dataclass per node is the only source of its parameters.

A field carries default, description, unit, bounds and choices; `Parameters` turns them into
declared ROS parameters with descriptors and ranges, and keeps a validated snapshot. Nothing else
in the package writes a parameter name twice.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from vla_alignment_ros.errors import ConfigError

Schema = TypeVar('Schema')


def parameter(
    default: Any,
    description: str,
    *,
    name: str | None = None,
    unit: str = '',
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
    live: bool = False,
) -> Any:
    """Declare one field of a parameter dataclass.

    Args:
        default: bool, int, float, str or tuple of str; its type is the parameter's type.
        description: what it does, for `ros2 param describe`.
        name: the ROS name where it is not the field's (`gate.enabled`).
        unit: for the description.
        low, high: inclusive bounds of a number; give both or none.
        choices: the allowed strings.
        live: whether it may be changed while the node runs.
    """
    if (low is None) != (high is None):
        raise ConfigError(f'give both bounds or none: {description}')
    about = {
        'description': f'{description} [{unit}]' if unit else description,
        'name': name,
        'low': low,
        'high': high,
        'choices': tuple(choices),
        'live': live,
    }
    return dataclasses.field(default=default, metadata=about)


def ros_name(field: dataclasses.Field) -> str:
    """The ROS name of a field."""
    return field.metadata['name'] or field.name


def defaults(schema: type) -> dict[str, Any]:
    """ROS name -> default, of every parameter of a dataclass; tuples as lists."""
    return {
        ros_name(field): list(field.default) if isinstance(field.default, tuple)
        else field.default
        for field in dataclasses.fields(schema)
    }


def descriptor(field: dataclasses.Field) -> ParameterDescriptor:
    """What ROS is told about a field."""
    about = field.metadata
    result = ParameterDescriptor(description=about['description'], read_only=not about['live'])
    if about['choices']:
        result.additional_constraints = f'one of: {", ".join(about["choices"])}'
    low, high = about['low'], about['high']
    if low is not None and isinstance(field.default, float):
        bounds = FloatingPointRange(from_value=float(low), to_value=float(high))
        result.floating_point_range = [bounds]
    elif low is not None:
        result.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
    return result


def check(values: Any) -> None:
    """Raise ConfigError where a value of a parameter dataclass is not allowed."""
    for field in dataclasses.fields(values):
        value, about = getattr(values, field.name), field.metadata
        if about['choices'] and value not in about['choices']:
            raise ConfigError(
                f'{ros_name(field)} is {value!r}; allowed: {", ".join(about["choices"])}'
            )
        low, high = about['low'], about['high']
        if low is not None and not low <= value <= high:  # also refuses NaN
            raise ConfigError(f'{ros_name(field)} is {value}; allowed: {low} … {high}')


class Parameters(Generic[Schema]):
    """The declared parameters of a node; `current` is the validated snapshot.

    Raises:
        ConfigError: a value from the command line or a file is not allowed.
    """

    def __init__(self, node: Node, schema: type[Schema]) -> None:
        self._fields = {ros_name(field): field for field in dataclasses.fields(schema)}
        values = {}
        for name, default in defaults(schema).items():
            field = self._fields[name]
            if default == []:  # a type cannot be read off an empty list
                declared = node.declare_parameter(
                    name, Parameter.Type.STRING_ARRAY, descriptor(field)
                )
            else:
                declared = node.declare_parameter(name, default, descriptor(field))
            values[field.name] = _plain(declared.value, field)
        self.current: Schema = schema(**values)
        check(self.current)
        node.add_on_set_parameters_callback(self._on_set)
        node.add_post_set_parameters_callback(self._after_set)

    def _changed(self, parameters: list[Parameter]) -> Schema:
        changes = {
            self._fields[p.name].name: _plain(p.value, self._fields[p.name])
            for p in parameters
            if p.name in self._fields
        }
        return dataclasses.replace(self.current, **changes)

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        try:
            check(self._changed(parameters))
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _after_set(self, parameters: list[Parameter]) -> None:
        self.current = self._changed(parameters)


def _plain(value: Any, field: dataclasses.Field) -> Any:
    if isinstance(field.default, tuple):
        return tuple(value or ())
    return value


SPLITS = ('train', 'val', 'seen', 'unseen_objects', 'unseen_phrases', 'swapped', 'absent')
STORAGES = ('mcap', 'sqlite3')


@dataclass(frozen=True)
class SimulatorParameters:
    """Parameters of simulator_node."""

    embodiment: str = parameter('tabletop', 'Name or YAML file of the embodiment to simulate.')
    split: str = parameter('seen', 'Split the next episode is from.', choices=SPLITS, live=True)
    seed: int = parameter(
        0, 'Scene number of the next episode within its split.', low=0, high=2**62, live=True
    )
    publish_instruction: bool = parameter(
        False, "Whether a reset publishes the episode's instruction.", live=True
    )
    reset_on_start: bool = parameter(True, 'Whether the node begins with an episode.')
    lockstep: bool = parameter(
        False, 'Time stands still until the command for the last observation has come.'
    )
    lockstep_retry_s: float = parameter(
        0.2,
        'In lock-step: publish the observation again after so long without its command.',
        unit='s', low=0.05, high=3600.0,
    )
    real_time_factor: float = parameter(
        1.0, 'Free-running: simulated seconds per second.', low=0.01, high=100.0
    )
    command_timeout_s: float = parameter(
        0.5,
        'Free-running: the arm stops when no command came for so long (simulated time).',
        unit='s', low=0.0, high=60.0,
    )
    disturbances: bool = parameter(
        True, 'Whether the disturbances that training episodes ask for are executed.'
    )
    overview_width: int = parameter(
        320, 'Width of ~/overview/image_raw, drawn while subscribed.', unit='pixel',
        low=16, high=1280,
    )
    overview_height: int = parameter(
        240, 'Height of ~/overview/image_raw.', unit='pixel', low=16, high=960
    )


@dataclass(frozen=True)
class ExpertParameters:
    """Parameters of expert_node."""

    embodiment: str = parameter('tabletop', 'Name or YAML file of the embodiment it moves.')
    publish_instruction: bool = parameter(
        True, "Whether it publishes the episode's instruction."
    )


@dataclass(frozen=True)
class TrainingParameters:
    """Parameters of training_node."""

    embodiment: str = parameter('tabletop', 'Name or YAML file of the embodiment to record.')
    folder: str = parameter('demonstrations', 'Folder that receives one bag per episode.')
    storage: str = parameter('mcap', 'Bag storage.', choices=STORAGES)
    zstd: bool = parameter(False, 'Whether bags are compressed.')
    labels: tuple[str, ...] = parameter(
        (), 'key=value notes written into the next episode (task=pick).', live=True
    )
    queue_bytes: int = parameter(
        256 * 2**20, 'Messages waiting for the disk; beyond that they are dropped and counted.',
        unit='byte', low=2**20, high=2**40,
    )
    status_period_s: float = parameter(
        1.0, 'Period of ~/status and /diagnostics.', unit='s', low=0.05, high=60.0
    )
    autostart: bool = parameter(False, 'Configure and activate without a lifecycle manager.')


@dataclass(frozen=True)
class PolicyParameters:
    """Parameters of policy_node."""

    checkpoint: str = parameter('', 'Checkpoint folder; its embodiment names the topics.')
    device: str = parameter('auto', 'Torch device: auto, cpu, cuda, cuda:0 …')
    threads: int = parameter(
        1, 'Torch threads on the CPU; more hurts small models on busy machines.',
        low=1, high=256,
    )
    act_on_arrival: bool = parameter(
        False,
        'Answer every complete observation with exactly one command that carries its stamp, '
        'instead of commanding at the control rate.',
    )
    candidates: int = parameter(
        0, "Action chunks drawn per decision; 0: the checkpoint's number.", low=0, high=1024
    )
    seed: int = parameter(
        0, "Seed of the candidates' noise; decision n after an instruction repeats.",
        low=0, high=2**31,
    )
    ensemble: bool = parameter(True, 'Average the chunks that overlap, or the newest alone.')
    gate_enabled: bool = parameter(
        True, 'Whether a low alignment score slows and holds the arm.', name='gate.enabled'
    )
    gate_go: float = parameter(
        -1.0, "Score from which motion is free; below 0: the checkpoint's.", name='gate.go',
        low=-1.0, high=1.0,
    )
    gate_hold: float = parameter(
        -1.0, "Score under which the arm holds; below 0: the checkpoint's.", name='gate.hold',
        low=-1.0, high=1.0,
    )
    watchdog_s: float = parameter(
        0.0,
        "The arm holds when a source is older than this; 0: the embodiment's max_age_s, and 2 s "
        'without any command.',
        unit='s', low=0.0, high=60.0,
    )
    status_period_s: float = parameter(
        1.0, 'Period of /diagnostics.', unit='s', low=0.05, high=60.0
    )
    autostart: bool = parameter(False, 'Configure and activate without a lifecycle manager.')
