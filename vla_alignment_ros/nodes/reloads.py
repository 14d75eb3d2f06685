"""Another checkpoint while the node serves: `~/reload`, and the parameter `checkpoint`.

Loading takes seconds, so it has a thread of its own; requests are taken one after the other. What
cannot take over is refused with the reason, and the model before it goes on serving.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
import threading
from typing import Any

from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode
from std_srvs.srv import Trigger

from vla_alignment_ros.errors import ConfigError, VlaError
from vla_alignment_ros.nodes.diagnostics import Causes
from vla_alignment_ros.nodes.models import Model
from vla_alignment_ros.nodes.runtime import ClosingError, off_executor, Worker
from vla_alignment_ros.nodes.schemas import PolicyParameters
from vla_alignment_ros.nodes.serving import Serving

CHECKPOINT = 'checkpoint'
Outcome = tuple[Serving, Model] | VlaError


class Reloads:
    """Gives a node the service `~/reload`, and its parameter `checkpoint` an effect.

    Args:
        node: whose service and parameter it is.
        serving: what is served now, None before `configure`.
        told: is called after every exchange and every refusal.
    """

    def __init__(
        self,
        node: LifecycleNode,
        serving: Callable[[], Serving | None],
        told: Callable[[], object],
    ) -> None:
        self.causes = Causes()  # refusals
        self.loading = False  # set while `configure` reads the parameter
        self._node, self._serving, self._told = node, serving, told
        self._worker = Worker('reload')
        # folder → what came of loading it, while the parameter is being set
        self._outcomes: dict[str, Outcome] = {}
        self._setting = threading.Lock()
        group = ReentrantCallbackGroup()  # who waits for a model blocks nobody
        node.create_service(Trigger, '~/reload', self._on_reload, callback_group=group)
        for service in node.services:
            if service.srv_type in (SetParameters, SetParametersAtomically):
                service.callback = self._loading_first(service.callback)
                service.callback_group = group
                group.add_entity(service)

    def close(self) -> None:
        """Finish what is loading, then take no more."""
        self._worker.close()

    # -- the parameter --------------------------------------------------------------------------

    def approve(self, values: PolicyParameters, names: set[str]) -> None:
        """Refuse a `checkpoint` that cannot serve. Raises VlaError.

        Requests over ROS were loaded before they come here; other callers wait for it.
        """
        if CHECKPOINT not in names:
            return
        if self.loading:
            raise ConfigError('a checkpoint is being loaded: try again when the node has it')
        if self._serving() is None:  # what is configured next
            return
        folder = values.checkpoint
        outcome = self._outcomes.get(folder) or self._outcome(folder)
        if isinstance(outcome, VlaError):
            raise outcome
        self._outcomes[folder] = outcome

    def changed(self, values: PolicyParameters, names: set[str]) -> None:
        """Exchange the model for the one that was approved, off this thread."""
        outcome = self._outcomes.pop(values.checkpoint, None) if CHECKPOINT in names else None
        if outcome is not None:
            self._worker.submit(self._take_over, *outcome)

    def _loading_first(self, callback: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        async def set_parameters(request: Any, response: Any) -> Any:
            asked = [p.value.string_value for p in request.parameters if p.name == CHECKPOINT]
            if not asked or self._serving() is None:
                return callback(request, response)
            try:
                outcomes = {f: await self._off_executor(self._outcome, f) for f in asked}
                with self._setting:
                    self._outcomes = outcomes
                    response = callback(request, response)
                    self._outcomes = {}
                await self._off_executor(lambda: None)  # by now the exchange is made
            except ClosingError as error:
                self._node.get_logger().error(str(error))
            return response

        return set_parameters

    def _outcome(self, folder: str) -> Outcome:
        try:
            return self._load(folder)
        except VlaError as error:
            return error

    def _take_over(self, serving: Serving, model: Model) -> None:
        with suppress(VlaError):  # it was counted and logged
            self._exchange(serving, model)

    # -- the service ----------------------------------------------------------------------------

    async def _on_reload(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        try:
            response.message = await self._off_executor(self._reload)
            response.success = True
        except VlaError as error:
            response.message = str(error)
        return response

    def _reload(self) -> str:
        serving, model = self._load(self._node.get_parameter(CHECKPOINT).value)
        self._exchange(serving, model)
        return str(model)

    # -- both -----------------------------------------------------------------------------------

    def _load(self, folder: str) -> tuple[Serving, Model]:
        serving = self._serving()
        try:
            if serving is None:
                raise ConfigError('nothing is served yet: configure the node first')
            return serving, serving.load(folder)
        except VlaError as error:
            self._refuse(error)
            raise

    def _exchange(self, serving: Serving, model: Model) -> None:
        try:
            serving.exchange(model)
        except VlaError as error:
            self._refuse(error)
            raise
        self._node.get_logger().info(f'now serving {model}')
        self._told()

    def _refuse(self, error: VlaError) -> None:
        self.causes.add(type(error).__name__)
        self._node.get_logger().error(f'checkpoint refused: {error}')
        self._told()

    def _off_executor(self, function: Callable[..., Any], *args: Any) -> Any:
        return off_executor(self._node, self._worker, function, *args)
