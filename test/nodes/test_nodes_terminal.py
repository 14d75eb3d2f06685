"""Keys come one by one from a real pseudo-terminal, and it is given back as it was."""

from __future__ import annotations

import os
import queue
import termios
import threading

import pytest

from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.nodes.terminal import Terminal

PATIENCE_S = 30.0


class Pty:
    """A terminal whose far end is the test."""

    def __init__(self) -> None:
        self.far, near = os.openpty()
        self.near = os.fdopen(near, 'r')
        self.keys: queue.Queue[str] = queue.Queue()
        self.ended = threading.Event()
        self.before = self.modes()

    def modes(self) -> list:
        return termios.tcgetattr(self.near)

    def open(self) -> Terminal:
        return Terminal(self.keys.put, self.ended.set, self.near)

    def type(self, data: bytes) -> None:
        os.write(self.far, data)

    def key(self) -> str:
        return self.keys.get(timeout=PATIENCE_S)


@pytest.fixture
def pty():
    made = Pty()
    yield made
    made.near.close()
    if made.far >= 0:
        os.close(made.far)


def test_keys_come_without_enter_and_are_not_shown(pty):
    with pty.open():
        assert not pty.modes()[3] & (termios.ECHO | termios.ICANON)
        assert pty.modes()[3] & termios.ISIG  # Ctrl-C interrupts
        assert pty.modes()[6][termios.VSUSP] == pty.modes()[6][termios.VQUIT] == b'\0'
        pty.type(b'w')
        assert pty.key() == 'w'
        pty.type(b'\x1b[A')
        assert pty.key() == 'up'
        pty.type(b'\x1b')
        assert pty.key() == 'escape'
    assert pty.modes() == pty.before
    assert not pty.ended.is_set()


def test_closing_again_does_nothing_and_the_terminal_is_free_for_others(pty):
    terminal = pty.open()
    terminal.close()
    mine = pty.modes()
    mine[3] &= ~termios.ECHO
    termios.tcsetattr(pty.near, termios.TCSANOW, mine)
    terminal.close()
    assert pty.modes() == mine


def test_whatever_goes_wrong_with_a_key_the_terminal_is_given_back(pty, monkeypatch):
    crashed = []
    monkeypatch.setattr(threading, 'excepthook', lambda args: crashed.append(args.exc_type))

    def stumble(key: str) -> None:
        raise RuntimeError(key)

    terminal = Terminal(stumble, pty.ended.set, pty.near)
    pty.type(b'w')
    assert pty.ended.wait(PATIENCE_S)
    assert pty.modes() == pty.before
    terminal.close()
    assert crashed == [RuntimeError]


def test_who_handles_a_key_may_close_the_terminal(pty):
    closed = threading.Event()

    def close(key: str) -> None:
        terminal.close()
        closed.set()

    terminal = Terminal(close, pty.ended.set, pty.near)
    pty.type(b'w')
    assert closed.wait(PATIENCE_S)
    assert pty.modes() == pty.before


def test_a_terminal_that_goes_away_is_told(pty):
    terminal = pty.open()
    os.close(pty.far)
    pty.far = -1
    assert pty.ended.wait(PATIENCE_S)
    terminal.close()


def test_what_is_no_terminal_is_refused():
    with open(os.devnull) as nothing, pytest.raises(ConfigError, match='no terminal'):
        Terminal(print, print, nothing)
