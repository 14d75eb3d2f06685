"""The base of the lifecycle nodes: it owns the transitions, the nodes fill in hooks.

Transitions run in a thread of their own: while weights load, the node answers state queries and
everything else. A hook that raises leaves nothing half done: what it had made is released, and
the reason is in the log and in `last_error`.
"""

from __future__ import annotations

from collections.abc import Callable
import traceback
from typing import Any

from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from vla_alignment_ros.errors import VlaError
from vla_alignment_ros.nodes.runtime import ClosingError, off_executor, Worker

SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE
ERROR = TransitionCallbackReturn.ERROR


class ManagedNode(LifecycleNode):
    """A lifecycle node with hooks: `configure`, `activate`, `deactivate`, `release`.

    Hooks are plain methods that raise when they cannot. A `VlaError` (something the user can
    mend) makes a transition fail; anything else is an error. `release` must be able to free what
    a half-done `configure` left.
    """

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.last_error = ''
        self._active = False
        self._transitions = Worker('transition')
        group = ReentrantCallbackGroup()
        for service in self.services:
            if service.srv_type is ChangeState:
                service.callback = self._off_executor(service.callback)
            if service.srv_type in (ChangeState, GetState):
                service.callback_group = group
                group.add_entity(service)

    # -- hooks ----------------------------------------------------------------------------------

    def configure(self) -> None:
        """Load and create everything."""

    def activate(self) -> None:
        """Begin to work."""

    def deactivate(self) -> None:
        """Stop working, in a safe state."""

    def release(self) -> None:
        """Free what `configure` made; may be called at any time, also twice."""

    def entered(self) -> None:
        """A transition has ended, well or not; called in its thread."""

    # -- for the process ------------------------------------------------------------------------

    @property
    def is_active(self) -> bool:
        """Whether the node is in the state 'active'."""
        return self._active

    def bring_up(self) -> bool:
        """Configure and activate without a lifecycle manager; whether it worked."""
        steps = (self.trigger_configure, self.trigger_activate)
        done = (self._transitions.submit(self._take, step).result() for step in steps)
        return all(result == SUCCESS for result in done)

    def close(self) -> None:
        """Deactivate safely and free everything, while publishing still works."""
        self._transitions.close()  # a transition under way ends first
        self._take(self._guard, 'shutdown', self._shut_down)

    # -- transitions ----------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Create everything, or nothing."""
        self.last_error = ''
        result = self._guard('configure', self.configure)
        if result is not SUCCESS:
            self._guard('release', self.release)
            return result
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let the publishers speak, then begin."""
        result = super().on_activate(state)
        if result is SUCCESS:
            result = self._guard('activate', self.activate)
        self._active = result is SUCCESS
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop first, then silence the publishers."""
        self._active = False
        result = self._guard('deactivate', self.deactivate)
        return super().on_deactivate(state) if result is SUCCESS else result

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything."""
        result = self._guard('cleanup', self.release)
        return super().on_cleanup(state) if result is SUCCESS else result

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free everything, from any state."""
        result = self._guard('shutdown', self._shut_down)
        return super().on_shutdown(state) if result is SUCCESS else result

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, so that the node can be configured again."""
        return self._guard('error recovery', self._shut_down)

    # -- inside ---------------------------------------------------------------------------------

    def _take(self, transition: Callable[..., Any], *args: Any) -> Any:
        result = transition(*args)
        self._guard('report', self.entered)
        return result

    def _shut_down(self) -> None:
        was_active, self._active = self._active, False
        try:
            if was_active:
                self.deactivate()
        finally:
            self.release()

    def _guard(self, name: str, hook: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            hook()
        except VlaError as error:
            self.last_error = str(error)
            self.get_logger().error(f'{name} failed: {error}')
            return FAILURE
        except Exception as error:  # noqa: BLE001 - rclpy would swallow it without a trace
            self.last_error = f'{type(error).__name__}: {error}'
            self.get_logger().error(f'{name} failed:\n{traceback.format_exc()}')
            return ERROR
        return SUCCESS

    def _off_executor(self, callback: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        async def change_state(request: Any, response: Any) -> Any:
            try:
                return await off_executor(
                    self, self._transitions, self._take, callback, request, response
                )
            except ClosingError:
                return response  # not successful

        return change_state
