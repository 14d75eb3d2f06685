"""Begins and ends episodes of a recorder for a person, without waiting for its answers."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

from vla_alignment_ros.control import pads

# what a person wants of an episode → service, its type and request
CALLS: dict[str, tuple[str, type, Any]] = {
    pads.START: ('start_episode', Trigger, Trigger.Request()),
    pads.SUCCESS: ('stop_episode', SetBool, SetBool.Request(data=True)),
    pads.FAILURE: ('stop_episode', SetBool, SetBool.Request(data=False)),
    pads.DISCARD: ('discard_episode', Trigger, Trigger.Request()),
}


class SayLike(Protocol):
    """Tells a person something."""

    def __call__(self, text: str, well: bool = True) -> None: ...


class EpisodeCalls:
    """Clients of one recorder's episode services; what they answer is said.

    Args:
        node: whose clients they are.
        recorder: name of the node that has the services.
        say: is told what became of each call, in any thread.
    """

    def __init__(self, node: Node, recorder: str, say: SayLike) -> None:
        self._say = say
        self._clients = {
            service: node.create_client(kind, f'{recorder}/{service}')
            for service, kind, _ in CALLS.values()
        }

    def ready(self) -> bool:
        """Whether all of the services are there."""
        return all(client.service_is_ready() for client in self._clients.values())

    def call(self, name: str) -> None:
        """Ask for one of `CALLS`."""
        service, _, request = CALLS[name]
        client = self._clients[service]
        if client.service_is_ready():
            client.call_async(request).add_done_callback(partial(self._on_answer, name))
        else:
            self._say(f'{name}: no {client.service_name}: is the recorder there?', well=False)

    def _on_answer(self, name: str, done: Any) -> None:
        answer = done.result()
        self._say(f'{name}: {answer.message}', answer.success)
