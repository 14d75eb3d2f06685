"""What is known of a training job: while it runs, at its end, and when a node finds it again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vla_alignment_ros.errors import CheckpointError, ConfigError
from vla_alignment_ros.training import progress
from vla_alignment_ros.training.progress import CHECKPOINT_FOLDER, Progress, read_progress
from vla_alignment_ros.training.runs import newest_run, Run
from vla_alignment_ros.training.verdict import Verdict, VERDICT_FILE

IDLE, RUNNING, VALIDATING, SUCCEEDED, FAILED, CANCELLED = (
    'idle', 'running', 'validating', 'succeeded', 'failed', 'cancelled'
)  # fmt: skip
# how far a run came of which nobody knows the end
_ENDS = {
    progress.RUNNING: 'cut off',
    progress.STOPPED: 'stopped',
    progress.FINISHED: 'trained, but not judged',
}


@dataclass(frozen=True)
class JobStatus:
    """One look at the job that runs, or ran last."""

    state: str = IDLE
    run: Run | None = None
    progress: Progress = field(default_factory=Progress)
    reason: str = ''  # why it is in this state
    verdict: Verdict | None = None

    @property
    def active(self) -> bool:
        """Whether its processes run."""
        return self.state in (RUNNING, VALIDATING)

    @property
    def checkpoint(self) -> Path | None:
        """Folder of what may be offered."""
        if self.run is None or self.state != SUCCEEDED:
            return None
        return self.run.folder / CHECKPOINT_FOLDER

    def __str__(self) -> str:
        if self.run is None:
            return self.reason or 'nothing was trained yet'
        where = f'step {self.progress.step} of {self.progress.steps or self.run.steps}'
        because = f': {self.reason}' if self.reason else ''
        return f'{self.run.name} {self.state}, {where}{because}'

    def key_values(self) -> dict[str, str]:
        """Everything as text, for a diagnostic message."""
        run, now, verdict = self.run, self.progress, self.verdict
        values = {
            'state': self.state,
            'step': now.step,
            'steps': now.steps or (run.steps if run else 0),
            'loss': '' if now.loss is None else f'{now.loss:.6g}',
            'steps_per_s': f'{now.steps_per_s:.4g}',
            'eta_s': '' if now.eta_s is None else f'{now.eta_s:.0f}',
            'run_folder': run.folder if run else '',
            'log_file': run.log if run else '',
            'episodes': run.episodes if run else 0,
            'reason': self.reason,
            'checkpoint': self.checkpoint or '',
            'compared_with': verdict.against if verdict else '',
        }
        for title, metrics in (
            ('held-out', verdict.metrics if verdict else {}),
            ('compared', verdict.metrics_against if verdict else {}),
        ):
            values |= {f'{title} {name}': f'{value:.4g}' for name, value in metrics.items()}
        return {key: str(value) for key, value in values.items()}


def found_again(root: Path) -> JobStatus:
    """What the newest run in a folder of runs came to, as its files say: nobody watches it now."""
    try:
        run = newest_run(root)
    except ConfigError as error:
        return JobStatus(FAILED, reason=str(error))
    if run is None:
        return JobStatus()
    last = read_progress(run.folder) or Progress(steps=run.steps)
    if (run.folder / VERDICT_FILE).is_file():
        try:
            verdict = Verdict.load(run.folder / VERDICT_FILE)
        except CheckpointError as error:
            return JobStatus(FAILED, run, last, str(error))
        state = SUCCEEDED if verdict.accepted else FAILED
        return JobStatus(state, run, last, verdict.reason, verdict)
    if last.state == progress.FAILED:
        return JobStatus(FAILED, run, last, last.error)
    goes_on = '; what was saved can be gone on with' if run.unfinished() else ''
    return JobStatus(CANCELLED, run, last, _ENDS[last.state] + goes_on)
