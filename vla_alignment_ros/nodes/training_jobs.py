"""Training from ROS: `~/train`, `~/cancel_training`, `~/offer_checkpoint` and `~/progress`.

The training runs in processes of its own (`training.job`); what is trained, with what, and whom
its result is offered to is said by parameters alone. Nothing here waits in a callback.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node
from std_srvs.srv import Trigger

from vla_alignment_ros.errors import CheckpointError, ConfigError, VlaError
from vla_alignment_ros.nodes.diagnostics import ERROR, OK, status_message, WARN
from vla_alignment_ros.nodes.job_parameters import JobParameters
from vla_alignment_ros.nodes.offers import PolicyClient
from vla_alignment_ros.nodes.parameters import Parameters
from vla_alignment_ros.nodes.qos import advertise, latched
from vla_alignment_ros.nodes.runtime import off_executor, Worker
from vla_alignment_ros.nodes.training_parameters import TrainingParameters
from vla_alignment_ros.training.job import Demands, JobSupervisor, Means
from vla_alignment_ros.training.job_status import CANCELLED, FAILED, JobStatus, SUCCEEDED
from vla_alignment_ros.training.runs import new_run, newest_run, Run, Task

CURRENT = 'current'  # instead of a folder: the checkpoint that the policy node serves
CLOSE_S = 5.0  # that a training may take to save when the node ends


class TrainingJobs:
    """Gives a node the services and topics of training.

    Args:
        node: whose they are.
        recording: its other parameters: what it records, and where.
    """

    def __init__(self, node: Node, recording: TrainingParameters) -> None:
        self.settings = Parameters(node, JobParameters)
        self._node, self._recording = node, recording
        self._worker, self._canceller = Worker('training'), Worker('cancel')
        self._offering = False
        self._offer = ''  # what came of the newest one
        name = self.settings.current.offer_to
        self._policy = PolicyClient(node, name) if name else None
        self._runs = Path(self.settings.current.runs).expanduser()
        self.supervisor = JobSupervisor(self._runs, self._on_change)
        self._progress = advertise(
            node, '~/progress', 'diagnostic_msgs/msg/DiagnosticStatus', latched()
        )
        for service, worker, action in (
            ('~/train', self._worker, self._train),
            ('~/offer_checkpoint', self._worker, self._offer_now),
            ('~/cancel_training', self._canceller, self._cancel),
        ):
            node.create_service(Trigger, service, partial(self._serve, worker, action))
        self._publish()

    def close(self) -> None:
        """End what runs; what had to be said is said when this returns."""
        if self._policy is not None:
            self._policy.close()
        self.supervisor.close(CLOSE_S)
        self._canceller.close()
        self._worker.close()

    def diagnostic(self) -> DiagnosticStatus:
        """What is known of the job, for `~/progress` and `/diagnostics`."""
        status = self.supervisor.status
        level = {FAILED: ERROR, CANCELLED: WARN}.get(status.state, OK)
        name = f'{self._node.get_fully_qualified_name()}: training'
        values = {**status.key_values(), 'offer': self._offer}
        return status_message(name, level, str(status), values)

    # -- services -------------------------------------------------------------------------------

    async def _serve(
        self, worker: Worker, action: Callable[[], str], request: Any, response: Any
    ) -> Any:
        try:
            response.message = await off_executor(self._node, worker, action)
            response.success = True
        except VlaError as error:
            response.message = str(error)
            self._node.get_logger().error(response.message)
        return response

    def _train(self) -> str:
        self.supervisor.require_idle()
        chosen = self.settings.current
        means = Means(chosen.launcher, chosen.device, chosen.niceness, chosen.stop_s)
        run = newest_run(self._runs) if chosen.resume else None
        goes_on = run is not None and run.unfinished()
        if not goes_on:
            run = new_run(self._runs, self._task(chosen))
        self._offer = ''
        self.supervisor.train(run, means, self._demands(chosen, run))
        verb = 'goes on with' if goes_on else 'begins'
        return f'{verb} {run.folder}: {run.steps} steps, {run.episodes} episodes; log: {run.log}'

    def _cancel(self) -> str:
        self.supervisor.cancel()
        self.supervisor.wait()
        return str(self.supervisor.status)

    def _offer_now(self) -> str:
        """Offer what was trained. Raises VlaError, with the reason, where it is not taken."""
        self._offering = True
        try:
            self._offer = self._offered()
        except VlaError as error:
            self._offer = f'not taken: {error}'
            raise
        finally:
            self._offering = False
            self._publish()
        return self._offer

    def _offered(self) -> str:
        if self._policy is None:
            raise ConfigError('training.offer_to names no policy node')
        status = self.supervisor.status
        if status.checkpoint is None:
            raise CheckpointError(f'there is no checkpoint to offer: {status}')
        serves = self._policy.serving()
        known = (status.verdict.against, str(status.checkpoint))
        if serves and serves not in known:  # it was compared with another one
            chosen = self.settings.current
            means = Means(device=chosen.device, nice=chosen.niceness, patience_s=chosen.stop_s)
            self.supervisor.validate(status.run, means, self._demands(chosen, status.run))
            self.supervisor.wait()
            status = self.supervisor.status
            if status.checkpoint is None:
                raise CheckpointError(status.reason)
        return self._policy.offer(str(status.checkpoint))

    # -- what a job is made of ------------------------------------------------------------------

    def _task(self, chosen: JobParameters) -> Task:
        start = chosen.from_checkpoint
        if start == CURRENT:
            if self._policy is None:
                raise ConfigError(
                    f'training.from_checkpoint is {CURRENT!r}, but training.offer_to names no '
                    f'policy node that could say which one it serves'
                )
            start = self._policy.serving()
            if not start:
                raise ConfigError(f'{self._policy.name} has no checkpoint to begin with')
        if start:
            folder = Path(start).expanduser().resolve()
            if not folder.is_dir():
                raise CheckpointError(f'checkpoint folder not found: {folder}')
            start = str(folder)
        return Task(
            chosen.data or self._recording.folder,
            chosen.config,
            chosen.steps,
            chosen.seed,
            start,
            chosen.correction_weight,
            chosen.threads,
        )

    def _demands(self, chosen: JobParameters, run: Run) -> Demands:
        return Demands(
            self._recording.embodiment, chosen.tolerance, partial(self._to_be_replaced, run)
        )

    def _to_be_replaced(self, run: Run) -> str:
        """What the policy node serves now; else what the training began with."""
        served = ''
        try:
            served = self._policy.serving() if self._policy is not None else ''
        except ConfigError as error:
            self._node.get_logger().warning(f'{error}. Not compared with what it serves')
        return served or run.task.from_checkpoint

    # -- what is told ---------------------------------------------------------------------------

    def _on_change(self, status: JobStatus) -> None:
        """In the job's thread."""
        if not status.active:
            log = self._node.get_logger()
            (log.error if status.state == FAILED else log.info)(str(status))
        chosen = self.settings.current
        if status.state == SUCCEEDED and not self._offering and self._policy is not None:
            self._offer = 'waits for ~/offer_checkpoint'
            if chosen.auto_offer:
                self._offer = f'offered to {self._policy.name}'
                self._worker.submit(self._offer_now)
        self._publish()

    def _publish(self) -> None:
        self._progress.publish(self.diagnostic())
