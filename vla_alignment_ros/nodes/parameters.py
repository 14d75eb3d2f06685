"""Node parameters: one frozen dataclass per node is the only source of its parameters.

A field carries default, description, unit, bounds and choices; `Parameters` turns them into
declared ROS parameters with descriptors and ranges, and keeps a validated snapshot. Nothing else
in the package writes a parameter name twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, Generic, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from vla_alignment_ros.errors import ConfigError, VlaError

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
        default: bool, int, float, str or tuple of str or float; its type is the parameter's.
        description: what it does, for `ros2 param describe`.
        name: the ROS name where it is not the field's (`gate.enabled`).
        unit: for the description.
        low, high: inclusive bounds of a number, or of each in a tuple; give both or none.
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
    if isinstance(field.default, tuple):  # ROS has no ranges for arrays
        if low is not None:
            result.additional_constraints = f'each within {low} … {high}'
    elif low is not None and isinstance(field.default, float):
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
        each = value if isinstance(value, tuple) else (value,)
        if low is not None and not all(low <= one <= high for one in each):  # also refuses NaN
            raise ConfigError(f'{ros_name(field)} is {value}; allowed: {low} … {high}')


class Parameters(Generic[Schema]):
    """The declared parameters of a node; `current` is the validated snapshot.

    Args:
        node: whose parameters they are.
        schema: the dataclass.
        approve: is asked before an allowed change, with the values to be and the ROS names that
            are set; a VlaError refuses it with that reason.
        changed: is told afterwards.

    Raises:
        ConfigError: a value from the command line or a file is not allowed.
    """

    def __init__(
        self,
        node: Node,
        schema: type[Schema],
        approve: Callable[[Schema, set[str]], None] = lambda values, names: None,
        changed: Callable[[Schema, set[str]], None] = lambda values, names: None,
    ) -> None:
        self._approve, self._after = approve, changed
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
            values = self._changed(parameters)
            check(values)
            self._approve(values, {p.name for p in parameters})
        except VlaError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _after_set(self, parameters: list[Parameter]) -> None:
        self.current = self._changed(parameters)
        self._after(self.current, {p.name for p in parameters})


def _plain(value: Any, field: dataclasses.Field) -> Any:
    if isinstance(field.default, tuple):
        return tuple(value or ())
    return value
