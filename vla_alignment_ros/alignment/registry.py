"""Alignment strategies by name. A new strategy is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vla_alignment_ros.alignment.align import MomentumAlignment
from vla_alignment_ros.alignment.base import AlignmentStrategy
from vla_alignment_ros.alignment.clip import ClipAlignment
from vla_alignment_ros.alignment.composition import Alignment
from vla_alignment_ros.alignment.dynamic import DynamicAlignment
from vla_alignment_ros.alignment.grounded import GroundedAlignment
from vla_alignment_ros.alignment.hierarchical import HierarchicalAlignment
from vla_alignment_ros.alignment.siglip import SiglipAlignment
from vla_alignment_ros.alignment.vla import VlaAlignment
from vla_alignment_ros.errors import ConfigError

STRATEGIES: dict[str, Callable[..., AlignmentStrategy]] = {
    'align': MomentumAlignment,
    'clip': ClipAlignment,
    'dynamic': DynamicAlignment,
    'grounded': GroundedAlignment,
    'hierarchical': HierarchicalAlignment,
    'siglip': SiglipAlignment,
    'vla': VlaAlignment,
}


def make_alignment(
    composition: str, width: int, settings: Mapping[str, Mapping[str, Any]] | None = None
) -> Alignment:
    """The alignment called `composition` for towers of width D.

    Args:
        composition: names of strategies joined by '+'; the scores are those of the last one.
        width: D.
        settings: strategy name -> arguments of its constructor.

    Raises:
        ConfigError: a name is unknown (the known ones are listed) or a setting does not fit.
    """
    names = composition.split('+')
    unknown = [name for name in names if name not in STRATEGIES]
    if unknown:
        known = ', '.join(sorted(STRATEGIES))
        raise ConfigError(f'unknown alignment {", ".join(map(repr, unknown))}; known: {known}')
    if len(set(names)) < len(names):
        raise ConfigError(f'alignment {composition!r} names a strategy twice')
    settings = settings or {}
    for name in settings:
        if name not in names:
            raise ConfigError(
                f'alignment.settings has {name!r}, which is no part of {composition!r}'
            )
    parts = {}
    for name in names:
        if not isinstance(settings.get(name, {}), Mapping):
            raise ConfigError(f'alignment.settings.{name} must map setting to value')
        try:
            parts[name] = STRATEGIES[name](width, **settings.get(name, {}))
        except TypeError as error:
            raise ConfigError(f'alignment {name!r}: {error}') from error
    return Alignment(parts, width)
