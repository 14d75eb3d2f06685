"""Records expert demonstrations without ROS, as fast as the machine goes.

`python -m vla_alignment_ros.sim.record --out DIR --episodes N --seed S --split train --workers 2`
writes one bag per episode, with the same bytes that the nodes would have put on the wire. An
episode is named after its split and seed, and appears only when it is complete, so that a stopped
recording goes on with `--resume`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
import json
import multiprocessing
from pathlib import Path
import shutil
import signal
import time

from tqdm import tqdm
import tyro

from vla_alignment_ros.control.codecs import CommandCodec, make_codec
from vla_alignment_ros.data.bag import EpisodeWriter
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import SimulationError, VlaError
from vla_alignment_ros.sim.expert import Expert
from vla_alignment_ros.sim.judge import EpisodeStatus
from vla_alignment_ros.sim.render import select_backend
from vla_alignment_ros.sim.spec import EpisodeSpec, object_names
from vla_alignment_ros.sim.stream import apply_action, instruction_message, observation_messages
from vla_alignment_ros.sim.tasks import sample_episode
from vla_alignment_ros.sim.world import SceneConfig, TabletopWorld


@dataclass(frozen=True)
class RecordOptions:
    """Record expert demonstrations into bags, headless."""

    out: Path  # folder that receives one bag per episode
    episodes: int = 100  # how many seeds to run; an episode that the expert fails is left out
    seed: int = 0  # first seed of the split
    split: str = 'train'  # which split to draw from (config/splits.yaml)
    workers: int = 1  # processes
    embodiment: str = 'tabletop'  # name or path of the embodiment
    compression: str | None = None  # None, or zstd for a fifteenth of the size
    keep_failed: bool = False  # also keep the episodes that the expert failed, marked as such
    resume: bool = False  # leave out what is already in the folder
    quiet: bool = False  # no progress bar


@dataclass(frozen=True)
class RecordReport:
    """What a recording came to."""

    recorded: int
    skipped: int
    failed: tuple[int, ...]  # seeds
    steps: int
    wall_s: float
    frames: int  # rendered pictures, all cameras

    def __str__(self) -> str:
        speed = self.frames / self.wall_s if self.wall_s > 0 else 0.0
        return (
            f'{self.recorded} episodes recorded, {len(self.failed)} failed, '
            f'{self.skipped} already there; {self.steps} steps, {self.frames} frames in '
            f'{self.wall_s:.1f} s = {speed:.0f} frames/s'
        )


@dataclass(frozen=True)
class _Outcome:
    seed: int
    success: bool
    steps: int


def episode_name(split: str, seed: int) -> str:
    """Folder name of an episode, the same for the same seed and split."""
    return f'{split}_{seed:08d}'


def run_episode(
    world: TabletopWorld,
    spec: EpisodeSpec,
    writer: EpisodeWriter,
    codec: CommandCodec,
) -> EpisodeStatus:
    """Let the expert solve `spec` in `world`, writing every message; the final status."""
    embodiment = writer.embodiment
    types = embodiment.recorded_topics()
    expert = Expert(world)
    world.reset(spec)
    expert.reset(spec)
    writer.set_instruction(spec.instruction)
    messages = instruction_message(world, embodiment)
    while not expert.done:
        ts_ns = world.time_ns
        messages |= observation_messages(world, embodiment)
        command = codec.encode(expert.action(), ts_ns)
        for topic, raw in (messages | command).items():
            writer.write(topic, types[topic], ts_ns, raw)
        # what is executed is what the wire says, as it would be over ROS
        apply_action(world, embodiment, codec.decode(command))
        messages = {}
    return world.status()


def record_episode(
    spec: EpisodeSpec,
    out_root: Path | str,
    embodiment: Embodiment,
    *,
    world: TabletopWorld | None = None,
    compression: str | None = None,
    keep_failed: bool = False,
) -> Path | None:
    """Record one demonstration into `out_root`; its folder, or None if the expert failed.

    A `world` that is given is used and left open.
    """
    own = world is None
    world = world or TabletopWorld(SceneConfig(rate_hz=embodiment.rate_hz))
    codec = make_codec(embodiment)
    name = episode_name(spec.split, spec.seed)
    try:
        with EpisodeWriter(out_root, embodiment, name, compression=compression) as writer:
            status = run_episode(world, spec, writer, codec)
            if not status.success and not keep_failed:
                return None
            return writer.finish(status.success, episode_metadata(spec))
    finally:
        if own:
            world.close()


def episode_metadata(spec: EpisodeSpec) -> dict[str, str]:
    """What the bag tells about a simulated episode beside its messages."""
    return {
        'seed': str(spec.seed),
        'split': spec.split,
        'task': spec.task,
        'target': spec.target,
        'tray': spec.tray or '',
        'side': spec.side or '',
        # sentences of one group mean the same: training takes them as each other's positives
        'group': ' '.join(filter(None, (spec.task, spec.target, spec.tray, spec.side))),
        # what is on the table, in the order of the ids in the segmentation topics
        'labels': json.dumps(object_names(spec.scene)),
        'episode': json.dumps(spec.to_dict(), separators=(',', ':')),
    }


class _Worker:
    """One process's world, made on first use and kept for all its episodes."""

    def __init__(self, options: RecordOptions) -> None:
        self._options = options
        self._embodiment = Embodiment.load(options.embodiment)
        self._world = TabletopWorld(SceneConfig(rate_hz=self._embodiment.rate_hz))

    def __call__(self, seed: int) -> _Outcome:
        options = self._options
        path = record_episode(
            sample_episode(seed, options.split),
            options.out,
            self._embodiment,
            world=self._world,
            compression=options.compression,
            keep_failed=options.keep_failed,
        )
        status = self._world.status()
        return _Outcome(seed, status.success and path is not None, status.steps)

    def close(self) -> None:
        self._world.close()


