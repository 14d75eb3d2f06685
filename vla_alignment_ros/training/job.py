"""One training at a time, in processes of its own: begun, watched, stopped, and judged at the end.

Plain Python, and no torch: the process that watches shares a machine with a robot. A job is two
processes one after the other, `vla_train` and `acceptance`, each under a `guard` that leaves
nothing of it behind, whoever dies. What they say of themselves is read from files in the run's
folder (`runs`); their logs are for people.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
import fcntl
import os
from pathlib import Path
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from typing import IO

from vla_alignment_ros.errors import ConfigError, VlaError
from vla_alignment_ros.training.guard import BY_SIGNAL, guarded, PATIENCE_S
from vla_alignment_ros.training.job_status import (
    CANCELLED,
    FAILED,
    found_again,
    JobStatus,
    RUNNING,
    SUCCEEDED,
    VALIDATING,
)
from vla_alignment_ros.training.progress import (
    CHECKPOINT_FOLDER,
    FINISHED,
    Progress,
    read_progress,
)
from vla_alignment_ros.training.runs import Run
from vla_alignment_ros.training.verdict import Verdict, VERDICT_FILE

TRAINER = 'vla_alignment_ros.cli.vla_train'
JUDGE = (sys.executable, '-m', 'vla_alignment_ros.training.acceptance')
POLL_S = 0.25  # between two looks at a process and its progress
LOCK_FILE = '.lock'
LITTLE_BYTES = 16 << 20  # so much room is none
TAIL_BYTES, TAIL_CHARS = 4000, 300
_DEVICE = re.compile(r'cuda(?::(\d+(?:,\d+)*))?')


@dataclass(frozen=True)
class Means:
    """With what it is trained: decides how long it takes, and who has to yield.

    Raises:
        ConfigError: the launcher is not installed, or the device makes no sense.
    """

    launcher: tuple[str, ...] = ()  # words before `-m MODULE`; none: this Python
    device: str = 'auto'  # auto, cpu, cuda, cuda:1, cuda:0,1
    nice: int = 10
    patience_s: float = PATIENCE_S  # between asking it to end and killing it

    def __post_init__(self) -> None:
        if self.device not in ('auto', 'cpu') and not _DEVICE.fullmatch(self.device):
            raise ConfigError(
                f'training device {self.device!r} is none of auto, cpu, cuda, cuda:1, cuda:0,1'
            )
        self.command()

    def command(self) -> list[str]:
        """The words before `-m MODULE`. Raises ConfigError."""
        if not self.launcher:
            return [sys.executable]
        beside = Path(sys.executable).parent  # where a virtual environment has its commands
        places = os.pathsep.join([os.environ.get('PATH', os.defpath), str(beside)])
        found = shutil.which(self.launcher[0], path=places)
        if found is None:
            raise ConfigError(f'the launcher {self.launcher[0]!r} is not installed here')
        return [found, *self.launcher[1:]]

    def environment(self) -> dict[str, str]:
        """Variables of the processes."""
        chosen = {'PYTHONUNBUFFERED': '1'}
        numbered = _DEVICE.fullmatch(self.device)
        if self.device == 'cpu':
            chosen |= {'CUDA_VISIBLE_DEVICES': '', 'ACCELERATE_USE_CPU': 'true'}
        elif numbered and numbered[1]:
            chosen['CUDA_VISIBLE_DEVICES'] = numbered[1]
        return os.environ | chosen


@dataclass(frozen=True)
class Demands:
    """What is asked of the checkpoint before it may serve."""

    robot: str  # name or file of its embodiment
    tolerance: float = 0.0  # see `acceptance.judge`
    # folder of the checkpoint that it would replace now, '' for none; may take its time
    serving: Callable[[], str] = lambda: ''


class JobSupervisor:
    """Runs one job at a time in a folder of runs; thread-safe. Close it at the end.

    Args:
        root: the folder. `status` is what came of the newest run in it, whoever began that.
        on_change: is told every new status, in the job's thread.
        judge: the words that run `acceptance`.
    """

    def __init__(
        self,
        root: Path,
        on_change: Callable[[JobStatus], None] = lambda status: None,
        judge: Sequence[str] = JUDGE,
    ) -> None:
        self.status = found_again(root)
        self._root = root
        self._on_change, self._judge = on_change, tuple(judge)
        self._lock = threading.Lock()
        self._busy = False
        self._claim: IO[str] | None = None  # the folder's lock, while a job runs
        self._thread: threading.Thread | None = None  # of the newest job
        self._guard: subprocess.Popen[bytes] | None = None  # of the process that runs now
        self._asked: float | None = None  # to end within so many seconds

    def require_idle(self) -> None:
        """Raise ConfigError, with what runs, while a job runs: also that of another process."""
        if self._busy:
            raise ConfigError(f'one training at a time, and {self.status}')
        if self._root.is_dir():
            _locked(self._root).close()

    def train(self, run: Run, means: Means, demands: Demands) -> None:
        """Begin a job, or go on with it. Raises ConfigError while another one runs."""
        self._begin(RUNNING, run, (self._train, self._validate), means, demands)

    def validate(self, run: Run, means: Means, demands: Demands) -> None:
        """Judge a run that was trained before. Raises ConfigError while a job runs."""
        self._begin(VALIDATING, run, (self._validate,), means, demands)

    def cancel(self, patience_s: float | None = None) -> None:
        """Ask what runs to save and end; see `wait`.

        patience_s: instead of that of its means. Raises ConfigError where nothing runs.
        """
        with self._lock:
            if not self._busy:
                raise ConfigError(f'no training is running ({self.status})')
            self._asked = -1.0 if patience_s is None else patience_s
            self._let_go()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until no job runs; whether that is so."""
        with self._lock:
            thread = self._thread
        if thread is None:
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def close(self, patience_s: float) -> None:
        """End what runs: asked, and killed when the patience is over."""
        with suppress(ConfigError):
            self.cancel(patience_s)
        self.wait()

    # -- the job's thread -----------------------------------------------------------------------

    def _begin(
        self,
        state: str,
        run: Run,
        stages: Sequence[Callable[[Run, Means, Demands], None]],
        means: Means,
        demands: Demands,
    ) -> None:
        with self._lock:
            self.require_idle()
            before = read_progress(run.folder) or Progress()
            first = Progress(step=before.step, steps=run.steps)
            self.status = JobStatus(state, run, first)
            self._claim = _locked(self._root)
            self._asked, self._busy = None, True
            self._thread = threading.Thread(
                target=self._work, args=(run, stages, means, demands), name='training job'
            )
            self._thread.start()

    def _work(
        self,
        run: Run,
        stages: Sequence[Callable[[Run, Means, Demands], None]],
        means: Means,
        demands: Demands,
    ) -> None:
        self._on_change(self.status)
        try:
            for stage in stages:
                stage(run, means, demands)
                if not self.status.active:
                    break
        except (VlaError, OSError) as error:
            state = FAILED if self._asked is None else CANCELLED
            self._tell(state=state, reason=str(error))
        finally:
            if self.status.active:  # not foreseen: the traceback is in the node's log
                self._tell(state=FAILED, reason='the supervisor failed')
            with self._lock:
                self._busy = False
                self._claim.close()
            self._on_change(self.status)

    def _tell(self, **changes: object) -> None:
        status = replace(self.status, **changes)
        if status != self.status:
            self.status = status
            if status.active:
                self._on_change(status)

    def _train(self, run: Run, means: Means, demands: Demands) -> None:
        run.clear()

        def look() -> None:
            progress = read_progress(run.folder)
            if progress is not None:
                self._tell(progress=progress)

        command = [*means.command(), '-m', TRAINER, *run.arguments()]
        code = self._run(run, command, means, look)
        look()
        state, done = self.status.progress.state, self.status.progress.step
        if self._asked is not None:
            killed = ', killed because it did not end in time' if code == _KILLED else ''
            reason = f'stopped at step {done}{killed}; what was saved can be gone on with'
            self._tell(state=CANCELLED, reason=reason)
        elif code != 0 or state != FINISHED:
            self._tell(state=FAILED, reason=_reason(run, code, self.status.progress.error))

    def _validate(self, run: Run, means: Means, demands: Demands) -> None:
        self._tell(state=VALIDATING, verdict=None)
        against = demands.serving()
        out = run.folder / VERDICT_FILE
        out.unlink(missing_ok=True)
        command = [
            *self._judge, str(run.folder / CHECKPOINT_FOLDER),
            '--episodes', str(run.episode_list), '--robot', demands.robot, '--out', str(out),
            '--tolerance', str(demands.tolerance), '--threads', str(run.task.threads),
            *(['--against', against] if against else []),
        ]  # fmt: skip
        code = self._run(run, command, means, lambda: None)
        if self._asked is not None:
            self._tell(state=CANCELLED, reason='stopped while the checkpoint was judged')
        elif code != 0:
            self._tell(state=FAILED, reason=f'could not be judged: {_reason(run, code, "")}')
        else:
            verdict = Verdict.load(out)
            state = SUCCEEDED if verdict.accepted else FAILED
            self._tell(state=state, reason=verdict.reason, verdict=verdict)

    def _run(
        self, run: Run, command: Sequence[str], means: Means, look: Callable[[], None]
    ) -> int:
        """Run a command under guard to its end; its exit code."""
        with open(run.log, 'ab') as log:
            log.write(f'{shlex.join(command)}\n'.encode())
            log.flush()
            with self._lock:
                self._guard = _start(command, means, log, self._claim)
                if self._asked is not None:
                    self._let_go()
            try:
                while True:
                    with suppress(subprocess.TimeoutExpired):
                        return self._guard.wait(POLL_S)
                    look()
            finally:
                with self._lock:
                    self._let_go()
                self._guard.wait()

    def _let_go(self) -> None:
        """Let go of the guard's lifeline; the lock is held."""
        if self._guard is None or self._guard.stdin.closed:
            return
        with suppress(BrokenPipeError):  # it has ended by itself
            if self._asked is not None and self._asked >= 0:
                self._guard.stdin.write(f'{self._asked}\n'.encode())
                self._guard.stdin.flush()
        with suppress(BrokenPipeError):
            self._guard.stdin.close()


