"""A short-lived node that drives other nodes from the caller's own thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import math
import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import Trigger

from vla_alignment_ros.errors import ConfigError, SimulationError
from vla_alignment_ros.nodes.qos import reliable

SPIN_S = 0.1
PATIENCE_S = 120.0  # with a busy machine; a node that has ended is seen at once by `check`
ASK_AGAIN_S = 2.0
SETTLE_S = 0.2
STATUS_DEPTH = 100
_TRANSITIONS = {
    Transition.TRANSITION_CONFIGURE: 'configure',
    Transition.TRANSITION_ACTIVATE: 'activate',
    Transition.TRANSITION_DEACTIVATE: 'deactivate',
    Transition.TRANSITION_CLEANUP: 'clean up',
}


class Client:
    """Calls services and waits, in the ROS domain `domain_id` (None: the environment's).

    `check` is called while waiting and raises when waiting has become pointless. A node that
    does not answer within `timeout_s` is a `SimulationError`.
    """

    def __init__(
        self,
        name: str,
        domain_id: int | None,
        check: Callable[[], None],
        timeout_s: float = PATIENCE_S,
        namespace: str = '',
    ) -> None:
        self._check = check
        self._timeout_s = timeout_s
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain_id)
        self.node = Node(name, context=self._context, namespace=namespace)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._clients: dict[tuple[type, str], Any] = {}

    def close(self) -> None:
        """Leave the domain."""
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def spin_once(self) -> None:
        """Handle one message, if one comes soon."""
        self._executor.spin_once(timeout_sec=SPIN_S)

    def until(
        self, done: Callable[[], bool], what: str, timeout_s: float | None = None
    ) -> None:
        """Handle messages until `done()`; `what` is named when it takes too long."""
        limit_s = timeout_s or self._timeout_s
        deadline = time.monotonic() + limit_s
        while not done():
            self._check()
            if time.monotonic() > deadline:
                raise SimulationError(f'waited {limit_s:.0f} s for {what}')
            self.spin_once()

    def call(
        self, kind: type, service: str, request: Any, timeout_s: float | None = None
    ) -> Any:
        """Call a service once, waiting for it to appear and to answer."""
        future = self._client(kind, service, timeout_s).call_async(request)
        self.until(future.done, f'{service} to answer', timeout_s)
        return future.result()

    def ask(
        self, kind: type, service: str, request: Any, timeout_s: float | None = None
    ) -> Any:
        """Call a service that may be called twice, again and again until it answers.

        A server that has not discovered its client yet takes the request and throws the answer
        away ("client will not receive response"). That happens where nodes have just started.
        """
        client = self._client(kind, service, timeout_s)
        asked: list[Any] = []
        asked_s = -math.inf

        def answered() -> bool:
            nonlocal asked_s
            if any(future.done() for future in asked):
                return True
            if time.monotonic() - asked_s > ASK_AGAIN_S:
                asked_s = time.monotonic()
                asked.append(client.call_async(request))
            return False

        self.until(answered, f'{service} to answer', timeout_s)
        return next(future for future in asked if future.done()).result()

    def _client(self, kind: type, service: str, timeout_s: float | None) -> Any:
        client = self._clients.get((kind, service))
        is_new = client is None
        if is_new:
            client = self._clients[kind, service] = self.node.create_client(kind, service)
        self.until(client.service_is_ready, f'{service} to appear', timeout_s)
        if is_new:  # the server has to discover us too, and nothing says when it has: see `ask`
            threading.Event().wait(SETTLE_S)
        return client

    def trigger(self, service: str) -> str:
        """Call a Trigger; its message. `SimulationError` where it is refused."""
        answer = self.call(Trigger, service, Trigger.Request())
        if not answer.success:
            raise SimulationError(f'{service} was refused: {answer.message}')
        return answer.message

    def set_parameters(self, node: str, values: Mapping[str, Any]) -> None:
        """Set parameters of another node; `SimulationError` where one is refused."""
        parameters = [Parameter(name=k, value=_value(v)) for k, v in values.items()]
        request = SetParameters.Request(parameters=parameters)
        for result in self.ask(SetParameters, f'{node}/set_parameters', request).results:
            if not result.successful:
                raise SimulationError(f'{node} refused {dict(values)}: {result.reason}')

    def lifecycle_state(self, node: str, timeout_s: float | None = None) -> int:
        """A `lifecycle_msgs/State` id."""
        request = GetState.Request()
        return self.ask(GetState, f'{node}/get_state', request, timeout_s).current_state.id

    def transition(self, node: str, number: int, timeout_s: float | None = None) -> None:
        """Take a lifecycle node through one transition (`lifecycle_msgs/Transition` id)."""
        request = ChangeState.Request(transition=Transition(id=number))
        if not self.call(ChangeState, f'{node}/change_state', request, timeout_s).success:
            self._check()
            raise SimulationError(f'{node} could not {_TRANSITIONS.get(number, number)}')

    def configure(self, node: str, timeout_s: float) -> None:
        """Configure a lifecycle node that is not configured yet."""
        if self.lifecycle_state(node, timeout_s) == State.PRIMARY_STATE_UNCONFIGURED:
            self.transition(node, Transition.TRANSITION_CONFIGURE, timeout_s)

    def activate(self, node: str) -> None:
        """Activate a configured lifecycle node."""
        if self.lifecycle_state(node) != State.PRIMARY_STATE_ACTIVE:
            self.transition(node, Transition.TRANSITION_ACTIVATE)

    def deactivate(self, node: str) -> None:
        """Deactivate a lifecycle node that is active."""
        if self.lifecycle_state(node) == State.PRIMARY_STATE_ACTIVE:
            self.transition(node, Transition.TRANSITION_DEACTIVATE)

    def cleanup(self, node: str) -> None:
        """Let a lifecycle node that is inactive forget what it was configured with."""
        if self.lifecycle_state(node) == State.PRIMARY_STATE_INACTIVE:
            self.transition(node, Transition.TRANSITION_CLEANUP)

    def on_values(self, topic: str, callback: Callable[[dict[str, str]], None]) -> None:
        """Hand the key-values of every DiagnosticStatus on a topic to a callback."""

        def receive(message: DiagnosticStatus) -> None:
            callback({item.key: item.value for item in message.values})

        self.node.create_subscription(
            DiagnosticStatus, topic, receive, reliable(STATUS_DEPTH)
        )


def _value(value: Any) -> ParameterValue:
    if isinstance(value, bool):
        return ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=value)
    if isinstance(value, int):
        return ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=value)
    if isinstance(value, str):
        return ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value)
    if isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        kind = ParameterType.PARAMETER_STRING_ARRAY
        return ParameterValue(type=kind, string_array_value=list(value))
    raise ConfigError(f'cannot send {value!r} as a parameter')
