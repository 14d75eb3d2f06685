"""Gamepads: which axis and button means what, and what a person wants with them.

Nothing moves but while the dead-man button is held. After the pad was silent, and at the start,
the button has to be let go and pressed anew: a pad that lies on its buttons does not drive. What
is said again with the same stamp, or comes late by it, counts as silence: a driver that hangs, or
a radio link that hands over what it held back, does not drive either.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vla_alignment_ros.embodiment import ACTION_DIM
from vla_alignment_ros.errors import ConfigError, ControlError
from vla_alignment_ros.fields import build, is_number
from vla_alignment_ros.resources import package_path, shipped_yaml

# what a button can do beside moving; the same words are what keys do
FASTER, SLOWER, GRIPPER = 'faster', 'slower', 'gripper'
START, SUCCESS, FAILURE, DISCARD = 'start', 'success', 'failure', 'discard'
UNUSED = -1


@dataclass(frozen=True)
class PadAxis:
    """What moves one action dimension: an axis of the pad, or two buttons."""

    axis: int = UNUSED
    scale: float = 1.0  # −1…1; negative: the other way round
    plus: int = UNUSED
    minus: int = UNUSED


@dataclass(frozen=True)
class Pad:
    """The mapping of one kind of gamepad: numbers of axes and buttons in `sensor_msgs/Joy`."""

    deadman: int  # button that has to be held
    axes: tuple[PadAxis, ...]  # of the action dimensions in their order; the last may be left out
    gripper: int = UNUSED
    faster: int = UNUSED
    slower: int = UNUSED
    start: int = UNUSED  # of an episode
    success: int = UNUSED  # its end
    failure: int = UNUSED
    discard: int = UNUSED
    help: str = ''  # for people, in the words that are written on the pad

    def __post_init__(self) -> None:
        if not 1 <= len(self.axes) <= ACTION_DIM:
            raise ConfigError(f'axes: 1…{ACTION_DIM} entries, got {len(self.axes)}')
        used = {name: number for name, number in self.buttons().items() if number != UNUSED}
        if self.deadman == UNUSED:
            raise ConfigError('deadman: without a button to hold nothing may move')
        if len(set(used.values())) < len(used):
            raise ConfigError(f'one button does two things: {used}')

    @classmethod
    def load(cls, path_or_name: str | Path) -> Pad:
        """From a YAML file, or by the name of a shipped one (`xbox`, `ps`)."""
        path = Path(path_or_name).expanduser()
        if not path.is_file():
            folder = package_path('config', 'pads')
            path = shipped_yaml(folder, str(path_or_name), 'pad', ConfigError)
        try:
            return cls.from_dict(yaml.safe_load(path.read_text(encoding='utf-8')))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f'{path} is not valid YAML: {error}') from error
        except ConfigError as error:
            raise ConfigError(f'{path}: {error}') from error

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Pad:
        """From a mapping; unknown keys are refused, the allowed listed."""
        return build(cls, data, 'pad', ConfigError, _value)

    def buttons(self) -> dict[str, int]:
        """What each button does → its number; those of two-button axes are called by dimension."""
        found = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in ('axes', 'help')
        }
        for dim, axis in enumerate(self.axes):
            found |= {f'axes[{dim}].plus': axis.plus, f'axes[{dim}].minus': axis.minus}
        return found


def _value(field: dataclasses.Field[Any], given: Any) -> Any:
    if field.name == 'help':
        if not isinstance(given, str):
            raise ConfigError('help must be a text')
        return given
    if field.name == 'axes':
        if not isinstance(given, (list, tuple)):
            raise ConfigError('axes must be a list')
        return tuple(build(PadAxis, item, f'axes[{i}]', ConfigError, _value)
                     for i, item in enumerate(given))  # fmt: skip
    if field.name == 'scale':
        if not is_number(given) or not 0 < abs(given) <= 1:
            raise ConfigError(f'scale must be a number within −1…1 and not 0, got {given!r}')
        return float(given)
    if isinstance(given, bool) or not isinstance(given, int) or not UNUSED <= given < 256:
        raise ConfigError(f'{field.name} must be a number 0…255, or −1 for none; got {given!r}')
    return given


def shaped(value: np.ndarray, dead_zone: float, expo: float) -> np.ndarray:
    """Sticks −1…1 without the middle, where they never rest at 0, and finer around it.

    dead_zone: 0…1, deflection that counts as none. expo: 0…1, from linear to cubic.
    """
    size = np.clip((np.abs(value) - dead_zone) / (1.0 - dead_zone), 0.0, 1.0)
    return np.sign(value) * ((1.0 - expo) * size + expo * size**3)


class PadReader:
    """What a person wants with one pad. Not thread-safe. Times are of the steady clock, s.

    Args:
        pad: the mapping.
        dead_zone, expo: see `shaped`.
        timeout_s: a pad that is silent for so long is let go.
    """

    def __init__(self, pad: Pad, dead_zone: float, expo: float, timeout_s: float) -> None:
        if not 0.0 <= dead_zone < 1.0 or not 0.0 <= expo <= 1.0 or not timeout_s > 0.0:
            raise ConfigError(
                'dead_zone must be within 0…1 (not 1), expo within 0…1, joy_timeout_s above 0; '
                f'got {dead_zone}, {expo}, {timeout_s}'
            )
        self._pad, self._dead_zone, self._expo = pad, dead_zone, expo
        self._timeout_s = timeout_s
        self._came_s = float('-inf')  # when something new came last
        self._stamp_s = float('-inf')  # of that
        self._way_s = float('inf')  # least that a message took since then, clocks apart
        self._armed = False  # the dead-man button was seen to be free since the pad is there
        self._held = False
        self._buttons: np.ndarray | None = None  # (B,) of the message before
        self._deflection = np.zeros(ACTION_DIM)

    def take(
        self, axes: np.ndarray, buttons: np.ndarray, now_s: float, stamp_s: float = 0.0
    ) -> list[str]:
        """Take one message, (A,) −1…1 and (B,) 0 or 1; what the newly pressed buttons are for.

        stamp_s: when it was sent, by whatever clock; 0: it does not say.

        Raises:
            ControlError: it is another pad's, or an axis is not finite. Then the pad is let go.
        """
        silent = now_s - self._came_s > self._timeout_s
        if stamp_s and self._is_stale(now_s, stamp_s, silent):
            return []
        self._came_s = now_s
        self._armed &= not silent
        self._held = False
        axes, buttons = np.asarray(axes, dtype=np.float64), np.asarray(buttons) != 0
        self._check(axes, buttons)
        before = self._buttons
        if silent or before is None or before.shape != buttons.shape:
            before = np.ones_like(buttons)  # what is pressed already was not pressed for this
        self._buttons = buttons
        held = bool(buttons[self._pad.deadman])
        self._armed |= not held
        self._held = held and self._armed
        self._deflection = self._read(axes, buttons)
        named = self._pad.buttons()
        pressed = [
            name
            for name in (GRIPPER, FASTER, SLOWER, START, SUCCESS, FAILURE, DISCARD)
            if named[name] != UNUSED and buttons[named[name]] and not before[named[name]]
        ]
        # the gripper is a motion
        return [name for name in pressed if name != GRIPPER or self._held]

    def deflection(self, now_s: float) -> np.ndarray | None:
        """What is wanted now, (7,) −1…1; None where nobody holds the dead-man button."""
        if not self._held or now_s - self._came_s > self._timeout_s:
            return None
        return self._deflection.copy()

    def _is_stale(self, now_s: float, stamp_s: float, silent: bool) -> bool:
        if stamp_s == self._stamp_s or (stamp_s < self._stamp_s and not silent):
            return True
        way_s, self._stamp_s = now_s - stamp_s, stamp_s
        self._way_s = way_s if silent else min(self._way_s, way_s)
        return way_s - self._way_s > self._timeout_s

    def _check(self, axes: np.ndarray, buttons: np.ndarray) -> None:
        most = max(axis.axis for axis in self._pad.axes)
        last = max(self._pad.buttons().values())
        if len(axes) <= most or len(buttons) <= last:
            raise ControlError(
                f'the pad has {len(axes)} axes and {len(buttons)} buttons, its mapping needs '
                f'{most + 1} and {last + 1}: choose another one (parameter pad)'
            )
        if not np.isfinite(axes).all():
            raise ControlError(f'an axis of the pad is not finite: {axes}')

    def _read(self, axes: np.ndarray, buttons: np.ndarray) -> np.ndarray:
        raw = np.zeros(ACTION_DIM)
        for dim, source in enumerate(self._pad.axes):
            if source.axis != UNUSED:
                raw[dim] = source.scale * axes[source.axis]
            for button, way in ((source.plus, 1.0), (source.minus, -1.0)):
                if button != UNUSED and buttons[button]:
                    raw[dim] += way * abs(source.scale)
        return shaped(np.clip(raw, -1.0, 1.0), self._dead_zone, self._expo)
