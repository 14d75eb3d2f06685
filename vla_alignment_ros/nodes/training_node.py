"""Records demonstrations: every topic of the embodiment, raw, one bag per episode (lifecycle).

Services: `~/start_episode` (Trigger; the answer names the folder), `~/stop_episode` (SetBool, data
= success), `~/discard_episode` (Trigger), `~/save_last` (Trigger: the last `keep_last_s` as a
bag). With `auto.enabled` the robot's motion begins and ends episodes. Publishes `~/status`
(DiagnosticStatus) and `/diagnostics`, with exact counts per topic. An instruction that came before
an episode counts for it. Deactivating finishes a running episode with success unknown. Training:
see `training_jobs`.
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

from vla_alignment_ros import wire
from vla_alignment_ros.data.recorder import EpisodeRecorder, RecorderOptions
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import BagError, ConfigError, VlaError
from vla_alignment_ros.nodes.diagnostics import StatusBoard
from vla_alignment_ros.nodes.episode_control import EpisodeControl, parse_notes, STATUS
from vla_alignment_ros.nodes.lifecycle import ManagedNode
from vla_alignment_ros.nodes.parameters import Parameters
from vla_alignment_ros.nodes.qos import latched, subscribe_raw
from vla_alignment_ros.nodes.recorder_inputs import RecorderInputs
from vla_alignment_ros.nodes.recorder_status import recorder_status
from vla_alignment_ros.nodes.runtime import off_executor, run
from vla_alignment_ros.nodes.training_jobs import TrainingJobs
from vla_alignment_ros.nodes.training_parameters import TrainingParameters


class TrainingNode(ManagedNode):
    """Plumbing around an EpisodeRecorder."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('training_node', **kwargs)
        self.settings = Parameters(self, TrainingParameters, _approve, self._changed)
        self._recorder: EpisodeRecorder | None = None
        self._inputs: RecorderInputs | None = None
        self._policy: Subscription | None = None
        # transitions, services and the timer have a thread each: one at a time (un)subscribes or
        # begins an episode
        self._wiring = threading.Lock()
        self._control = EpisodeControl(
            self._active_recorder,
            lambda: self.settings.current,
            self._now_ns,
            self._wiring,
            self.get_logger().info,
        )
        self._jobs = TrainingJobs(self, self.settings.current)
        self._board = StatusBoard(self)
        control = self._control
        for name, kind, action in (
            ('start_episode', Trigger, lambda request: control.start()),
            ('stop_episode', SetBool, lambda request: control.stop(bool(request.data))),
            ('discard_episode', Trigger, lambda request: control.discard()),
            ('save_last', Trigger, lambda request: control.save_last()),
        ):
            self.create_service(kind, f'~/{name}', partial(self._serve, action))
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
        self._control.worker.close()
        super().close()
        self._jobs.close()

    # -- lifecycle ------------------------------------------------------------------------------

    def configure(self) -> None:
        """Read the embodiment, start the writer's thread, and look for what was cut off."""
        chosen = self.settings.current
        embodiment = Embodiment.load(chosen.embodiment)
        parse_notes(chosen.notes)
        options = RecorderOptions(
            storage=chosen.storage,
            compression='zstd' if chosen.zstd else None,
            queue_bytes=chosen.queue_bytes,
            split_bytes=chosen.split_bytes,
            min_free_bytes=chosen.min_free_bytes,
            keep_last_s=chosen.keep_last_s,
            keep_last_bytes=chosen.keep_last_bytes,
            lead_s=chosen.auto_lead_s if chosen.auto_enabled else 0.0,
        )
        folder = Path(chosen.folder).expanduser()
        self._inputs = RecorderInputs(self, embodiment, self._on_message)
        self._recorder = EpisodeRecorder(folder, embodiment, options, self._inputs.offered)
        if left := self._recorder.disk.unfinished:
            names = ', '.join(path.name for path in left)
            self.get_logger().warning(
                f'{len(left)} recordings were cut off ({names}): `vla_bag recover {folder}` makes '
                'bags of them'
            )

    def activate(self) -> None:
        """Subscribe."""
        chosen = self.settings.current
        with self._wiring:
            self._inputs.open()
            if chosen.policy_node:
                topic = f'{chosen.policy_node}/status'
                self._policy = subscribe_raw(
                    self, topic, STATUS, self._on_policy_status, latched()
                )
        self._say(chosen.instruction)

    def deactivate(self) -> None:
        """Unsubscribe; a running episode is finished, nobody said whether it succeeded."""
        with self._wiring:
            self._unsubscribe()
            if self._recorder.recording:
                try:
                    notes = parse_notes(self.settings.current.notes)
                    self._recorder.stop(None, notes, self._now_ns())
                except BagError as error:
                    self.get_logger().error(str(error))

    def release(self) -> None:
        """End the writer's thread."""
        with self._wiring:
            self._unsubscribe()  # what an activation that failed half-way left
            recorder, self._recorder, self._inputs = self._recorder, None, None
        if recorder is not None:
            recorder.close()

    def _unsubscribe(self) -> None:
        if self._inputs is not None:
            self._inputs.close()
        if self._policy is not None:
            self.destroy_subscription(self._policy)
            self._policy = None

    # -- messages and parameters ----------------------------------------------------------------

    def _on_message(self, topic: str, raw: bytes) -> None:
        recorder = self._recorder
        if recorder is not None:
            recorder.push(topic, raw)
            if topic == recorder.embodiment.joint_states_topic:
                self._control.on_joints(recorder, raw)

    def _on_policy_status(self, raw: bytes) -> None:
        recorder = self._recorder
        if recorder is not None:
            self._control.on_policy_status(recorder, raw)

    def _changed(self, values: TrainingParameters, names: set[str]) -> None:
        if 'instruction' in names and self.is_active:
            self._say(values.instruction)

    def _say(self, instruction: str) -> None:
        if instruction:
            topic = self._recorder.embodiment.instruction_topic
            self._on_message(topic, wire.encode_string(instruction))

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    # -- services -------------------------------------------------------------------------------

    async def _serve(self, action: Callable[[Any], str], request: Any, response: Any) -> Any:
        """Answer a service from a worker: disks may take their time, callbacks may not."""
        try:
            response.message = await off_executor(self, self._control.worker, action, request)
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

    # -- status ---------------------------------------------------------------------------------

    def _on_timer(self) -> None:
        if self._wiring.acquire(blocking=False):  # else the next time: callbacks do not wait
            try:
                recorder = self._recorder
                if recorder is not None and self.is_active and not recorder.recording:
                    self._inputs.follow()
            finally:
                self._wiring.release()
        recorder = self._recorder
        if recorder is not None and self.is_active:
            self._control.on_timer(recorder)
        self._report()

    def _report(self) -> None:
        recorder, inputs = self._recorder, self._inputs
        misfits = inputs.misfits() if inputs is not None else []
        name = self.get_fully_qualified_name()
        status = recorder_status(name, recorder, misfits, self.last_error)
        self._board.tell(status, self._jobs.diagnostic())


def _approve(values: TrainingParameters, names: set[str]) -> None:
    parse_notes(values.notes)


def main(args: list[str] | None = None) -> int:
    """Entry point."""
    return run(TrainingNode, args)


if __name__ == '__main__':
    sys.exit(main())
