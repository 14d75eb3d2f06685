"""Closed loop in one process: the same bytes and the same decisions as over ROS, only faster.

The simulator's messages are encoded, decoded into an observation, decided on by the policy node's
own pipeline, encoded as a command and decoded again before the world moves. What is left out is
the transport. For development: ``python -m vla_alignment_ros.evaluation.rollout --help``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
import sys
import time
from typing import Literal

import numpy as np

from vla_alignment_ros.control.decisions import PipelineConfig, PolicyLike, Verdict
from vla_alignment_ros.control.pipeline import DecisionPipeline
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.evaluation.episode import (
    Decided,
    EpisodeLimits,
    EpisodeTracker,
    Scene,
    Stepped,
)
from vla_alignment_ros.evaluation.films import Film
from vla_alignment_ros.evaluation.late import LateDecisions, SlowPolicy
from vla_alignment_ros.evaluation.results import EpisodeResult
from vla_alignment_ros.evaluation.smoothness import smoothness
from vla_alignment_ros.observation import Observation, ObservationAssembler
from vla_alignment_ros.sim.stream import (
    apply_action,
    instruction_message,
    observation_messages,
)
from vla_alignment_ros.sim.tasks import sample_episode
from vla_alignment_ros.sim.world import SceneConfig, TabletopWorld


class InProcessRunner:
    """Runs episodes of one policy in this process. Close it, or use it as a context manager."""

    def __init__(
        self,
        embodiment: Embodiment,
        policy: PolicyLike,
        config: PipelineConfig,
        limits: EpisodeLimits | None = None,
        film: bool = True,
        delay_steps: int = 0,
    ) -> None:
        self.embodiment = embodiment
        self.limits = limits or EpisodeLimits()
        self.film = film
        slow = SlowPolicy(policy) if delay_steps else None
        self.pipeline = DecisionPipeline(embodiment, slow or policy, config)
        self._decisions = LateDecisions(self.pipeline, slow, delay_steps)
        self._assembler = ObservationAssembler(embodiment)
        self.world = TabletopWorld(
            SceneConfig(rate_hz=embodiment.rate_hz, max_steps=self.limits.max_steps)
        )

    def __enter__(self) -> InProcessRunner:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the renderer."""
        self._decisions.close()
        self.world.close()

    def run(self, index: int, split: str, seed: int) -> tuple[EpisodeResult, Film]:
        """Run one episode to its end."""
        started = time.perf_counter()
        spec = sample_episode(seed, split)
        scene = Scene(index, seed, split, spec.task, spec.instruction, spec.target)
        tracker = EpisodeTracker(scene, self.limits, self.embodiment.rate_hz)
        film = Film()
        world, codec = self.world, self.pipeline.codec
        world.reset(spec)
        start = {name: item.position.copy() for name, item in world.objects.items()}
        self._decisions.abandon()
        self.pipeline.reset()
        told = instruction_message(world, self.embodiment)
        actions = []

        def observe() -> Observation:
            raw = told | observation_messages(world, self.embodiment)
            return self._assembler.assemble(world.time_ns, raw)

        while tracker.end is None:
            ts_ns = world.time_ns
            if self.film and film.wants(tracker.steps):
                film.add(tracker.steps, self._picture())
            verdict = self._decisions.step(observe)
            action = codec.decode(self.pipeline.command(ts_ns).messages)
            actions.append(action)
            status = apply_action(world, self.embodiment, action)
            displaced_m = max(
                float(np.linalg.norm(item.position - start[name]))
                for name, item in world.objects.items()
            )
            tracker.tick(
                verdict and _decided(verdict),
                Stepped(
                    status.steps, status.success, status.wrong_object, status.touched, displaced_m
                ),
            )
        if self.film:
            film.add(tracker.steps, self._picture())
        motion = smoothness(actions, self.embodiment.rate_hz)
        return tracker.result(time.perf_counter() - started, motion), film

    def _picture(self) -> np.ndarray:
        camera = self.embodiment.cameras[0]
        return self.world.render(camera.name, camera.width, camera.height)


