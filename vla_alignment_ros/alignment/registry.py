"""Alignment strategies by name. A new strategy is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from vla_alignment_ros.alignment.base import AlignmentStrategy
from vla_alignment_ros.alignment.vla import VlaAlignment
from vla_alignment_ros.errors import ConfigError

STRATEGIES: dict[str, Callable[..., AlignmentStrategy]] = {
    'vla': VlaAlignment,
}


def make_strategy(name: str, width: int, **settings: float) -> AlignmentStrategy:
    """The strategy called `name` for towers of width D.

    Raises:
        ConfigError: the name is unknown (the known ones are listed) or a setting does not fit.
    """
    if name not in STRATEGIES:
        raise ConfigError(f'unknown alignment {name!r}; known: {", ".join(sorted(STRATEGIES))}')
    try:
        return STRATEGIES[name](width, **settings)
    except TypeError as error:
        raise ConfigError(f'alignment {name!r}: {error}') from error
