"""Launch files started for a test: which processes came up, and how they ended."""

from __future__ import annotations

import os
from pathlib import Path
import signal
import threading
import time
from typing import Any

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription, RegisterEventHandler
from launch.event_handlers import OnProcessExit, OnProcessStart, OnShutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_pytest.actions import ReadyToTest
from launch_ros.substitutions import FindPackageShare

PACKAGE = 'vla_alignment_ros'
PATIENCE_S = 60.0
END_S = 5.0  # from Ctrl-C to the end of a process, where nobody else wants the processor


class Launched:
    """What a launch service started; it reports from a thread of its own."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}  # process id → name, in the order of their starts
        self.commands: dict[int, list[str]] = {}
        self.codes: dict[int, int] = {}  # process id → exit code, of those that have ended
        self.short: set[str] = set()  # executables that end by themselves
        self.lasted: dict[int, float] = {}  # process id → s that it took to end, once asked
        self._killed: set[int] = set()
        self._asked_s: float | None = None
        self._changed = threading.Condition()

    def describe(self, *files: tuple[str, dict[str, Any]]) -> LaunchDescription:
        """Describe launch files of the package, each with its arguments."""
        return LaunchDescription([
            RegisterEventHandler(OnProcessStart(on_start=self._started)),
            RegisterEventHandler(OnProcessExit(on_exit=self._ended)),
            RegisterEventHandler(OnShutdown(on_shutdown=self._asked)),
            *(_included(name, arguments) for name, arguments in files),
            ReadyToTest(),
        ])

    def check(self) -> None:
        """Fail where a process has ended that should run."""
        ended = [one for one in self._others() if one[0].rpartition('-')[0] not in self.short]
        assert not ended, f'ended while they should run: {ended}'

    def pids(self, executable: str) -> list[int]:
        """Processes of an executable, in the order of their starts."""
        return [pid for pid, name in self.names.items() if name.startswith(f'{executable}-')]

    def kill(self, executable: str) -> None:
        """End the newest process of an executable without a chance to say anything."""
        pid = self.pids(executable)[-1]
        self._killed.add(pid)
        os.kill(pid, signal.SIGKILL)
        with self._changed:
            assert self._changed.wait_for(lambda: pid in self.codes, PATIENCE_S), executable
        assert self.codes[pid] == -signal.SIGKILL

    def clean_end(self) -> None:
        """Assert, after the shutdown, that all that no test killed ended in time, with code 0."""
        assert set(self.codes) == set(self.names)
        assert self._others()
        assert {code for _, code in self._others()} == {0}, self._others()
        others = max(1.0, os.getloadavg()[0] / os.cpu_count())  # who share the processor
        late = {self.names[pid]: s for pid, s in self.lasted.items() if s > END_S * others}
        assert not late, f's until they ended: {late}'

    def _others(self) -> list[tuple[str, int]]:
        return [(self.names[pid], c) for pid, c in self.codes.items() if pid not in self._killed]

    def _started(self, event: Any, context: Any) -> None:
        with self._changed:
            self.names[event.pid] = event.process_name
            self.commands[event.pid] = list(event.cmd)
            self._changed.notify_all()

    def _asked(self, event: Any, context: Any) -> None:
        self._asked_s = time.monotonic()

    def _ended(self, event: Any, context: Any) -> None:
        with self._changed:
            self.codes[event.pid] = event.returncode
            if self._asked_s is not None:
                self.lasted[event.pid] = time.monotonic() - self._asked_s
            self._changed.notify_all()


def share(*parts: str) -> Path:
    """A file of the installed package."""
    return Path(FindPackageShare(PACKAGE).find(PACKAGE), *parts)


def _included(name: str, arguments: dict[str, Any]) -> IncludeLaunchDescription:
    source = PythonLaunchDescriptionSource(str(share('launch', f'{name}.launch.py')))
    given = [(key, str(value)) for key, value in arguments.items()]
    return IncludeLaunchDescription(source, launch_arguments=given)
