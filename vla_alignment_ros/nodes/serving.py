"""A robot being served: the decision loop, and the model that decides in it just now.

No ROS in here. While one model serves, another of the same embodiment can take its place between
two decisions; and its decisions can be its own actions, or its judgement of another policy's.
"""

from __future__ import annotations

from collections.abc import Callable
import threading
import time
from typing import Any

from vla_alignment_ros.control.decisions import (
    Command,
    DecidedLike,
    PipelineConfig,
    PolicyLike,
    Verdict,
)
from vla_alignment_ros.control.executor import REALTIME
from vla_alignment_ros.control.pipeline import DecisionPipeline
from vla_alignment_ros.control.shadow import (
    InlinePolicy,
    OtherPolicy,
    ShadowPolicy,
    ShadowVerifier,
)
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.nodes.decision_loop import DecisionLoop, LoopConfig
from vla_alignment_ros.nodes.health import Arrivals, judge
from vla_alignment_ros.nodes.models import load_model, Model
from vla_alignment_ros.nodes.pictures import Pictures
from vla_alignment_ros.nodes.schemas import ACT, INLINE, PolicyParameters, SHADOW
from vla_alignment_ros.observation import Observation
from vla_alignment_ros.policy.policy import Policy

DIFFERENCES = 5  # that are named when an embodiment is refused


class Serving:
    """Serves one robot from a configure to its cleanup; close it at the end.

    Args:
        chosen: the node's parameters.
        model: that decides first.
        send: publishes a command.
        report: is told every decision after its command was sent.
        pictures: draws some of the decisions; is closed with this.
        log: takes tracebacks of what should not happen.
        handed: is told True when a person takes the arm over, False when the policy has it.
    """

    def __init__(
        self,
        chosen: PolicyParameters,
        model: Model,
        send: Callable[[Command], None],
        report: Callable[[Verdict], None],
        pictures: Pictures,
        log: Callable[[str], None],
        handed: Callable[[bool], None],
    ) -> None:
        self.model = model
        self.embodiment = model.policy.embodiment
        self.exchanges = 0
        self.arrivals = Arrivals(self.embodiment)
        self.pictures = pictures
        # whose actions are judged, where they are not our own
        self.other = None if chosen.mode == ACT else OtherPolicy(self.embodiment)
        self._chosen = chosen
        self._report = report
        self._observation: Observation | None = None  # that is being decided on
        self._active_since_s = 0.0  # steady
        self._exchanging = threading.Lock()
        self._closed = False
        config = _pipeline_config(chosen, model.policy)
        self.loop = DecisionLoop(
            DecisionPipeline(self.embodiment, self._decider(model.policy), config),
            LoopConfig(
                chosen.act_on_arrival, chosen.watchdog_s, chosen.intervention_timeout_s
            ),
            send,
            self._tell,
            log,
            handed,
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
        decider = self._decider(policy)
        DecisionPipeline(self.embodiment, decider, _pipeline_config(self._chosen, policy))
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
            with self.loop.deciding:
                self.loop.pipeline.exchange(self._decider(model.policy), config)
            self.model = model
            self.exchanges += 1

    def _decider(self, policy: Policy) -> PolicyLike:
        """Who answers observations: the policy, or another one that it judges."""
        chosen, decider = self._chosen, policy
        if chosen.mode == SHADOW:
            decider = ShadowPolicy(
                ShadowVerifier(self.other, policy, max(1, chosen.candidates), chosen.seed)
            )
        elif chosen.mode == INLINE:
            decider = InlinePolicy(self.other, policy, chosen.min_margin)
        return _Watched(decider, self._look)

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
        return self.other is None and self.pictures.due()

    def _tell(self, verdict: Verdict) -> None:
        self._report(verdict)
        self.pictures.offer(self._observation, verdict, self.loop.pipeline.config)


class _Watched:
    """A policy that is looked at while it looks; see `PolicyLike`."""

    def __init__(self, policy: PolicyLike, look: Callable[[Observation], bool]) -> None:
        self._policy, self._look = policy, look

    def reset(self) -> None:
        self._policy.reset()

    def step(self, observation: Observation, **asked: Any) -> DecidedLike:
        return self._policy.step(observation, **asked | {'grounding': self._look(observation)})


def _pipeline_config(chosen: PolicyParameters, policy: Policy) -> PipelineConfig:
    if chosen.mode != ACT and chosen.execution == REALTIME:
        raise ConfigError(
            "execution realtime is for our own actions: another policy's go on from no plan"
        )
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
