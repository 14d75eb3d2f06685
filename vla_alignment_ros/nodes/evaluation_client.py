"""Drives simulator and policy node through episodes, for the closed-loop evaluation.

It starts episodes and hands out one step after another, as both nodes published it; what the
steps add up to is decided in `evaluation`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
import json
import time
from typing import Any

from vla_alignment_ros import wire
from vla_alignment_ros.embodiment import IMAGE
from vla_alignment_ros.errors import SimulationError
from vla_alignment_ros.nodes.client import Client
from vla_alignment_ros.nodes.qos import sensor_data, subscribe_raw

FILM_DEPTH = 64  # newest film frames kept
FRAME_S = 0.5  # patience with a frame


@dataclass(frozen=True)
class Step:
    """Both nodes' words on one control step."""

    decision: Mapping[str, str]
    status: Mapping[str, str]


class EvaluationClient(Client):
    """One client of one simulator and one policy node.

    `film_topic` is an image topic to remember the newest frames of, or None.
    """

    def __init__(
        self,
        domain_id: int,
        check: Callable[[], None],
        film_topic: str | None = None,
        simulator: str = 'simulator_node',
        policy: str = 'policy_node',
    ) -> None:
        super().__init__('evaluation_client', domain_id, check)
        self._simulator, self._policy = simulator, policy
        self._decisions: dict[str, dict[str, str]] = {}  # by stamp of the observation
        self._episode = 0  # as the simulator counts them
        self._statuses: dict[int, dict[str, str]] = {}  # of that episode, by steps
        self._frames: OrderedDict[int, bytes] = OrderedDict()  # by stamp
        self.on_values(f'{simulator}/status', self._on_status)
        self.on_values(f'{policy}/decision', self._on_decision)
        if film_topic is not None:
            subscribe_raw(self.node, film_topic, IMAGE, self._on_frame, sensor_data())

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait for both nodes, and let the policy load its checkpoint (which takes its time)."""
        self.configure(self._policy, timeout_s)
        self.set_parameters(self._simulator, {})

    def start(self, split: str, seed: int) -> dict[str, Any]:
        """Begin an episode; its description as the simulator drew it."""
        self.deactivate(self._policy)
        self.set_parameters(self._simulator, {'split': split, 'seed': seed})
        before = self._episode
        spec = json.loads(self.trigger(f'{self._simulator}/reset'))
        if (spec['split'], spec['seed']) != (split, seed):
            raise SimulationError(
                f'asked for episode {seed} of {split}, got {spec["seed"]} of {spec["split"]}'
            )
        self.until(
            lambda: self._episode > before and 0 in self._statuses,
            'the status of the new episode',
        )
        self._decisions.clear()
        begin = int(self._statuses[0]['ts_ns'])
        for stamp in [stamp for stamp in self._frames if stamp < begin]:
            del self._frames[stamp]  # the first frame of this episode may be there already
        self.activate(self._policy)
        return spec

    def step(self, number: int) -> Step:
        """Step `number` (0 is the first) of the running episode, once it is done."""
        stamp = self._statuses[number]['ts_ns']  # of the observation to decide on
        self.until(
            lambda: stamp in self._decisions and number + 1 in self._statuses,
            f'step {number + 1} of the episode',
        )
        return Step(self._decisions[stamp], self._statuses[number + 1])

    def frame(self, ts_ns: int) -> bytes | None:
        """The film frame with that stamp as CDR bytes; None if it was lost on the way."""
        deadline = time.monotonic() + FRAME_S
        # frames come in order: behind a newer one nothing is left to wait for
        while max(self._frames, default=ts_ns - 1) < ts_ns and time.monotonic() < deadline:
            self.spin_once()
        return self._frames.get(ts_ns)

    def _on_status(self, values: dict[str, str]) -> None:
        if 'episode' not in values:  # no episode yet
            return
        episode = int(values['episode'])
        if episode != self._episode:
            self._episode = episode
            self._statuses.clear()
        self._statuses[int(values['steps'])] = values

    def _on_decision(self, values: dict[str, str]) -> None:
        self._decisions[values['ts_ns']] = values

    def _on_frame(self, raw: bytes) -> None:
        self._frames[wire.stamp_ns(raw, IMAGE)] = bytes(raw)
        while len(self._frames) > FILM_DEPTH:
            self._frames.popitem(last=False)