_worker: _Worker | None = None


def _start_worker(options: RecordOptions) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it stops the workers
    _worker = _Worker(options)


def _run_in_worker(seed: int) -> _Outcome:
    return _worker(seed)


def _outcomes(options: RecordOptions, seeds: Sequence[int]) -> Iterator[_Outcome]:
    if options.workers <= 1 or len(seeds) < 2:
        worker = _Worker(options)
        try:
            yield from map(worker, seeds)
        finally:
            worker.close()
        return
    # spawn: an OpenGL context must not be forked
    context = multiprocessing.get_context('spawn')
    workers = min(options.workers, len(seeds))
    with context.Pool(workers, initializer=_start_worker, initargs=(options,)) as pool:
        yield from pool.imap_unordered(_run_in_worker, seeds, chunksize=2)


def record(options: RecordOptions) -> RecordReport:
    """Record the seeds that `options` ask for, in as many processes as they say."""
    if options.episodes < 1 or options.workers < 1:
        raise SimulationError('episodes and workers must be at least 1')
    seeds = range(options.seed, options.seed + options.episodes)
    there = {s for s in seeds if (options.out / episode_name(options.split, s)).exists()}
    if there and not options.resume:
        raise SimulationError(
            f'{len(there)} of these episodes are already in {options.out}: add --resume to keep '
            f'them and go on, or choose another folder or --seed'
        )
    wanted = [seed for seed in seeds if seed not in there]
    for seed in wanted if options.resume else ():  # what a killed recording left half done
        shutil.rmtree(
            options.out / f'.{episode_name(options.split, seed)}.partial', ignore_errors=True
        )
    cameras = len(Embodiment.load(options.embodiment).cameras)
    select_backend()  # once here, so that the workers need not search
    start = time.monotonic()
    recorded, steps, failed = 0, 0, []
    with tqdm(total=len(wanted), unit='episode', disable=options.quiet) as bar:
        for outcome in _outcomes(options, wanted):
            steps += outcome.steps
            recorded += outcome.success or options.keep_failed
            if not outcome.success:
                failed.append(outcome.seed)
            elapsed = time.monotonic() - start
            bar.set_postfix_str(f'{steps * cameras / elapsed:.0f} frames/s, {len(failed)} failed')
            bar.update()
    wall_s = time.monotonic() - start
    return RecordReport(
        recorded, len(there), tuple(sorted(failed)), steps, wall_s, steps * cameras
    )


def main() -> None:
    options = tyro.cli(RecordOptions, description=__doc__)
    try:
        print(record(options))
    except VlaError as error:
        raise SystemExit(f'error: {error}') from error
    except KeyboardInterrupt:
        raise SystemExit('stopped; go on with the same command and --resume') from None


if __name__ == '__main__':
    main()
