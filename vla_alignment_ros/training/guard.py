"""Runs one command, and leaves nothing of it behind: the process between a node and its training.

    python -m vla_alignment_ros.training.guard [--nice N] [--patience S] -- COMMAND…

Standard input is a lifeline that the owner holds. When the owner lets go of it, on purpose or by
dying, the command is asked to end (SIGINT to its process group, as Ctrl-C does) and, once the
patience is over, killed with all that it started. A number of seconds written into the lifeline
before is the patience instead of the one on the command line. SIGINT and SIGTERM do the same.

Launchers put their workers into sessions of their own, where no signal to a group reaches them,
and a launcher that dies leaves them orphaned. On Linux this process therefore adopts every orphan
among its descendants (PR_SET_CHILD_SUBREAPER): what is not its child any more has ended. If it is
killed itself, the system asks the command to end (PR_SET_PDEATHSIG).

The exit code is the command's; 128 + n where signal n ended it, 127 where it could not be started.
Only the standard library is imported: this process stays as long as a training does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
import ctypes
import os
from pathlib import Path
import select
import signal
import subprocess
import sys
import time

PATIENCE_S = 120.0
NOT_STARTED, BY_SIGNAL = 127, 128  # exit codes, as shells use them
_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
_BADNESS = '500'  # where memory runs out, the training goes before the robot's own processes
_SWEEP_S = 0.05  # between two looks for what is still to be killed
_LIFELINE = 0
_LINUX = sys.platform == 'linux'


def guarded(command: Sequence[str], nice: int, patience_s: float) -> list[str]:
    """The command line that runs `command` under a guard."""
    options = ['--nice', str(nice), '--patience', str(patience_s)]
    return [sys.executable, '-m', __name__, *options, '--', *command]


class Guard:
    """Runs one command; see the module's docstring.

    Args:
        command: what to run, never through a shell.
        nice: how much it yields to other processes, 0…19.
        patience_s: between asking it to end and killing it.
    """

    def __init__(self, command: Sequence[str], nice: int, patience_s: float) -> None:
        self._patience_s = patience_s
        self._deadline_s: float | None = None  # steady; set once all have been asked to end
        self._code: int | None = None  # of the command, once it has ended
        self._told = False  # those that outlived it
        self._wake, told = os.pipe()
        os.set_blocking(told, False)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: None)  # the wake-up tells which
        if _LINUX:
            _prctl(_SET_CHILD_SUBREAPER, 1)
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_last_steps(nice),  # no other thread runs here
        )

    def run(self) -> int:
        """Wait until the command and all that it started have ended; the exit code."""
        watched = [_LIFELINE, self._wake]
        while not self._reap():
            if self._code is not None:
                self._end_the_rest()
            ready, _, _ = select.select(watched, [], [], self._time_left_s())
            if _LIFELINE in ready and self._let_go():
                watched.remove(_LIFELINE)
                self._ask()
            if self._wake in ready:
                if {signal.SIGINT, signal.SIGTERM} & set(os.read(self._wake, 512)):
                    self._ask()
            if self._deadline_s is not None and time.monotonic() >= self._deadline_s:
                self._kill()
        return self._code

    def _let_go(self) -> bool:
        """Read the lifeline; whether the owner has let go of it."""
        said = os.read(_LIFELINE, 64)
        with suppress(ValueError):
            self._patience_s = float(said)
        return not said

    def _ask(self) -> None:
        """Ask the command to end, once."""
        if self._deadline_s is None:
            self._deadline_s = time.monotonic() + self._patience_s
            if self._code is None:
                with suppress(ProcessLookupError):
                    os.killpg(self._child.pid, signal.SIGINT)

    def _end_the_rest(self) -> None:
        """Ask what outlives the command to end, once: it has no business here any more."""
        if not self._told:
            self._told = True
            self._deadline_s = self._deadline_s or time.monotonic() + self._patience_s
            _send(signal.SIGTERM)

    def _time_left_s(self) -> float | None:
        if self._deadline_s is None:
            return None
        return max(_SWEEP_S, self._deadline_s - time.monotonic())

    def _kill(self) -> None:
        """Kill every child; theirs become ours, and are next."""
        if self._code is None:
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
        _send(signal.SIGKILL)

    def _reap(self) -> bool:
        """Take leave of what has ended; whether nothing is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self._child.pid:
                code = os.waitstatus_to_exitcode(status)
                self._code = code if code >= 0 else BY_SIGNAL - code
                self._child.returncode = code  # it is not asked again


def _last_steps(nice: int) -> Callable[[], None]:
    """What the command's process does before it becomes the command."""
    guard = os.getpid()

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # shells start what is in the background deaf
        os.nice(nice)
        if not _LINUX:
            return
        _prctl(_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != guard:
            os._exit(1)  # it died before it could be watched
        with suppress(OSError):
            Path('/proc/self/oom_score_adj').write_text(_BADNESS, encoding='ascii')

    return prepare


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0)))


def _send(number: signal.Signals) -> None:
    for pid in _children():
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _children() -> Iterator[int]:
    """Process ids of this process's own children; none where there is no /proc."""
    mine = str(os.getpid())
    for folder in Path('/proc').glob('[0-9]*'):
        with suppress(OSError):
            # the name before it, in brackets, may hold anything
            fields = (folder / 'stat').read_text(errors='replace').rpartition(')')[2].split()
            if fields[1] == mine:
                yield int(folder.name)


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog='guard', description='Run a command under guard.')
    parser.add_argument('--nice', type=int, default=0)
    parser.add_argument('--patience', type=float, default=PATIENCE_S)
    parser.add_argument('command', nargs='+')
    options = parser.parse_args(argv)
    try:
        guard = Guard(options.command, options.nice, options.patience)
    except OSError as error:
        print(f'cannot start {options.command[0]}: {error}', file=sys.stderr)
        return NOT_STARTED
    return guard.run()


if __name__ == '__main__':
    sys.exit(main())
