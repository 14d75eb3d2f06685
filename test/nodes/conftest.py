"""Real nodes in this process, spinning in a thread, driven from the test's own thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
import threading
from typing import Any

from decision_bench import Bench, Steady
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
import pytest
import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from small_model import save_random_checkpoint
from std_srvs.srv import SetBool, Trigger

from vla_alignment_ros.nodes import decision_loop, interventions, outlet
from vla_alignment_ros.nodes.qos import advertise, message_class, reliable
from vla_alignment_ros.nodes.runtime import Spinner

PATIENCE_S = 30.0


class Inbox:
    """What came in on a topic, in order; waits for conditions instead of sleeping."""

    def __init__(self, name: str) -> None:
        self.messages: list[Any] = []
        self._name = name
        self._changed = threading.Condition()

    def take(self, message: Any) -> None:
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()

    def wait_for(
        self, condition: Callable[[list[Any]], Any], timeout_s: float = PATIENCE_S
    ) -> Any:
        """Wait until condition(messages) is true; its value."""
        with self._changed:
            value = self._changed.wait_for(lambda: condition(self.messages), timeout_s)
            assert value, f'{self._name}: {len(self.messages)} messages, not what was expected'
            return value


class Harness:
    """Nodes under test, and a client node that talks to them."""

    def __init__(self) -> None:
        self.client = Node('test_client')
        self.spinner = Spinner(self.client)
        self.nodes: list[Node] = []
        self._clients: dict[tuple[type, str], Any] = {}
        self._clients_lock = threading.Lock()

    def add(self, kind: Callable[..., Node], **parameters: Any) -> Any:
        """Make a node with these parameters and let it spin."""
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        node = kind(parameter_overrides=overrides)
        self.nodes.append(node)
        self.spinner.executor.add_node(node)
        return node

    def close(self) -> None:
        try:
            for node in self.nodes:
                getattr(node, 'close', lambda: None)()
        finally:
            self.spinner.close()
            for node in [*self.nodes, self.client]:
                node.destroy_node()
        assert self.spinner.error is None

    def call(self, kind: type, service: str, request: Any, timeout_s: float = PATIENCE_S) -> Any:
        with self._clients_lock:  # one per service: middleware remembers all that ever were
            client = self._clients.get((kind, service))
            if client is None:
                client = self.client.create_client(kind, service)
                self._clients[kind, service] = client
        assert client.wait_for_service(timeout_s), f'no service {service}'
        future = client.call_async(request)
        answered = threading.Event()
        future.add_done_callback(lambda done: answered.set())
        assert answered.wait(timeout_s), f'{service} did not answer'
        return future.result()

    def trigger(self, service: str) -> Any:
        return self.call(Trigger, service, Trigger.Request())

    def set_bool(self, service: str, value: bool) -> Any:
        return self.call(SetBool, service, SetBool.Request(data=value))

    def transition(self, node: str, name: str) -> bool:
        """'configure', 'activate', 'deactivate' or 'cleanup'; whether it succeeded."""
        number = getattr(Transition, f'TRANSITION_{name.upper()}')
        request = ChangeState.Request(transition=Transition(id=number))
        return self.call(ChangeState, f'{node}/change_state', request).success

    def state(self, node: str) -> str:
        return self.call(GetState, f'{node}/get_state', GetState.Request()).current_state.label

    def listen(
        self, topic: str, msgtype: str, qos: QoSProfile | None = None, raw: bool = True
    ) -> Inbox:
        inbox = Inbox(topic)
        self.client.create_subscription(
            message_class(msgtype), topic, inbox.take, qos or reliable(1000), raw=raw
        )
        return inbox

    def speak(self, topic: str, msgtype: str, qos: QoSProfile | None = None) -> Any:
        return advertise(self.client, topic, msgtype, qos or reliable())

    def until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait for what only the graph knows."""
        pause = threading.Event()  # never set
        for _ in range(int(PATIENCE_S * 100)):
            if condition():
                return
            pause.wait(0.01)
        raise AssertionError(f'waited {PATIENCE_S} s for {what}')

    def matched(self, publisher: Any, count: int = 1) -> None:
        """Wait until so many subscriptions receive from a publisher."""
        self.until(
            lambda: publisher.get_subscription_count() >= count,
            f'{count} subscriptions on {publisher.topic_name}',
        )


@pytest.fixture
def new_ros(ros_domain: int) -> Callable[[], AbstractContextManager[Harness]]:
    """Makes harnesses, one after the other, in a ROS domain of their own."""

    @contextmanager
    def make() -> Iterator[Harness]:
        with rclpy.init(domain_id=ros_domain):
            harness = Harness()
            try:
                yield harness
            finally:
                harness.close()

    return make


@pytest.fixture
def ros(new_ros: Callable[[], AbstractContextManager[Harness]]) -> Iterator[Harness]:
    """A harness in a ROS domain of its own."""
    with new_ros() as harness:
        yield harness


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real checkpoint, tiny and with random weights."""
    return save_random_checkpoint(tmp_path_factory.mktemp('checkpoint') / 'tiny', willing=True)


@pytest.fixture
def make_bench() -> Iterator[Callable[..., Bench]]:
    """Makes decision loops that end with the test."""
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        made.append(Bench(**settings))
        return made[-1]

    yield make
    for bench in made:
        bench.policy.free.set()
        bench.loop.close()


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> Steady:
    """The steady clock of decision loops, moved by the test alone."""
    clock = Steady()
    for module in (decision_loop, interventions, outlet):
        monkeypatch.setattr(module, 'time', clock)
    return clock