def _decided(verdict: Verdict) -> Decided:
    return Decided(
        verdict.ts_ns, verdict.instruction, verdict.vl_score, verdict.gate, verdict.latency_s
    )


@dataclass(frozen=True)
class Arguments:
    """Roll a checkpoint out in this process, without ROS, and look at what it does."""

    checkpoint: Path
    """Checkpoint folder."""
    split: str = 'seen'
    """Splits, separated by commas, or 'all'."""
    episodes: int = 10
    """Episodes of each split."""
    seed: int = 0
    """Scene number of the first episode; the next ones follow it."""
    candidates: int | None = None
    """Action chunks drawn per decision; the checkpoint's own number if not given."""
    device: str = 'auto'
    """'cpu', 'cuda' or 'auto'."""
    threads: int = 1
    """Torch threads; the policy node uses one too, and another number rounds differently."""
    max_steps: int = EpisodeLimits.max_steps
    """Control steps after which an episode has failed."""
    gate: bool = True
    """Whether a low alignment score may hold the robot."""
    execution: Literal['newest', 'ensemble', 'realtime'] = 'newest'
    """Which of the action chunks that overlap is executed; see the policy node's parameter."""
    delay_steps: int = 0
    """Control steps that each decision takes."""
    ensemble_decay: float = PipelineConfig.ensemble_decay
    """Weight of older chunks when averaging; the larger, the more the oldest one counts."""
    json: Path | None = None
    """Where to write the figures."""
    report: Path | None = None
    """Folder for the HTML report with films."""


def main(arguments: Arguments | None = None) -> int:
    """Command line of the in-process rollout."""
    import torch
    import tyro

    from vla_alignment_ros.evaluation.report import FilmShelf, Settings, write_report
    from vla_alignment_ros.evaluation.results import gather, parse_splits
    from vla_alignment_ros.evaluation.runner import describe, plan_splits, run_plan
    from vla_alignment_ros.policy.policy import Policy

    args = arguments or tyro.cli(Arguments)
    torch.set_num_threads(args.threads)
    policy = Policy.load(args.checkpoint, device=args.device)
    gate = policy.calibration
    opened = {} if args.gate else {'go': 0.0, 'hold': 0.0, 'confirm': 1}
    config = PipelineConfig(
        **{'go': gate.go, 'hold': gate.hold, **opened},
        candidates=args.candidates,
        execution=args.execution,
        ensemble_decay=args.ensemble_decay,
    )
    plan = plan_splits(parse_splits(args.split), args.episodes, args.seed)
    shelf, results = FilmShelf(), []
    limits = EpisodeLimits(max_steps=args.max_steps)
    with InProcessRunner(
        policy.embodiment, policy, config, limits, args.report is not None, args.delay_steps
    ) as runner:
        for result, film in run_plan(runner, plan):
            shelf.add(result, film)
            results.append(result)
            print(f'{result.seed:>4} {describe(result)}', flush=True)
    evaluation = gather(str(args.checkpoint), args.seed, results)
    for name, split in evaluation.splits.items():
        low, high = split.ci95
        tasks = ', '.join(f'{task} {won}/{n}' for task, (won, n) in split.by_task().items())
        print(
            f'{name}: {split.successes}/{len(split.episodes)} = {split.success_rate:.3f} '
            f'[{low:.3f}, {high:.3f}]  wrong object {split.wrong_object_rate:.3f}  '
            f'refused {split.refused_rate:.3f}  score {split.median_score:.2f}  ({tasks})'
        )
    if args.json is not None:
        evaluation.write_json(args.json)
    if args.report is not None:
        settings = Settings(
            command='python -m vla_alignment_ros.evaluation.rollout ' + ' '.join(sys.argv[1:]),
            go=config.go if args.gate else None,
            hold=config.hold if args.gate else None,
            rate_hz=policy.embodiment.rate_hz,
        )
        print(write_report(args.report, evaluation, shelf, settings))
    return 0


if __name__ == '__main__':
    sys.exit(main())
