"""Runs nodes as processes in a ROS domain of their own, and ends them whatever happens."""

from __future__ import annotations

from collections.abc import Mapping
import os
from pathlib import Path
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from types import TracebackType

import yaml

from vla_alignment_ros.errors import ConfigError, VlaError

DOMAINS = range(1, 102)  # above 101 the ports meet those that Linux hands out
READY_S = 300.0  # importing torch and loading a checkpoint on a busy machine
STOP_S = 5.0  # patience between asking a process to stop and making it
LOG_LINES = 15


class NodeError(VlaError):
    """A node that was started as a process has ended or does not answer."""


class DomainLock:
    """A ROS_DOMAIN_ID that no other run on this machine uses, held until it is released.

    A process that is started with `descriptor` (`pass_fds`) holds it too, until it ends.
    """

    def __init__(self) -> None:
        # An abstract Unix socket is the lock: gone with the last process that has it, however
        # that ends. So nodes that outlive a killed run do not meet those of the next.
        for domain_id in random.SystemRandom().sample(DOMAINS, len(DOMAINS)):
            lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                lock.bind(f'\0vla_alignment_ros.domain.{domain_id}')
            except OSError:
                lock.close()
                continue
            self.domain_id = domain_id
            self._lock = lock
            return
        raise NodeError('all ROS domains of this machine are in use: end other runs first')

    @property
    def descriptor(self) -> int:
        """The file descriptor that holds the lock."""
        return self._lock.fileno()

    def release(self) -> None:
        self._lock.close()


class NodeProcesses:
    """
    A context in which nodes run as child processes and find each other, and nobody else.

    Every child has its own process group and a log file; on leaving the context all of them are
    interrupted, then terminated, then killed.
    """

    def __init__(self, log_folder: Path | None = None) -> None:
        self._lock: DomainLock | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._log_folder = log_folder
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> NodeProcesses:
        self._lock = DomainLock()
        self._temporary = tempfile.TemporaryDirectory(prefix='vla_nodes_')
        folder = self._log_folder or Path(self._temporary.name)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        finally:
            if self._temporary is not None:
                self._temporary.cleanup()
            if self._lock is not None:
                self._lock.release()

    @property
    def domain_id(self) -> int:
        if self._lock is None:
            raise RuntimeError('enter the context first')
        return self._lock.domain_id

    @property
    def children(self) -> dict[str, int]:
        """Process id of every node that was started."""
        return {name: child.pid for name, child in self._children.items()}

    def environment(self) -> dict[str, str]:
        """Return the variables that keep these nodes among themselves."""
        return {
            'ROS_DOMAIN_ID': str(self.domain_id),
            'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
            'RCUTILS_LOGGING_BUFFERED_STREAM': '0',
            'PYTHONUNBUFFERED': '1',
            'ROS_LOG_DIR': str(self.folder / 'ros'),
        }

    def start(self, name: str, module: str, parameters: Mapping[str, object]) -> None:
        """
        Start ``python -m module`` as the node ``name`` with these parameters.

        Parameters travel in a file, so that a value is never misread as another type.
        """
        if name in self._children:
            raise ConfigError(f'a node named {name!r} runs already')
        known = {key: value for key, value in parameters.items() if value is not None}
        file = self.folder / f'{name}.yaml'
        file.write_text(yaml.safe_dump({'/**': {'ros__parameters': known}}), encoding='utf-8')
        command = [
            sys.executable, '-m', module, '--ros-args',
            '-r', f'__node:={name}', '--params-file', str(file),
        ]  # fmt: skip
        with self._log(name).open('wb') as log:
            self._children[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment(),
                start_new_session=True,
                pass_fds=(self._lock.descriptor,),
            )

    def check(self) -> None:
        """Raise NodeError, with the end of its log, if a node has ended."""
        for name, child in self._children.items():
            code = child.poll()
            if code is not None:
                how = f'was killed by signal {-code}' if code < 0 else f'ended with code {code}'
                raise NodeError(f'{name} {how}; the end of its log:\n{self.log_end(name)}')

    def log_end(self, name: str, lines: int = LOG_LINES) -> str:
        """Return the last lines of a node's log."""
        path = self._log(name)
        text = path.read_text(encoding='utf-8', errors='replace') if path.is_file() else ''
        return '\n'.join(text.splitlines()[-lines:]) or '(nothing was logged)'

    def stop(self) -> None:
        """End every node: SIGINT, then SIGTERM, then SIGKILL."""
        for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            running = [child for child in self._children.values() if child.poll() is None]
            for child in running:
                _signal(child, kind)
            deadline = time.monotonic() + STOP_S
            for child in running:
                try:
                    child.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    continue
        self._children.clear()

    def _log(self, name: str) -> Path:
        return self.folder / f'{name}.log'


def _signal(child: subprocess.Popen[bytes], kind: signal.Signals) -> None:
    try:
        os.killpg(child.pid, kind)
    except ProcessLookupError:
        return  # ended in the meantime
