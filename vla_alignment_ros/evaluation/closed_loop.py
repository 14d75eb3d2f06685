"""Closed loop through ROS topics: simulator and policy as processes, in lock-step.

Both nodes run in a ROS domain of their own. Lock-step means that simulated time waits for the
command that answers its observation, so results depend on seeds and not on the machine's speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
import os
from pathlib import Path
import time
from types import TracebackType
from typing import Any, Protocol

import yaml

from vla_alignment_ros import wire
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import SimulationError
from vla_alignment_ros.evaluation.episode import (
    Decided,
    EpisodeLimits,
    EpisodeTracker,
    Scene,
    Stepped,
)
from vla_alignment_ros.evaluation.films import Film
from vla_alignment_ros.evaluation.processes import NodeError, NodeProcesses, READY_S
from vla_alignment_ros.evaluation.results import EpisodeResult
from vla_alignment_ros.observation import normalize_instruction

POLICY, SIMULATOR = 'policy_node', 'simulator_node'
NODES = 'vla_alignment_ros.nodes'
WATCHDOG_S = 60.0
ATTEMPTS = 3


class _LateInstructionError(Exception):
    """The policy decided on the new scene with the sentence of the one before."""


class StepLike(Protocol):
    """Both nodes' words on one control step, as they were published."""

    decision: Mapping[str, str]
    status: Mapping[str, str]


class Client(Protocol):
    """Who talks to the two nodes: `vla_alignment_ros.nodes.evaluation_client`."""

    def wait_until_ready(self, timeout_s: float) -> None: ...

    def start(self, split: str, seed: int) -> dict[str, Any]: ...

    def step(self, number: int) -> StepLike: ...

    def frame(self, ts_ns: int) -> bytes | None: ...

    def close(self) -> None: ...


# domain id, check, film topic → client
ClientFactory = Callable[[int, Callable[[], None], str | None], Client]


@dataclass(frozen=True)
class ClosedLoopConfig:
    """What is run."""

    checkpoint: Path
    embodiment: Embodiment
    device: str = 'auto'
    candidates: int | None = None
    execution: str = 'newest'
    gate: bool = True  # False: a low alignment score does not hold the arm
    limits: EpisodeLimits = EpisodeLimits()
    film: bool = True
    log_folder: Path | None = None  # where the nodes' logs go; a temporary folder if None


class ClosedLoopRunner:
    """
    A context in which episodes run over ROS. The nodes start on entering.

    Raises NodeError with the end of its log when a node dies, SimulationError when one does not
    answer; leaving the context ends every process in either case.

    connect: makes the client, once the nodes' domain is known. It comes from the caller because
    only `nodes` knows rclpy.
    """

    def __init__(self, config: ClosedLoopConfig, connect: ClientFactory) -> None:
        self.config = config
        self._connect = connect
        self._processes = NodeProcesses(config.log_folder)
        self._client: Client | None = None

    def __enter__(self) -> ClosedLoopRunner:
        self._processes.__enter__()
        try:
            self._start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    @property
    def processes(self) -> NodeProcesses:
        return self._processes

    def run(self, index: int, split: str, seed: int) -> tuple[EpisodeResult, Film]:
        """Run one episode to its end."""
        for _ in range(ATTEMPTS):
            try:
                return self._attempt(index, split, seed)
            except _LateInstructionError as error:
                late = error  # topics overtook each other; the same episode again is the same
        raise SimulationError(str(late))

    # -- inside ---------------------------------------------------------------------------------

    def _attempt(self, index: int, split: str, seed: int) -> tuple[EpisodeResult, Film]:
        client = self._client
        if client is None:
            raise RuntimeError('enter the context first')
        config = self.config
        started = time.perf_counter()
        spec = client.start(split, seed)
        scene = Scene(index, seed, split, spec['task'], spec['instruction'], spec['target'])
        tracker = EpisodeTracker(scene, config.limits, config.embodiment.rate_hz)
        film = Film()
        while tracker.end is None:
            number = tracker.steps
            step = client.step(number)
            decided = _decided(step, spec['instruction'])
            if film.wants(number):
                self._shoot(film, number, decided.ts_ns)
            tracker.tick(decided, _stepped(step))
        self._shoot(film, tracker.steps, int(step.status['ts_ns']))
        return tracker.result(time.perf_counter() - started), film

    def _shoot(self, film: Film, step: int, ts_ns: int) -> None:
        """Add the frame of that stamp, if films are wanted and it came (frames may be lost)."""
        raw = self._client.frame(ts_ns) if self.config.film else None
        if raw is not None:
            film.add(step, wire.decode_image(raw).image)

    def _start(self) -> None:
        config, processes = self.config, self._processes
        # the simulated robot is the one that the checkpoint was trained for
        embodiment = processes.folder / 'embodiment.yaml'
        embodiment.write_text(yaml.safe_dump(config.embodiment.to_dict()), encoding='utf-8')
        processes.start(
            SIMULATOR,
            f'{NODES}.simulator_node',
            {
                'embodiment': str(embodiment),
                'lockstep': True,
                'publish_instruction': True,
                'reset_on_start': False,
            },
        )
        processes.start(
            POLICY,
            f'{NODES}.policy_node',
            {
                'checkpoint': str(config.checkpoint.resolve()),
                'device': config.device,
                'threads': 1,  # another number rounds differently
                'candidates': config.candidates,
                'execution': config.execution,
                'gate.enabled': config.gate,
                'act_on_arrival': True,
                # time stands still while a busy machine thinks: that is no lost sensor
                'watchdog_s': WATCHDOG_S,
            },
        )
        # this process joins the same domain; rclpy reads the range when it starts
        os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
        film_topic = config.embodiment.cameras[0].topic if config.film else None
        self._client = self._connect(processes.domain_id, processes.check, film_topic)
        try:
            self._client.wait_until_ready(READY_S)
        except SimulationError as error:
            raise NodeError(f'{error}:\n{processes.log_end(POLICY)}') from error

    def _close(self) -> None:
        client, self._client = self._client, None
        try:
            if client is not None:
                client.close()
        finally:
            self._processes.__exit__(None, None, None)


def _decided(step: StepLike, instruction: str) -> Decided:
    values = step.decision
    if normalize_instruction(values['instruction']) != normalize_instruction(instruction):
        raise _LateInstructionError(
            f'the policy answered {values["instruction"]!r} while the episode says '
            f'{instruction!r}'
        )
    return Decided(
        int(values['ts_ns']),
        values['instruction'],
        float(values['vl_score']),
        values['gate'],
        float(values['latency_s']),
    )


def _stepped(step: StepLike) -> Stepped:
    values: Mapping[str, str] = step.status
    return Stepped(
        int(values['steps']),
        values['success'] == 'true',
        values['wrong_object'] == 'true',
        tuple(name for name in values['touched'].split(',') if name),
        float(values['displaced_m']),
    )

