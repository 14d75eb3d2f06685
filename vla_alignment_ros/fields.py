"""Typed fields of a description that came from YAML: the same meaning, always the same value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from vla_alignment_ros.errors import EmbodimentError, VlaError


def build(
    cls: type,
    data: Any,
    where: str,
    error: type[VlaError],
    value: Callable[[dataclasses.Field[Any], Any], Any],
) -> Any:
    """Build a dataclass from a mapping, refusing unknown and missing keys by name.

    where: what the mapping is called in errors. error: what to raise. value: turns what was
    given for a field into its value.
    """
    if not isinstance(data, Mapping):
        raise error(f'{where} must be a mapping, got {type(data).__name__}')
    known = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(str(key) for key in data if key not in known)
    if unknown:
        raise error(f'unknown key {", ".join(unknown)} in {where}; allowed: {", ".join(known)}')
    missing = [
        name
        for name, f in known.items()
        if f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
        and name not in data
    ]
    if missing:
        raise error(f'{where} lacks {", ".join(missing)}')
    values = {key: value(known[key], given) for key, given in data.items()}
    try:
        return cls(**values)
    except TypeError as reason:
        raise error(f'{where}: {reason}') from reason


def normalise(part: Any, where: str) -> None:
    """Refuse texts and lists that are none, and turn whole numbers into floats.

    10 and 10.0 are one embodiment, so they must give one digest.
    """
    for f in dataclasses.fields(part):
        kind, value = str(f.type), getattr(part, f.name)
        if value is None and kind.endswith('| None'):
            continue
        if kind.startswith('str') and not (isinstance(value, str) and value):
            raise EmbodimentError(f'{where}.{f.name} must be a text, got {value!r}')
        if kind.startswith('bool') and not isinstance(value, bool):
            raise EmbodimentError(f'{where}.{f.name} must be true or false, got {value!r}')
        if kind.startswith('tuple') and not isinstance(value, tuple):
            raise EmbodimentError(f'{where}.{f.name} must be a list, got {value!r}')
        if kind.startswith('tuple[str') and not all(isinstance(v, str) and v for v in value):
            raise EmbodimentError(f'{where}.{f.name} must hold texts, got {value!r}')
        if 'float' in kind:
            object.__setattr__(part, f.name, _floats(value))


def _floats(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_floats, value))
    if isinstance(value, Mapping):
        return {key: _floats(v) for key, v in value.items()}
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def is_number(value: Any) -> bool:
    """A number that is none of bool and NaN."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def differences(mine: Mapping[str, Any], other: Mapping[str, Any], where: str = '') -> list[str]:
    """What `other` says differently, a line a value: 'cameras[0].topic is … instead of …'."""
    found = []
    for key in dict.fromkeys((*mine, *other)):
        name = f'{where}.{key}' if where else key
        found += _difference(mine.get(key), other.get(key), name)
    return found


def _difference(mine: Any, other: Any, name: str) -> list[str]:
    if isinstance(mine, Mapping) and isinstance(other, Mapping):
        return differences(mine, other, name)
    both = isinstance(mine, list) and isinstance(other, list) and len(mine) == len(other)
    if both and any(isinstance(item, Mapping) for item in mine):
        pairs = enumerate(zip(mine, other))
        return [line for i, pair in pairs for line in _difference(*pair, f'{name}[{i}]')]
    return [] if mine == other else [f'{name} is {other!r} instead of {mine!r}']
