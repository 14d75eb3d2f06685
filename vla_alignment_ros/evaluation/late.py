"""Decisions that take time: the world goes on meanwhile, as under a robot whose policy is slow.

A control step is the clock here: a decision on the observation of one step ends so many steps
later, whatever this machine needs for it. So the same seed gives the same episode on any machine.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
import threading
from typing import Any

from vla_alignment_ros.control.decisions import DecidedLike, PolicyLike, Verdict
from vla_alignment_ros.control.pipeline import DecisionPipeline
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.observation import Observation


class SlowPolicy:
    """A policy whose answers, once made, wait until `due` is set; see `PolicyLike`."""

    def __init__(self, policy: PolicyLike) -> None:
        self._policy = policy
        self.asked, self.due = threading.Event(), threading.Event()

    def reset(self) -> None:
        self._policy.reset()

    def step(self, observation: Observation, **asked: Any) -> DecidedLike:
        decided = self._policy.step(observation, **asked)
        self.asked.set()
        self.due.wait()
        return decided


class LateDecisions:
    """Makes a pipeline's decisions one after the other, each `delay_steps` control steps long.

    They are made in a thread, as by the policy node, and the pipeline is the node's own: what is
    planned when a decision begins, and what has been executed when it ends, is as on a robot.
    Close it at the end.

    Args:
        pipeline: decides with `policy`.
        policy: None where decisions take no time.
        delay_steps: 0 or more.
    """

    def __init__(
        self, pipeline: DecisionPipeline, policy: SlowPolicy | None, delay_steps: int
    ) -> None:
        if delay_steps < 0 or (policy is None) != (delay_steps == 0):
            raise ConfigError(f'delay_steps must be 0 or more, got {delay_steps}')
        self._pipeline, self._policy, self._delay = pipeline, policy, delay_steps
        self._pool = ThreadPoolExecutor(1, thread_name_prefix='inference')
        self._under_way: Future[Verdict] | None = None
        self._left = 0  # steps until it ends

    def step(self, observe: Callable[[], Observation]) -> Verdict | None:
        """A control step begins: what has been decided by now; None where nothing new has.

        observe: is called where a decision begins with this step.
        """
        if self._policy is None:
            return self._pipeline.decide(observe())
        verdict = self._end() if self._under_way is not None and self._left == 0 else None
        if self._under_way is None:
            self._begin(observe())
        self._left -= 1
        return verdict

    def abandon(self) -> None:
        """Forget the decision that is under way."""
        if self._under_way is not None:
            self._end()

    def close(self) -> None:
        """End the thread."""
        self.abandon()
        self._pool.shutdown()

    def _begin(self, observation: Observation) -> None:
        policy, self._left = self._policy, self._delay
        policy.asked.clear()
        policy.due.clear()
        self._under_way = self._pool.submit(self._pipeline.decide, observation)
        self._under_way.add_done_callback(lambda done: policy.asked.set())  # it may have failed
        policy.asked.wait()

    def _end(self) -> Verdict:
        under_way, self._under_way = self._under_way, None
        self._policy.due.set()
        return under_way.result()
