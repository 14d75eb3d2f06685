"""What goes into a decision pipeline and what comes out of it: plain values, no behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from vla_alignment_ros.control.continuation import Continuation
from vla_alignment_ros.control.executor import EXECUTIONS, NEWEST
from vla_alignment_ros.control.gate import HOLD
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.observation import ActionChunk, Observation

DRIVEN = 'driven'  # by a person: a command's state beside those of the gate


class DecidedLike(Protocol):
    """What a policy answers."""

    chunk: ActionChunk
    vl_score: float  # 0..1, calibrated
    action_score: float
    margin: float
    grounding: Mapping[str, Any]  # word → heat-maps, where asked for
    latency_s: float


class PolicyLike(Protocol):
    """What the pipeline needs of a policy."""

    def step(
        self,
        observation: Observation,
        candidates: int = ...,
        seed: int | None = ...,
        grounding: bool = ...,
        plan: Continuation | None = ...,  # only with `execution: realtime`
    ) -> DecidedLike: ...

    def reset(self) -> None: ...


@dataclass(frozen=True)
class PipelineConfig:
    """How decisions become motion. The gate's own limits are checked where it is built."""

    go: float = 0.6  # alignment score (0..1) from which on the motion is free
    hold: float = 0.3  # below it the robot stands still; between the two it goes slowly
    hysteresis: float = 0.05  # how far a score must pass a threshold to leave a state
    confirm: int = 2  # decisions in a row at `go` before the first motion
    dwell: int = 2  # decisions in a row before the state changes
    candidates: int | None = None  # chunks drawn per decision; None: as the policy likes
    seed: int = 0  # of the candidates' noise; decision n after a reset always draws the same
    slow_speed: float = 0.5  # share of the motion while the gate says 'slow'
    help_s: float = 3.0  # seconds of hold by the gate until `needs_help`
    # which of the chunks that overlap is executed, see ChunkExecutor; 'ensemble' costs success
    execution: str = NEWEST
    ensemble_decay: float = 0.01  # the larger, the more the oldest chunk counts
    max_gap_s: float = 2.0  # a longer pause between observations starts anew

    def __post_init__(self) -> None:
        if not 0.0 < self.slow_speed <= 1.0:
            raise ConfigError(f'slow_speed must be within (0, 1], got {self.slow_speed}')
        if self.execution not in EXECUTIONS:
            raise ConfigError(
                f'execution must be one of {", ".join(EXECUTIONS)}, got {self.execution!r}'
            )
        if not self.max_gap_s > 0.0:
            raise ConfigError(f'max_gap_s must be positive, got {self.max_gap_s}')
        if self.candidates is not None and self.candidates < 1:
            raise ConfigError(f'candidates must be at least 1, got {self.candidates}')


@dataclass(frozen=True)
class Verdict:
    """One decision and what was made of it."""

    ts_ns: int  # of the observation
    instruction: str
    vl_score: float
    action_score: float
    margin: float
    gate: str  # 'go', 'slow' or 'hold'
    refused: str | None  # why the whole chunk was thrown away, if it was …
    outdated: bool  # … and whether that is because something came while it was being made
    chunk: ActionChunk  # as proposed; limits apply when it is executed
    latency_s: float  # of the policy alone
    grounding: Mapping[str, Any] = field(default_factory=dict)

    def key_values(self) -> dict[str, str]:
        """Return the figures as text, for a diagnostic message."""
        return {
            'ts_ns': str(self.ts_ns),
            'instruction': self.instruction,
            'vl_score': f'{self.vl_score:.6f}',
            'action_score': f'{self.action_score:.6f}',
            'margin': f'{self.margin:.6f}',
            'gate': self.gate,
            'refused': self.refused or '',
            'latency_s': f'{self.latency_s:.6f}',
        }

    @classmethod
    def of(
        cls, decided: DecidedLike, gate: str, refused: str | None, outdated: bool = False
    ) -> Verdict:
        """What was made of a policy's answer."""
        return cls(
            ts_ns=decided.chunk.ts_ns,
            instruction=decided.chunk.instruction,
            vl_score=float(decided.vl_score),
            action_score=float(decided.action_score),
            margin=float(decided.margin),
            gate=gate,
            refused=refused,
            outdated=outdated,
            chunk=decided.chunk,
            latency_s=float(decided.latency_s),
            grounding=decided.grounding or {},
        )


@dataclass(frozen=True)
class Command:
    """What to publish now; topics in the order in which they are to be published."""

    messages: dict[str, bytes]
    action: np.ndarray | None  # (7,) float64 physical units; None where nothing is known yet
    state: str  # 'go', 'slow', 'hold' or 'driven'
    reason: str = ''  # why it holds
    clipped: bool = False
    instruction: str = ''  # what it answers
    instruction_id: int = 0  # goes up with every change of the instruction; 0: none yet
    needs_help: str = ''  # what a person should look at, where the gate held for too long

    def explained(self, why: str) -> Command:
        """The same, but where it holds also with why nothing is decided; '': that is unknown."""
        if not why or self.state != HOLD:
            return self
        return replace(self, reason=f'{self.reason}: {why}')

    def key_values(self) -> dict[str, str]:
        """Return what it says beside the motion as text, for a diagnostic message."""
        return {
            'state': self.state,
            'reason': self.reason,
            'instruction': self.instruction,
            'instruction_id': str(self.instruction_id),
            'needs_help': self.needs_help,
        }
