"""A robot being served: the decision loop, and the model that decides in it just now.

No ROS in here. A model is loaded, checked and warmed up before anybody serves with it; while one
serves, another of the same embodiment can take its place between two decisions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
import threading
import time
from typing import Any

import torch

from vla_alignment_ros.control.pipeline import Command, DecisionPipeline, PipelineConfig, Verdict
from vla_alignment_ros.errors import CheckpointError, ConfigError, VlaError
from vla_alignment_ros.nodes.decision_loop import DecisionLoop, LoopConfig
from vla_alignment_ros.nodes.health import Arrivals, judge
from vla_alignment_ros.nodes.pictures import Pictures
from vla_alignment_ros.nodes.schemas import PolicyParameters
from vla_alignment_ros.observation import Observation
from vla_alignment_ros.policy.policy import Decision, Policy
from vla_alignment_ros.policy.threads import fastest_threads

DIFFERENCES = 5  # that are named when an embodiment is refused


@dataclass(frozen=True)
class Model:
    """A policy that has answered, and where it is from."""

    folder: str  # as it was asked for
    policy: Policy
    warm_s: float  # median of a decision
    threads: int  # torch threads

    def __str__(self) -> str:
        policy = self.policy
        return (
            f'{self.folder}: {policy.embodiment.name} on {policy.device}, '
            f'{self.warm_s * 1e3:.1f} ms a decision, torch threads: {self.threads}'
        )

    @property
    def revision(self) -> str:
        """Of the source that it was trained with; empty where that is not known."""
        return str(self.policy.checkpoint.training.get('git_revision') or '')[:12]


def load_model(folder: str, device: str, threads: int) -> Model:
    """Load, check and warm up a checkpoint, which takes seconds.

    threads: torch threads on the CPU; 0 measures one against all cores with this very model.

    Raises:
        VlaError: the folder is no checkpoint that can serve here; the message says why.
    """
    if not folder:
        raise ConfigError('give the checkpoint folder: -p checkpoint:=FOLDER')
    torch.set_num_threads(threads or 1)  # of this thread, and of those that begin later
    try:
        policy = Policy.load(Path(folder).expanduser(), device=device)
        warm_s = policy.warm_up()
        if not threads and policy.device.type == 'cpu':
            threads = fastest_threads(lambda: policy.warm_up(1))
            warm_s = policy.warm_up()
    except VlaError:
        raise
    except Exception as error:  # no memory, or a model that does not fit its robot
        raise CheckpointError(
            f'{folder} cannot answer an observation of its own embodiment: '
            f'{type(error).__name__}: {error}'
        ) from error
    return Model(folder, policy, warm_s, threads or 1)


class Serving:
    """Serves one robot from a configure to its cleanup; close it at the end.

    Args:
        chosen: the node's parameters.
        model: that decides first.
        send: publishes a command.
        report: is told every decision after its command was sent.
        pictures: draws some of the decisions; is closed with this.
        log: takes tracebacks of what should not happen.
    """

    def __init__(
        self,
        chosen: PolicyParameters,
        model: Model,
        send: Callable[[Command], None],
        report: Callable[[Verdict], None],
        pictures: Pictures,
        log: Callable[[str], None],
    ) -> None:
        self.model = model
        self.embodiment = model.policy.embodiment
        self.exchanges = 0
        self.arrivals = Arrivals(self.embodiment)
        self.pictures = pictures
        self._chosen = chosen
        self._report = report
        self._observation: Observation | None = None  # that is being decided on
        self._active_since_s = 0.0  # steady
        self._exchanging = threading.Lock()
        self._closed = False
        config = _pipeline_config(chosen, model.policy)
        self.loop = DecisionLoop(
            DecisionPipeline(self.embodiment, _Watched(model.policy, self._look), config),
            LoopConfig(on_arrival=chosen.act_on_arrival, watchdog_s=chosen.watchdog_s),
            send,
            self._tell,
            log,
        )

    def push(self, topic: str, raw: bytes, now_ns: int) -> None:
        """Take one message, undecoded. now_ns: the node's clock."""
        self.arrivals.came(topic, raw, time.monotonic())
        self.loop.push(topic, raw, now_ns)

    def start(self) -> None:
        """Begin to command."""
        self.loop.start()
        self.arrivals.start()
        self._active_since_s = time.monotonic()

    def judge(self) -> tuple[bytes, str]:
        """Level and words for a diagnostic message, while active."""
        return judge(self.loop, time.monotonic() - self._active_since_s)

    def key_values(self) -> dict[str, str]:
        """What there is to know, for a diagnostic message."""
        model, pipeline, verdict = self.model, self.loop.pipeline, self.loop.verdict
        scores = {} if verdict is None else verdict.key_values()
        return {
            **self.loop.key_values(),
            **{name: scores.get(name, '') for name in ('gate', 'action_score', 'margin')},
            'gate_go': f'{pipeline.config.go:.6f}',
            'gate_hold': f'{pipeline.config.hold:.6f}',
            'needs_help': pipeline.needs_help,
            **self.arrivals.key_values(time.monotonic()),
            'checkpoint': model.folder,
            'revision': model.revision,
            'embodiment': self.embodiment.name,
            'device': str(model.policy.device),
            'threads': str(model.threads),
            'exchanges': str(self.exchanges),
            'pictures': str(self.pictures.drawn),
        }

    def load(self, folder: str) -> Model:
        """Make another model ready beside the one that serves.

        Raises:
            VlaError: it cannot take over: no whole checkpoint, or of another embodiment.
        """
        model = load_model(folder, self._chosen.device, self.model.threads)
        policy = model.policy
        found = self.embodiment.differences(policy.embodiment)
        if found:
            more = f' and {len(found) - DIFFERENCES} more' if len(found) > DIFFERENCES else ''
            raise ConfigError(
                f'{folder} is of another embodiment: {"; ".join(found[:DIFFERENCES])}{more}. '
                'Topics and limits stay while a robot is served: clean up and configure again'
            )
        # refuses thresholds that make no gate
        DecisionPipeline(self.embodiment, policy, _pipeline_config(self._chosen, policy))
        return model

    def exchange(self, model: Model) -> None:
        """Let another model decide from the next decision on.

        Raises:
            ConfigError: nothing is served here any more.
        """
        config = _pipeline_config(self._chosen, model.policy)
        with self._exchanging:
            if self._closed:
                raise ConfigError('the node was cleaned up while the checkpoint was loading')
            watched = _Watched(model.policy, self._look)
            with self.loop.deciding:
                self.loop.pipeline.exchange(watched, config)
            self.model = model
            self.exchanges += 1

    def close(self) -> None:
        """Stop for good."""
        with self._exchanging:
            self._closed = True
        self.loop.close()
        self.pictures.close()

    # -- in the inference thread ----------------------------------------------------------------

    def _look(self, observation: Observation) -> bool:
        """An observation is about to be decided on; whether to say where its words point."""
        self._observation = observation
        self.arrivals.used(observation.stamps_ns)
        return self.pictures.due()

    def _tell(self, verdict: Verdict) -> None:
        self._report(verdict)
        self.pictures.offer(self._observation, verdict, self.loop.pipeline.config)


class _Watched:
    """A policy that is looked at while it looks; see `PolicyLike`."""

    def __init__(self, policy: Policy, look: Callable[[Observation], bool]) -> None:
        self._policy, self._look = policy, look

    def reset(self) -> None:
        self._policy.reset()

    def step(self, observation: Observation, **asked: Any) -> Decision:
        return self._policy.step(observation, **asked | {'grounding': self._look(observation)})


def _pipeline_config(chosen: PolicyParameters, policy: Policy) -> PipelineConfig:
    calibration = policy.calibration
    config = {
        'go': chosen.gate_go if chosen.gate_go >= 0.0 else calibration.go,
        'hold': chosen.gate_hold if chosen.gate_hold >= 0.0 else calibration.hold,
        'candidates': chosen.candidates or None,
        'seed': chosen.seed,
        'execution': chosen.execution,
        'help_s': chosen.gate_help_s,
    }
    if not chosen.gate_enabled:
        config |= {'go': 0.0, 'hold': 0.0, 'confirm': 1}
    return PipelineConfig(**config)
