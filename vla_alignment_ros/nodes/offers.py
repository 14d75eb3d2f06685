"""The policy node that checkpoints are offered to: what it serves, and whether it takes one.

Calls block, and are made from worker threads; closing ends those that wait.
"""

from __future__ import annotations

import math
import threading
import time
from typing import Any

from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.client import Client
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger

from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.nodes.client import ASK_AGAIN_S
from vla_alignment_ros.nodes.runtime import ClosingError

CHECKPOINT = 'checkpoint'  # its parameter, see `reloads`, which would bring torch along
THERE_S = 5.0  # a node that is there has been discovered by then
ANSWER_S = 10.0
LOADED_S = 300.0  # a large checkpoint on a busy machine
LOOK_S = 0.05  # between two looks for a service


class PolicyClient:
    """Asks one policy node.

    Args:
        node: that asks.
        name: of the policy node, as `node` resolves it.
    """

    def __init__(self, node: Node, name: str) -> None:
        self.name = name
        self._closing = threading.Event()
        self._waiting: set[threading.Event] = set()
        group = ReentrantCallbackGroup()  # answers come while another callback waits
        kinds = {
            'get_parameters': GetParameters, 'set_parameters': SetParameters, 'reload': Trigger,
        }  # fmt: skip
        self._clients = {
            service: node.create_client(kind, f'{name}/{service}', callback_group=group)
            for service, kind in kinds.items()
        }

    def close(self) -> None:
        """End what waits for an answer, with a ClosingError."""
        self._closing.set()
        for event in list(self._waiting):
            event.set()

    def serving(self) -> str:
        """The folder that its parameter `checkpoint` names; '' for none.

        Raises:
            ConfigError: it does not answer.
        """
        request = GetParameters.Request(names=[CHECKPOINT])
        # the answer is lost where the two nodes have not discovered each other in full
        values = self._call('get_parameters', request, ANSWER_S, ASK_AGAIN_S).values
        return values[0].string_value if values else ''

    def offer(self, folder: str) -> str:
        """Have it serve a checkpoint from its next decision on; what it says to that.

        Raises:
            ConfigError: it refuses, and goes on with the one before; or does not answer.
        """
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=folder)
        request = SetParameters.Request(parameters=[Parameter(name=CHECKPOINT, value=value)])
        result = self._call('set_parameters', request, LOADED_S).results[0]
        if not result.successful:
            raise ConfigError(f'{self.name} refuses it: {result.reason}')
        # a parameter that is set does not say whether the exchange came about; this does
        answer = self._call('reload', Trigger.Request(), LOADED_S)
        if not answer.success:
            raise ConfigError(f'{self.name} was told, but does not serve it: {answer.message}')
        return f'{self.name} serves {answer.message}'

    def _call(
        self, service: str, request: Any, timeout_s: float, again_s: float = math.inf
    ) -> Any:
        """Call a service; again and again where `again_s` says that it may be called twice."""
        client = self._clients[service]
        self._await_service(client)
        answered = threading.Event()
        self._waiting.add(answered)
        asked: list[Future] = []
        deadline_s = time.monotonic() + timeout_s
        try:
            while not self._closing.is_set() and (left_s := deadline_s - time.monotonic()) > 0:
                asked.append(client.call_async(request))
                asked[-1].add_done_callback(lambda done: answered.set())
                answered.wait(min(again_s, left_s))
                for future in asked:
                    if future.done():
                        return future.result()
        finally:
            self._waiting.discard(answered)
            for future in asked:
                client.remove_pending_request(future)
        if self._closing.is_set():
            raise ClosingError('the node is ending')
        raise ConfigError(f'{self.name} does not answer {client.srv_name}')

    def _await_service(self, client: Client) -> None:
        deadline_s = time.monotonic() + THERE_S
        while not client.service_is_ready():
            if self._closing.wait(LOOK_S):
                raise ClosingError('the node is ending')
            if time.monotonic() > deadline_s:
                raise ConfigError(f'{client.srv_name} is not there: does {self.name} run?')
