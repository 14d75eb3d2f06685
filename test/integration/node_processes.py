"""Nodes of this package as processes, some of them at a terminal whose far end is the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import fcntl
import os
from pathlib import Path
import select
import subprocess
import sys
import termios
import threading

EXIT_S = 60.0
START_S = 150.0  # importing torch and loading a checkpoint on a busy machine


class Terminal:
    """A pseudo-terminal: what is typed goes to whoever runs at it, `shown` is what they said."""

    def __init__(self) -> None:
        self.far, self.near = os.openpty()
        self.before = self.modes()
        self.shown = ''
        self._stop, self._stopper = os.pipe()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def modes(self) -> list:
        return termios.tcgetattr(self.near)

    def type(self, keys: str) -> None:
        os.write(self.far, keys.encode())

    @contextmanager
    def holding(self, key: str) -> Iterator[None]:
        """Repeat a key as a terminal does while it is held."""
        let_go = threading.Event()

        def repeat() -> None:
            while not let_go.wait(0.03):
                self.type(key)

        thread = threading.Thread(target=repeat)
        thread.start()
        try:
            yield
        finally:
            let_go.set()
            thread.join()

    def hang_up(self) -> None:
        """The window is closed."""
        if self.far < 0:
            return
        os.write(self._stopper, b'.')
        self._reader.join()  # else the far end stays open
        for end in (self.near, self.far, self._stop, self._stopper):
            os.close(end)
        self.far = -1

    def _read(self) -> None:
        while True:
            ready, _, _ = select.select([self.far, self._stop], [], [])
            if self._stop in ready:
                return
            self.shown += os.read(self.far, 4096).decode(errors='replace')


class Processes:
    """Nodes of this package, each in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.running: dict[str, subprocess.Popen] = {}

    def start(self, name: str, **parameters: object) -> None:
        with (self._folder / f'{name}.log').open('wb') as log:
            self.running[name] = subprocess.Popen(
                _command(name, parameters),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_at(self, terminal: Terminal, name: str, **parameters: object) -> None:
        """Start a node in the foreground of a terminal, which is all that it has."""
        near = terminal.near
        self.running[name] = subprocess.Popen(
            _command(name, parameters),
            stdin=near,
            stdout=near,
            stderr=near,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(near, termios.TIOCSCTTY, 0),
        )

    def check(self) -> None:
        for name, process in self.running.items():
            assert process.poll() is None, f'{name} ended early:\n{self.log(name)}'

    def log(self, name: str) -> str:
        path = self._folder / f'{name}.log'
        return path.read_text() if path.is_file() else 'it has a terminal'

    def kill(self, name: str) -> None:
        """End a node without a chance to say anything."""
        process = self.running.pop(name)
        process.kill()
        process.wait(EXIT_S)

    def end(self, name: str, number: int) -> int:
        process = self.running.pop(name)
        process.send_signal(number)
        try:
            return process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f'{name} did not end:\n{self.log(name)}') from None

    def close(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


def _command(name: str, parameters: dict[str, object]) -> list[str]:
    command = [sys.executable, '-m', f'vla_alignment_ros.nodes.{name}', '--ros-args']
    for key, value in parameters.items():
        command += ['-p', f'{key}:={value}']
    return command
