"""What `acceptance` found, in a file for whoever asked. No torch in here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
import json
from pathlib import Path

from vla_alignment_ros.data.files import write_file
from vla_alignment_ros.errors import CheckpointError

VERDICT_FILE = 'verdict.json'


@dataclass(frozen=True)
class Verdict:
    """Whether a checkpoint may serve, and why."""

    accepted: bool
    reason: str
    against: str = ''  # the checkpoint it was compared with; '' none
    metrics: dict[str, float] = field(default_factory=dict)  # see `validate`
    metrics_against: dict[str, float] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it in one step."""
        write_file(path, (json.dumps(asdict(self), indent=1) + '\n').encode())

    @classmethod
    def load(cls, path: Path) -> Verdict:
        """Read it. Raises CheckpointError where there is none."""
        try:
            return cls(**json.loads(path.read_text(encoding='utf-8')))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f'there is no verdict in {path}: {error}') from error