_KILLED = BY_SIGNAL + signal.SIGKILL


def _start(
    command: Sequence[str], means: Means, log: IO[bytes], claim: IO[str]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        guarded(command, means.nice, means.patience_s),
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=means.environment(),
        start_new_session=True,  # hears only what it is told through the lifeline
        pass_fds=(claim.fileno(),),  # held until the last of it has ended, whoever dies
    )


def _locked(root: Path) -> IO[str]:
    """The lock of a folder of runs. Raises ConfigError where it is held: a job has not ended."""
    try:
        lock = open(root / LOCK_FILE, 'w', encoding='utf-8')
    except OSError as error:
        raise ConfigError(f'cannot train in {root}: {error}') from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        if not isinstance(error, BlockingIOError):
            raise ConfigError(f'{root} cannot be locked: {error}') from error
        raise ConfigError(
            f'another node trains in {root}, or has ended and its training still saves: wait '
            f'until that is done'
        ) from None
    return lock


def _reason(run: Run, code: int, said: str) -> str:
    """Why a process failed: what it said itself, or how it ended and the end of its log."""
    if said:
        return said
    how = f'ended with code {code}'
    if code < 0 or code > BY_SIGNAL:
        number = -code if code < 0 else code - BY_SIGNAL
        how = f'was killed by signal {number}'
        with suppress(ValueError):
            how = f'was killed ({signal.Signals(number).name})'
    if shutil.disk_usage(run.folder).free < LITTLE_BYTES:
        how += f'; the disk of {run.folder} is full: make room'
    tail = _tail(run.log)
    return f'{how}; the end of {run.log}: {tail}' if tail else how


def _tail(log: Path) -> str:
    """The last line that says something."""
    with open(log, 'rb') as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors='replace').splitlines()
    said = [line.strip() for line in lines if line.strip()]
    text = said[-1][:TAIL_CHARS] if said else ''
    return ''.join(letter if letter.isprintable() else '?' for letter in text)
