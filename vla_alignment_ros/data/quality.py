"""What can be wrong with a recorded episode, and how it is said: findings, limits, kinds.

`quality_episode` finds what one episode shows, `quality_folder` what shows only beside the others;
what a model says is found in `evaluation.label_check`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
import math
from pathlib import Path
from typing import Any

from vla_alignment_ros.data.activity import Stillness
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ConfigError


class Severity(IntEnum):
    """How bad a finding is: INFO is worth knowing, ERROR is worth leaving the episode out."""

    INFO = 0
    WARNING = 1
    ERROR = 2


# kind -> what it is, and what to do about it
KINDS: dict[str, tuple[str, str]] = {
    'damaged': (
        'Damaged or unfinished',
        '`vla_bag recover` saves what can still be read; else record it again',
    ),
    'topic': (
        'A topic is missing or of another type',
        'record again with every topic of the embodiment, or correct the embodiment',
    ),
    'sample': (
        'Moments without a training sample',
        'see which source is late or missing; raise its max_age_s only if it is meant to be old',
    ),
    'message': ('Messages that cannot be read', 'mend the publisher and record again'),
    'rate': (
        'Uneven or slow topics, gaps',
        'check the bandwidth, exposure and load of the machine that publishes',
    ),
    'stamp': (
        'Stamps that do not fit the time of arrival',
        'synchronise the clocks (chrony, ptp); let drivers stamp when they measure',
    ),
    'image': ('Frozen, black, white or empty pictures', 'check camera, cable, exposure and lid'),
    'action': (
        'Commands that jump or leave the limits',
        'look at the teleoperation device and its filter, or correct the limits',
    ),
    'clipping': (
        'Commands at the limit of the embodiment',
        'move more slowly, or raise the limit if the robot can do it',
    ),
    'idle': ('Idle parts', '`vla_bag trim` cuts them at both ends; pauses inside stay'),
    'short': ('Too short', 'record again: there is less than one chunk of actions in it'),
    'duplicate': ('The same recording twice', '`vla_bag merge` leaves copies out'),
    'instruction': (
        'No instruction, or one that contradicts itself',
        '`vla_bag relabel` says what the episode shows',
    ),
    'label': (
        'Words that do not fit what was done',
        'look at it (`vla_bag play-sheet`), then `vla_bag relabel`',
    ),
    'outlier': ('Unlike the others', 'look at it; keep it if it is a good demonstration'),
    'failed': ('Marked as failed', 'training leaves it out by itself'),
    'unscored': (
        'Not, or hardly, judged by the model',
        'it takes a checkpoint of this robot, words that it was told, and pictures',
    ),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with an episode."""

    kind: str  # of KINDS
    severity: Severity
    text: str  # what, with numbers
    at_s: float | None = None  # when it begins, from the first stamp of the episode
    suggestion: str | None = None  # an instruction that fits better

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f'unknown kind of finding {self.kind!r}')

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON; what is not known is left out."""
        found: dict[str, Any] = {
            'kind': self.kind, 'severity': self.severity.name.lower(), 'text': self.text,
        }  # fmt: skip
        if self.at_s is not None:
            found['at_s'] = round(self.at_s, 3)
        if self.suggestion is not None:
            found['suggestion'] = self.suggestion
        return found


@dataclass(frozen=True)
class Limits:
    """What is still fine. Anything beyond is found."""

    least_s: float = 1.0
    """An episode is at least this long, seconds."""
    least_samples: int = 8
    """It has at least this many training samples: a chunk of actions."""
    dropped_share: float = 0.02
    """Share of the control ticks that may go without a sample; ten times as many are an error."""
    rate_share: float = 0.25
    """A topic may be slower than the control rate by this share."""
    jitter_share: float = 0.5
    """19 of 20 intervals of a topic differ from its median by at most this share."""
    gap_periods: float = 3.0
    """A longer silence of a topic than this many of its periods is a gap."""
    late_s: float = 0.2
    """Messages arrive at most this long after their stamp, and that delay is steady as much."""
    ahead_s: float = 0.05
    """A stamp lies at most this far after the arrival."""
    age_periods: float = 1.5
    """A source is at most this many control periods old at a typical tick."""
    frozen_s: float = 0.5
    """A camera may repeat a picture for this long while the robot moves."""
    blank_share: float = 0.02
    """Share of a camera's pictures that may show nothing; ten times as many are an error."""
    jump_share: float = 0.5
    """Share of its range that a command may change by in one step (positions: their max_velocity)
    """
    clip_share: float = 0.1
    """Share of the commands that may be at the limit of a dimension."""
    idle_s: float = 1.0
    """Idle time at the start and at the end, each."""
    pause_s: float = 2.0
    """Idle time in between, in one piece."""
    outlier: float = 6.0
    """Robust deviations from the median of the folder at which an episode is unlike the others."""
    still: Stillness = Stillness()

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name != 'still' and not (math.isfinite(value) and value >= 0):
                raise ConfigError(f'limit {each.name} must be 0 or more, got {value!r}')


@dataclass(frozen=True)
class EpisodeQuality:
    """What was found about one episode; small, whatever the size of the episode."""

    path: Path
    instruction: str = ''  # the label
    success: bool | None = None
    task: str = ''
    embodiment: Embodiment | None = None
    digest: str | None = None  # of its content; None where it could not be read
    usable: bool = False  # samples can be made of it
    measures: Mapping[str, float] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def worst(self) -> Severity:
        """Of its findings; INFO without any."""
        return max((finding.severity for finding in self.findings), default=Severity.INFO)

    @property
    def suggestion(self) -> str | None:
        """An instruction that fits better, where one was found."""
        return next((f.suggestion for f in self.findings if f.suggestion), None)

    def plus(self, *findings: Finding, **measures: float) -> EpisodeQuality:
        """The same with more findings and measures."""
        return replace(
            self,
            findings=(*self.findings, *findings),
            measures={**self.measures, **measures},
        )

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {
            'path': str(self.path),
            'instruction': self.instruction,
            'success': self.success,
            'grade': grade(self),
            'findings': [finding.to_dict() for finding in ordered(self.findings)],
            'measures': {k: round(v, 6) for k, v in self.measures.items() if math.isfinite(v)},
        }


def grade(episode: EpisodeQuality) -> str:
    """'good', 'warning' or 'error'."""
    return {Severity.INFO: 'good'}.get(episode.worst, episode.worst.name.lower())


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first, else in the order they were found."""
    return sorted(findings, key=lambda finding: -finding.severity)
