"""A node process ends with a code that tells the truth."""

from __future__ import annotations

import gc
import os
import signal
import threading

import pytest
import rclpy
from rclpy.node import Node
from std_srvs.srv import Trigger

from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.nodes.runtime import ClosingError, off_executor, run, Spinner, Worker


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


class Waiting(Node):
    """Answers from a worker, and counts how often its executor looks whether that is done."""

    def __init__(self, work) -> None:
        super().__init__('waiting')
        self.looks = 0
        self.worker = Worker('test')
        self._work = work
        self.create_service(Trigger, '~/go', self._serve)

    def __await__(self):
        future = off_executor(self, self.worker, self._work)
        while not future.done():
            self.looks += 1
            yield
        return future.result()

    async def _serve(self, request, response):
        response.message = await self
        return response


def test_who_awaits_a_worker_is_looked_at_when_something_happens_and_not_in_between(ros_domain):
    ticks = []
    enough = threading.Event()

    def tick():
        ticks.append(1)
        if len(ticks) == 20:
            enough.set()

    with rclpy.init():
        node, asking = Waiting(lambda: enough.wait(60.0) and 'done'), Node('asking')
        client = asking.create_client(Trigger, '/waiting/go')
        answered = threading.Event()
        with Spinner(node), Spinner(asking):
            assert client.wait_for_service(60.0)
            future = client.call_async(Trigger.Request())
            future.add_done_callback(lambda _: answered.set())
            node.create_timer(0.01, tick)
            assert answered.wait(60.0)
            assert future.result().message == 'done'
            assert node.looks <= len(ticks) + 10
        node.worker.close()
        node.destroy_node()
        asking.destroy_node()


def test_who_awaits_a_worker_is_answered_where_nothing_else_happens(ros_domain):
    with rclpy.init():
        node, asking = Waiting(lambda: 'done'), Node('asking')
        client = asking.create_client(Trigger, '/waiting/go')
        with Spinner(node), Spinner(asking):
            assert client.wait_for_service(60.0)
            for _ in range(100):
                answered = threading.Event()
                future = client.call_async(Trigger.Request())
                future.add_done_callback(lambda _, answered=answered: answered.set())
                assert answered.wait(60.0)
                assert future.result().message == 'done'
        node.worker.close()
        node.destroy_node()
        asking.destroy_node()
