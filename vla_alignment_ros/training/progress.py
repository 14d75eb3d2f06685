"""How far a training run is, in a small file that other processes may read at any time.

No torch in here, nor in what it imports: a node that only watches a run has no use for it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
import json
import os
from pathlib import Path

from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.fields import build, is_number

# in the folder of a run
PROGRESS_FILE, STATE_FILE, CHECKPOINT_FOLDER = 'progress.json', 'state.safetensors', 'checkpoint'
# of a run: its steps go on; it was stopped and saved; its checkpoint is there; it could not go on
RUNNING, STOPPED, FINISHED, FAILED = STATES = ('running', 'stopped', 'finished', 'failed')


@dataclass(frozen=True)
class Progress:
    """One look at a run."""

    state: str = RUNNING
    step: int = 0  # steps done
    steps: int = 0  # steps in all
    loss: float | None = None  # of a step not long ago
    steps_per_s: float = 0.0  # since it was started or resumed
    error: str = ''  # why it failed

    def __post_init__(self) -> None:
        numbers = (self.step, self.steps, self.steps_per_s, self.loss or 0.0)
        if self.state not in STATES or not all(map(is_number, numbers)):
            raise ConfigError(f'no progress of a run: {self}')

    @property
    def eta_s(self) -> float | None:
        """Seconds until the last step, at this speed; None where it is not known yet."""
        return (self.steps - self.step) / self.steps_per_s if self.steps_per_s > 0 else None


def write_progress(run: Path, progress: Progress) -> None:
    """Replace the run's file in one step: a reader sees the old one or the new one, whole."""
    temporary = run / f'.{PROGRESS_FILE}.{os.getpid()}'
    try:
        temporary.write_text(json.dumps(asdict(progress)) + '\n', encoding='utf-8')
        os.replace(temporary, run / PROGRESS_FILE)
    finally:
        temporary.unlink(missing_ok=True)


def read_progress(run: Path) -> Progress | None:
    """What a run last said of itself; None where it has said nothing yet, or nothing sensible."""
    try:
        data = json.loads((run / PROGRESS_FILE).read_text(encoding='utf-8'))
        return build(Progress, data, PROGRESS_FILE, ConfigError, lambda field, value: value)
    except (OSError, ValueError, ConfigError):
        return None
