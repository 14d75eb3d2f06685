"""A process that behaves as a training does, or as it should not, without its minutes.

    python training_stand_in.py MODE -m MODULE --data LIST --out RUN …     as a launcher's words
    python training_stand_in.py judge[:REASON] CHECKPOINT … --out VERDICT  as the judge
"""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import threading

from vla_alignment_ros.training.progress import (
    CHECKPOINT_FOLDER,
    FINISHED,
    Progress,
    RUNNING,
    STATE_FILE,
    STOPPED,
    write_progress,
)
from vla_alignment_ros.training.verdict import Verdict

STEPS = 9
CHECKPOINT = 'STAND_IN_CHECKPOINT'  # in the environment: a folder that it says it trained


def words(mode: str) -> tuple[str, ...]:
    """How it is started."""
    return (sys.executable, __file__, mode)


def main(mode: str, arguments: list[str]) -> int:
    out = Path(arguments[arguments.index('--out') + 1])
    if mode.startswith('judge'):
        return judge(mode.partition(':')[2], arguments, out)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: mode == 'deaf' or stop.set())
    if mode == 'workers':  # as torchrun does: out of reach of a signal to the group
        again = [sys.executable, __file__, 'deaf', *arguments]
        worker = subprocess.Popen(again, start_new_session=True)
        leave(out / 'worker.pid', worker.pid)
    (out / 'arguments').write_text('\n'.join(arguments))
    write_progress(out, Progress(RUNNING, 4, STEPS, 0.5, 2.0))
    leave(out / f'{mode}.pid', os.getpid())
    if mode in ('wait', 'deaf', 'workers'):
        stop.wait()
    if mode == 'dies':
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == 'fails':
        print('Traceback (most recent call last):\n  …\nRuntimeError: no such \x1b[31mluck')
        return 1
    (out / STATE_FILE).write_bytes(b'')
    if CHECKPOINT in os.environ:
        shutil.copytree(os.environ[CHECKPOINT], out / CHECKPOINT_FOLDER)
    done = mode == 'done'
    write_progress(out, Progress(FINISHED, STEPS, STEPS) if done else Progress(STOPPED, 4, STEPS))
    return 0 if done else 130


def leave(path: Path, pid: int) -> None:
    temporary = path.with_suffix('.tmp')
    temporary.write_text(str(pid))
    temporary.replace(path)  # whoever waits for it finds it whole


def judge(reason: str, arguments: list[str], out: Path) -> int:
    against = arguments[arguments.index('--against') + 1] if '--against' in arguments else ''
    Verdict(not reason, reason or 'good', against, {'action_l1': 0.25}).save(out)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1], sys.argv[2:]))
