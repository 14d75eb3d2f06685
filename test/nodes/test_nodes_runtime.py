"""A node process ends with a code that tells the truth."""

from __future__ import annotations

import gc
import os
import signal

import pytest
import rclpy
from rclpy.node import Node

from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.nodes.runtime import ClosingError, run, Spinner, Worker


class Ticking(Node):
    """Calls something once from a timer."""

    def __init__(self, action) -> None:
        super().__init__('ticking')
        self.closed = False
        self.create_timer(0.01, action)

    def close(self) -> None:
        assert rclpy.ok()  # last words can still be said
        self.closed = True


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_the_node_and_the_code_is_zero(ros_domain, number):
    made = []

    def factory():
        made.append(Ticking(lambda: os.kill(os.getpid(), number)))
        return made[0]

    before = signal.getsignal(number)
    assert run(factory) == 0
    assert made[0].closed
    assert signal.getsignal(number) is before
    assert gc.get_freeze_count()  # the interpreter need not look through torch before it ends
    gc.unfreeze()


def test_an_error_in_a_callback_ends_the_process_with_one(ros_domain, capfd):
    def fail():
        raise RuntimeError('a bug')

    assert run(lambda: Ticking(fail)) == 1
    assert 'a bug' in capfd.readouterr().err


def test_what_the_user_can_mend_is_one_line_and_code_one(ros_domain, capfd):
    def factory():
        raise ConfigError('mend it')

    assert run(factory) == 1
    assert capfd.readouterr().err == 'error: mend it\n'


def test_a_spinner_that_has_nothing_to_do_closes_at_once(ros_domain):
    with rclpy.init():
        node = Node('idle')
        for _ in range(5):
            spinner = Spinner(node)
            spinner.close()
            assert spinner.error is None
        node.destroy_node()


def test_a_closed_worker_refuses_instead_of_raising_in_a_callback():
    worker = Worker('test')
    assert worker.submit(lambda: 3).result() == 3
    worker.close()
    assert isinstance(worker.submit(lambda: 3).exception(), ClosingError)
