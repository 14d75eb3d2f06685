"""A keyboard: which key means what, and what a person wants with them.

Terminals tell of keys that are pressed and repeated, never of one that is let go: a key counts for
`timeout_s` from when it came last. So a tap is a small step; held, it pauses until the terminal
begins to repeat it, and moves evenly from then on.
"""

from __future__ import annotations

import codecs

import numpy as np

from vla_alignment_ros.control.codecs import gripper_index
from vla_alignment_ros.control.pads import (
    DISCARD,
    FAILURE,
    FASTER,
    GRIPPER,
    SLOWER,
    START,
    SUCCESS,
)
from vla_alignment_ros.embodiment import ACTION_DIM, Embodiment
from vla_alignment_ros.errors import ConfigError

HELP, QUIT, SAY = 'help', 'quit', 'say'
UP, DOWN, LEFT, RIGHT = 'up', 'down', 'left', 'right'
ESCAPE, ENTER, BACKSPACE = 'escape', 'enter', 'backspace'
STAY = 'x'  # drive, and stand still
# key → action dimension and way
MOVES: dict[str, tuple[int, float]] = {
    'w': (0, 1.0), 's': (0, -1.0), UP: (0, 1.0), DOWN: (0, -1.0),
    'a': (1, 1.0), 'd': (1, -1.0), LEFT: (1, 1.0), RIGHT: (1, -1.0),
    'q': (2, 1.0), 'e': (2, -1.0),
    'o': (3, 1.0), 'u': (3, -1.0),
    't': (4, 1.0), 'g': (4, -1.0),
    'j': (5, 1.0), 'l': (5, -1.0),
    'm': (6, 1.0), 'n': (6, -1.0),
}  # fmt: skip
DOES: dict[str, str] = {
    ' ': GRIPPER, 'r': FASTER, 'f': SLOWER, 'i': SAY, '?': HELP, '\x04': QUIT,
    '1': START, '2': SUCCESS, '3': FAILURE, '4': DISCARD,
}  # fmt: skip
# keys of each action dimension, and which way an end effector goes
ROWS = (
    ('w s, up down', 'forward, back'),
    ('a d, left right', 'left, right'),
    ('q e', 'up, down'),
    ('o u', 'roll right, left'),
    ('t g', 'pitch nose down, up'),
    ('j l', 'turn left, right'),
    ('m n', ''),
)
OTHERS = """\
space             gripper closes, opens
x                 stop, and hold on: the arm is yours, but stands still
r f               faster, slower
i                 say an instruction: Enter sends, Esc does not
1                 an episode begins      2  it succeeded   3  it failed   4  discard it
?                 this help              Ctrl-C, Ctrl-D  quit
Hold a key to move; let go and the arm stops.
"""

_SEQUENCES = {
    '\x1b[A': UP, '\x1b[B': DOWN, '\x1b[C': RIGHT, '\x1b[D': LEFT,
    '\x1bOA': UP, '\x1bOB': DOWN, '\x1bOC': RIGHT, '\x1bOD': LEFT,
}  # fmt: skip
_NAMED = {'\r': ENTER, '\n': ENTER, '\x7f': BACKSPACE, '\x08': BACKSPACE}


def help_text(embodiment: Embodiment) -> str:
    """What each key does to this robot, in lines for its terminal."""
    spec = embodiment.action
    if spec.space == 'ee_delta':
        lines = [f'The hand moves along the axes of {spec.frame}:']
        lines += [f'{keys:<18}{way}' for keys, way in ROWS if way]
    else:
        lines = ['Joints move one by one:']
        gripper = gripper_index(embodiment)
        lines += [
            f'{keys:<18}{name} +, −'
            for dim, ((keys, _), name) in enumerate(zip(ROWS, spec.names))
            if dim != gripper
        ]
    return '\n'.join([*lines, OTHERS])


class KeyParser:
    """Bytes of a terminal → keys: characters, or one of the names above. Not thread-safe."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder('utf-8')('ignore')
        self._begun = ''  # of an escape sequence

    @property
    def waiting(self) -> bool:
        """Whether an escape sequence has begun."""
        return bool(self._begun)

    def feed(self, data: bytes) -> list[str]:
        """The keys that are whole by now; sequences that mean nothing here are none."""
        keys = []
        for character in self._decoder.decode(data):
            keys += self._one(character)
        return keys

    def pause(self) -> list[str]:
        """Nothing followed for a moment: what looked like a sequence was the Escape key."""
        begun, self._begun = self._begun, ''
        return [ESCAPE] if begun == '\x1b' else []

    def _one(self, character: str) -> list[str]:
        if character == '\x1b':
            begun, self._begun = self._begun, character
            return [ESCAPE] if begun == '\x1b' else []
        if not self._begun:
            return [_NAMED.get(character, character)]
        if self._begun == '\x1b' and character not in '[O':
            self._begun = ''  # Alt and a key
            return []
        self._begun += character
        if len(self._begun) > 2 and '@' <= character <= '~':  # the end of a sequence
            begun, self._begun = self._begun, ''
            return [_SEQUENCES[begun]] if begun in _SEQUENCES else []
        return []


class KeyReader:
    """What a person wants with one keyboard. Not thread-safe. Times are of the steady clock, s.

    While an instruction is typed nothing moves: keys are letters then.

    Args:
        timeout_s: a key counts for so long.
    """

    def __init__(self, timeout_s: float) -> None:
        if not timeout_s > 0.0:
            raise ConfigError(f'key_timeout_s must be above 0, got {timeout_s}')
        self.typed: str | None = None  # of an instruction; None: nobody types one
        self._timeout_s = timeout_s
        self._came_s = np.full(ACTION_DIM, -np.inf)  # when a key of each dimension came last
        self._way = np.zeros(ACTION_DIM)
        self._active_s = -np.inf  # when any key that drives came last

    def take(self, key: str, now_s: float) -> tuple[str, str] | None:
        """Take one key. What is to be done but moving, and the instruction for `SAY`."""
        if self.typed is not None:
            return self._type(key)
        key = key.lower() if len(key) == 1 else key
        does = DOES.get(key)
        if key in MOVES:
            dim, way = MOVES[key]
            self._came_s[dim], self._way[dim] = now_s, way
        if key in MOVES or key == STAY or does == GRIPPER:
            self._active_s = now_s
        if key == STAY:
            self._came_s[:] = -np.inf
        if does == SAY:
            self.typed = ''
            self._came_s[:] = self._active_s = -np.inf
            return None
        return None if does is None else (does, '')

    def deflection(self, now_s: float) -> np.ndarray | None:
        """What is wanted now, (7,) −1, 0 or 1; None where no key that drives came lately."""
        if now_s - self._active_s > self._timeout_s:
            return None
        return np.where(now_s - self._came_s <= self._timeout_s, self._way, 0.0)

    def _type(self, key: str) -> tuple[str, str] | None:
        if key == ENTER:
            typed, self.typed = self.typed.strip(), None
            return (SAY, typed) if typed else None
        if key in (ESCAPE, '\x04'):
            self.typed = None
        elif key == BACKSPACE:
            self.typed = self.typed[:-1]
        elif len(key) == 1 and key.isprintable():
            self.typed += key
        return None
