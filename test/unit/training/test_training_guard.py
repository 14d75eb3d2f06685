"""What runs under guard ends with its owner, and nothing of it is left behind."""

from contextlib import suppress
import os
from pathlib import Path
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from vla_alignment_ros.training.guard import guarded

PATIENCE_S = 120.0
# a child says its own process id, and that of a worker in a session of its own
WORKER = """
import subprocess, sys
print(subprocess.Popen([sys.executable, '-c', WAIT], start_new_session=True).pid, flush=True)
"""
WAIT = 'import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); signal.pause()'
DEAFEN = 'import signal; [signal.signal(number, signal.SIG_IGN) for number in (2, 15)]'
DEAF = f'{DEAFEN}; signal.pause()'


def python(code, **names):
    given = ''.join(f'{name} = {value!r}\n' for name, value in names.items())
    return [sys.executable, '-c', given + textwrap.dedent(code)]


@pytest.fixture
def start():
    """Starts commands under guard; none of it outlives the test."""
    started = []

    def run(command, nice=0, patience_s=PATIENCE_S):
        owner = subprocess.Popen(
            guarded(command, nice, patience_s), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        started.append(owner)
        return owner

    yield run
    for guard in started:
        with suppress(BrokenPipeError):
            if not guard.stdin.closed:
                guard.stdin.write('0\n')
                guard.stdin.close()
        guard.wait(PATIENCE_S)
        guard.stdout.close()


def pid(guard):
    return int(guard.stdout.readline())


def let_go(guard, patience_s=None):
    if patience_s is not None:
        guard.stdin.write(f'{patience_s}\n')
    guard.stdin.close()
    return guard.wait(PATIENCE_S)


def alive(number):
    with suppress(OSError):
        return Path(f'/proc/{number}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    return False


def wait_until_gone(*numbers):
    deadline = time.monotonic() + PATIENCE_S
    while any(map(alive, numbers)):
        assert time.monotonic() < deadline, f'{[n for n in numbers if alive(n)]} live on'
        time.sleep(0.01)


@pytest.mark.parametrize(
    ('code', 'expected'),
    [
        ('raise SystemExit(0)', 0),
        ('raise SystemExit(3)', 3),
        ('import os; os.kill(os.getpid(), 9)', 128 + 9),
    ],
)
def test_the_exit_code_is_the_commands(start, code, expected):
    assert start(python(code)).wait(PATIENCE_S) == expected


def test_a_command_that_is_not_there_is_named(start):
    guard = start(['no_such_launcher', '-m', 'x'])
    assert guard.wait(PATIENCE_S) == 127
    assert 'cannot start no_such_launcher' in guard.stdout.read()


def test_it_yields_to_other_processes(start):
    guard = start(python('import os; print(os.nice(0))'), nice=7)
    assert pid(guard) == min(19, os.nice(0) + 7)


def test_letting_go_of_it_is_a_ctrl_c_that_it_has_time_for(start):
    guard = start(python("""
        import os, time
        try:
            print(os.getpid(), flush=True)
            time.sleep(1000)
        except KeyboardInterrupt:
            print('saved', flush=True)
            raise SystemExit(130)
    """))
    child = pid(guard)
    assert let_go(guard) == 130
    assert guard.stdout.read() == 'saved\n'
    assert not alive(child)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_the_same_as_letting_go(start, number):
    guard = start(python('print(0, flush=True)\nimport time; time.sleep(1000)'))
    pid(guard)
    guard.send_signal(number)
    assert guard.wait(PATIENCE_S) == 128 + signal.SIGINT


def test_what_does_not_listen_is_killed_with_all_that_it_started(start):
    deaf = f'{DEAFEN}; print(0, flush=True); signal.pause()'  # before it says that it is there
    guard = start(python(WORKER + deaf, WAIT=DEAF))
    worker = pid(guard)
    pid(guard)
    assert let_go(guard, patience_s=0.1) == 128 + signal.SIGKILL
    assert not Path(f'/proc/{worker}').exists()  # gone, and no zombie


def test_workers_of_a_launcher_that_dies_do_not_live_on(start):
    code = WORKER + 'import os; os.kill(os.getpid(), 9)'
    guard = start(python(code, WAIT=WAIT))
    worker = pid(guard)
    assert guard.wait(PATIENCE_S) == 128 + signal.SIGKILL
    assert not Path(f'/proc/{worker}').exists()


def test_the_end_of_the_owner_is_the_end_of_all(tmp_path):
    command = guarded(python(WORKER + WAIT, WAIT=WAIT), 0, 0.1)
    owner = subprocess.Popen(
        python("""
            import subprocess, sys, time
            guard = subprocess.Popen(COMMAND, stdin=subprocess.PIPE)
            print(guard.pid, flush=True)
            time.sleep(1000)
        """, COMMAND=command),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with owner:
        found = {int(owner.stdout.readline()), int(owner.stdout.readline())}
        owner.kill()
        wait_until_gone(*found)


def test_a_guard_that_is_killed_takes_the_command_along(start):
    guard = start(python('import os, time; print(os.getpid(), flush=True); time.sleep(1000)'))
    child = pid(guard)
    guard.kill()
    wait_until_gone(child)
