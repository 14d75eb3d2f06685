"""Records demonstrations: every topic of the embodiment, raw, one bag per episode (lifecycle).

Services: `~/start_episode` (Trigger; the answer names the folder), `~/stop_episode` (SetBool, data
= success), `~/discard_episode` (Trigger). Publishes `~/status` (DiagnosticStatus) and
`/diagnostics`, with exact counts per topic. An instruction that came before an episode counts for
it. Deactivating finishes a running episode with success unknown. Training: see `training_jobs`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
import sys
import threading
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.subscription import Subscription
from std_srvs.srv import SetBool, Trigger

from vla_alignment_ros.data.recorder import EpisodeRecorder
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import BagError, ConfigError, VlaError
from vla_alignment_ros.nodes.diagnostics import ERROR, OK, status_message, StatusBoard, WARN
from vla_alignment_ros.nodes.lifecycle import ManagedNode
from vla_alignment_ros.nodes.parameters import Parameters
from vla_alignment_ros.nodes.qos import matching_publishers, subscribe_raw, topic_qos
from vla_alignment_ros.nodes.runtime import off_executor, run, Worker
from vla_alignment_ros.nodes.schemas import TrainingParameters
from vla_alignment_ros.nodes.training_jobs import TrainingJobs

RECORDER_DEPTH = 50  # messages per topic that DDS keeps while callbacks are late


class TrainingNode(ManagedNode):
    """Plumbing around an EpisodeRecorder."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('training_node', **kwargs)
        self.settings = Parameters(self, TrainingParameters)
        self._recorder: EpisodeRecorder | None = None
        self._inputs: dict[str, Subscription] = {}
        # transitions, services and the timer have a thread each: one at a time (un)subscribes or
        # begins an episode
        self._wiring = threading.Lock()
        self._worker = Worker('episode')
        self._jobs = TrainingJobs(self, self.settings.current)
        self._board = StatusBoard(self)
        self.create_service(Trigger, '~/start_episode', partial(self._serve, self._start))
        self.create_service(SetBool, '~/stop_episode', partial(self._serve, self._stop))
        self.create_service(Trigger, '~/discard_episode', partial(self._serve, self._discard))
        self.create_timer(
            self.settings.current.status_period_s,
            self._on_timer,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    def begin(self) -> None:
        """Come up by itself, where that is wanted."""
        if self.settings.current.autostart:
            self.bring_up()

    def close(self) -> None:
        """Finish what is being recorded and free everything."""
        self._worker.close()
        super().close()
        self._jobs.close()

    # -- lifecycle ------------------------------------------------------------------------------

    def configure(self) -> None:
        """Read the embodiment and start the writer's thread."""
        chosen = self.settings.current
        embodiment = Embodiment.load(chosen.embodiment)
        self._recorder = EpisodeRecorder(
            Path(chosen.folder).expanduser(),
            embodiment,
            storage=chosen.storage,
            compression='zstd' if chosen.zstd else None,
            queue_bytes=chosen.queue_bytes,
        )

    def activate(self) -> None:
        """Subscribe."""
        with self._wiring:
            for topic in self._recorder.embodiment.recorded_topics():
                self._subscribe(self._recorder.embodiment, topic)

    def deactivate(self) -> None:
        """Unsubscribe; a running episode is finished, nobody said whether it succeeded."""
        with self._wiring:
            self._unsubscribe()
            if self._recorder.recording:
                try:
                    self._recorder.stop(None, {}, self._now_ns())
                except BagError as error:
                    self.get_logger().error(f'the running episode is lost: {error}')

    def release(self) -> None:
        """End the writer's thread."""
        with self._wiring:
            self._unsubscribe()  # what an activation that failed half-way left
            recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.close()

    # -- messages -------------------------------------------------------------------------------

    def _unsubscribe(self) -> None:
        for subscription in self._inputs.values():
            self.destroy_subscription(subscription)
        self._inputs = {}

    def _subscribe(self, embodiment: Embodiment, topic: str) -> None:
        wanted = topic_qos(embodiment, topic, RECORDER_DEPTH)
        self._inputs[topic] = subscribe_raw(
            self,
            topic,
            embodiment.recorded_topics()[topic],
            partial(self._on_message, topic),
            matching_publishers(self, topic, wanted),
            overridable=False,  # it follows the publishers instead
        )

    def _on_message(self, topic: str, raw: bytes) -> None:
        recorder = self._recorder
        if recorder is not None:
            recorder.push(topic, raw, self._now_ns())

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    # -- services -------------------------------------------------------------------------------

    async def _serve(self, action: Callable[[Any], str], request: Any, response: Any) -> Any:
        """Answer a service from a worker: disks may take their time, callbacks may not."""
        try:
            response.message = await off_executor(self, self._worker, action, request)
            response.success = True
        except VlaError as error:
            response.message = str(error)
            self.get_logger().error(response.message)
        self._report()
        return response

    def _active_recorder(self) -> EpisodeRecorder:
        recorder = self._recorder
        if recorder is None or not self.is_active:
            raise ConfigError('training_node is not active: configure and activate it first')
        return recorder

    def _start(self, request: Trigger.Request) -> str:
        with self._wiring:
            return self._active_recorder().start(self._now_ns())

    def _stop(self, request: SetBool.Request) -> str:
        labels = dict(_label(text) for text in self.settings.current.labels)
        path = self._active_recorder().stop(bool(request.data), labels, self._now_ns())
        return str(path)

    def _discard(self, request: Trigger.Request) -> str:
        self._active_recorder().discard()
        return 'discarded'

    # -- status ---------------------------------------------------------------------------------

    def _on_timer(self) -> None:
        if self._wiring.acquire(blocking=False):  # else the next time: callbacks do not wait
            try:
                recorder = self._recorder
                if recorder is not None and self.is_active and not recorder.recording:
                    self._follow_publishers(recorder.embodiment)
            finally:
                self._wiring.release()
        self._report()

    def _follow_publishers(self, embodiment: Embodiment) -> None:
        """Between episodes: become reliable where every publisher is, so that nothing is lost."""
        for topic, subscription in list(self._inputs.items()):
            wanted = topic_qos(embodiment, topic, RECORDER_DEPTH)
            match = matching_publishers(self, topic, wanted)
            if match.reliability != subscription.qos_profile.reliability:
                self.destroy_subscription(subscription)
                self._subscribe(embodiment, topic)

    def _report(self) -> None:
        recorder, name = self._recorder, self.get_fully_qualified_name()
        if recorder is None:
            status = status_message(name, OK, self.last_error or 'not configured', {})
        else:
            counts = recorder.counts().values()
            dropped, broken = sum(c.dropped for c in counts), sum(c.broken for c in counts)
            level = ERROR if recorder.error else WARN if dropped or broken else OK
            flaws = [f'{dropped} messages dropped'] if dropped else []
            flaws += [f'{broken} broken instructions ignored'] if broken else []
            text = recorder.error or ', '.join(flaws) or 'ok'
            status = status_message(name, level, text, recorder.key_values())
        self._board.tell(status, self._jobs.diagnostic())


def _label(text: str) -> tuple[str, str]:
    key, mark, value = text.partition('=')
    if not mark or not key:
        raise ConfigError(f'labels are key=value, got {text!r}')
    return key, value


def main(args: list[str] | None = None) -> int:
    """Entry point."""
    return run(TrainingNode, args)


if __name__ == '__main__':
    sys.exit(main())
