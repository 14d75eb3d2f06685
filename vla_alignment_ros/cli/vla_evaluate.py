"""`vla_evaluate`: a checkpoint in closed loop, or its alignment, in numbers and in pictures."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
import sys
from typing import Annotated, Literal, TYPE_CHECKING

from rich.console import Console
import tyro

from vla_alignment_ros.cli.console import command_line, guarded, results_table, show_progress
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.evaluation.episode import EpisodeLimits
from vla_alignment_ros.evaluation.report import FilmShelf, Settings, write_report
from vla_alignment_ros.evaluation.results import (
    EpisodeResult,
    Evaluation,
    gather,
    parse_splits,
    SPLIT_MEANING,
)
from vla_alignment_ros.evaluation.runner import EpisodeRunner, plan_splits, Planned, run_plan

if TYPE_CHECKING:  # torch takes its time; --help must not
    from vla_alignment_ros.policy.checkpoint import Checkpoint

DESCRIPTION = """
Run a checkpoint in closed loop and say how often it does what it is told.

Simulator and policy run as two ROS 2 nodes, in processes and a ROS domain of their own, in
lock-step: simulated time waits for every command, so the same seed gives the same result on any
machine.

Splits: """ + ''.join(
    f'\n  {name:<16} {meaning}' for name, meaning in SPLIT_MEANING.items()
) + """

With --alignment nothing moves: it is measured what the checkpoint takes words and pictures to
mean (retrieval, zero-shot, grounding, calibration), on scenes of the splits seen, unseen_objects
and absent.

With --calibrate the gate is calibrated anew on your own episodes. The weights stay as they are.
"""


OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar='PATH')]
Execution = Literal['newest', 'ensemble', 'realtime']
OptionalInt = Annotated[int | None, tyro.conf.arg(metavar='INT')]


@dataclass(frozen=True)
class Options:
    """See DESCRIPTION."""

    checkpoint: Path
    """Checkpoint folder."""
    splits: str = 'seen'
    """Splits to run, separated by commas, or 'all'."""
    episodes: int = 50
    """Episodes of each split."""
    seed: int = 0
    """Scene number of the first episode of each split; the next ones follow it."""
    json: OptionalPath = None
    """File for the figures: success rate, 95 % interval, wrong object and refused rate."""
    report: OptionalPath = None
    """Folder for the HTML report with films (index.html needs no other file)."""
    candidates: OptionalInt = None
    """Action chunks drawn per decision; if not given, as many as the policy node draws itself."""
    gate: bool = True
    """Whether a low alignment score holds the arm, as in service; --no-gate lets it try."""
    device: str = 'auto'
    """'cpu', 'cuda', or 'auto': the GPU where there is one."""
    max_steps: int = EpisodeLimits.max_steps
    """Control steps after which an episode has failed."""
    in_process: bool = False
    """Leave ROS out: same bytes and decisions in one process. Faster, but no ROS is tested."""
    execution: Execution = 'newest'
    """Of action chunks that overlap: the newest alone, the mean of all (ensemble), or the newest
    as a continuation of the plan under way (realtime); as the policy node's parameter."""
    delay_steps: int = 0
    """With --in-process: control steps that each decision takes, while the arm moves on."""
    logs: OptionalPath = None
    """Folder for the nodes' logs; without it they are shown only if a node fails."""
    alignment: bool = False
    """Measure the alignment instead of running episodes; --splits does not apply."""
    calibrate: Annotated[tuple[Path, ...], tyro.conf.arg(metavar='PATH …')] = ()
    """Folders of recorded episodes: calibrate the alignment score and the gate's thresholds on
    them, and show what old and new ones do; --splits and --episodes do not apply."""
    out: OptionalPath = None
    """With --calibrate: folder for a copy of the checkpoint with the new calibration."""
    in_place: bool = False
    """With --calibrate: write the new calibration into the checkpoint itself."""
    training_logs: OptionalPath = None
    """Folder with the run's TensorBoard files; if not given, the one beside the checkpoint."""


def evaluate(
    options: Options, plan: list[Planned], console: Console, shelf: FilmShelf
) -> tuple[Evaluation, Path | None]:
    """Run a plan as the options say; return what came of it, and the report's page.

    Interrupted, it writes what it has (the counts say how many episodes that is) and goes on
    being interrupted.
    """
    limits = EpisodeLimits(max_steps=options.max_steps)
    _make_folders(options)
    checkpoint = read_checkpoint(options.checkpoint)
    results: list[EpisodeResult] = []
    try:
        with make_runner(options, checkpoint, limits) as runner:
            show_progress(console, run_plan(runner, plan), len(plan), shelf, results)
    except KeyboardInterrupt:
        if results:
            _write(options, checkpoint, results, shelf)
        raise
    return _write(options, checkpoint, results, shelf)


def _write(
    options: Options, checkpoint: Checkpoint, results: list[EpisodeResult], shelf: FilmShelf
) -> tuple[Evaluation, Path | None]:
    """Write figures and report, where they are wanted."""
    evaluation = gather(str(options.checkpoint), options.seed, results)
    if options.json is not None:
        evaluation.write_json(options.json)
    page = None
    if options.report is not None:
        chosen = {k: str(v) for k, v in asdict(options).items() if v is not None}
        ros = 'left out' if options.in_process else 'simulator and policy as processes'
        settings = Settings(
            command=command_line(),
            go=checkpoint.calibration.go,
            hold=checkpoint.calibration.hold,
            rate_hz=checkpoint.embodiment.rate_hz,
            config=chosen | {'ROS 2': ros},
        )
        page = write_report(options.report, evaluation, shelf, settings)
    return evaluation, page


def read_checkpoint(folder: Path) -> Checkpoint:
    """Load the checkpoint here first, so that a broken one is named before a node starts."""
    from vla_alignment_ros.policy.checkpoint import load_checkpoint

    return load_checkpoint(folder)


def make_runner(
    options: Options, checkpoint: Checkpoint, limits: EpisodeLimits
) -> AbstractContextManager[EpisodeRunner]:
    """Return the runner: over ROS, or in this process if that was asked for."""
    film = options.report is not None
    if options.in_process:
        import torch

        from vla_alignment_ros.control.decisions import PipelineConfig
        from vla_alignment_ros.evaluation.rollout import InProcessRunner
        from vla_alignment_ros.policy.policy import Policy

        # as the policy node does: another number of threads rounds differently
        torch.set_num_threads(1)
        policy = Policy(checkpoint, device=options.device)
        config = PipelineConfig(
            go=checkpoint.calibration.go if options.gate else 0.0,
            hold=checkpoint.calibration.hold if options.gate else 0.0,
            candidates=options.candidates,
            execution=options.execution,
        )
        return InProcessRunner(
            policy.embodiment, policy, config, limits, film, options.delay_steps
        )
    from vla_alignment_ros.evaluation.closed_loop import ClosedLoopConfig, ClosedLoopRunner

    config = ClosedLoopConfig(
        checkpoint=options.checkpoint,
        embodiment=checkpoint.embodiment,
        device=options.device,
        candidates=options.candidates,
        execution=options.execution,
        gate=options.gate,
        limits=limits,
        film=film,
        log_folder=options.logs,
    )
    return ClosedLoopRunner(config, connect)


def _make_folders(options: Options) -> None:
    """Fail before the episodes, not after them, where results cannot be written."""
    wanted = [path.parent for path in (options.json,) if path is not None]
    wanted += [path for path in (options.report,) if path is not None]
    for folder in wanted:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f'cannot write to {folder}: {error.strerror}') from error


def connect(domain_id: int, check: object, film_topic: str | None) -> object:
    """Return the client of the two nodes. Imports rclpy, so only where ROS is used."""
    try:
        from vla_alignment_ros.nodes.evaluation_client import EvaluationClient
    except ImportError as error:
        raise ConfigError(
            f'ROS 2 is not importable here ({error}); install the standalone extra, source a '
            f'ROS 2 installation, or use --in-process'
        ) from error
    return EvaluationClient(domain_id, check, film_topic)


def run(options: Options) -> int:
    console = Console()
    if options.delay_steps and not options.in_process:
        raise ConfigError('--delay-steps belongs to --in-process: over ROS, time waits')
    if not options.calibrate and (options.out is not None or options.in_place):
        raise ConfigError('--out and --in-place belong to --calibrate')
    if options.calibrate:
        from vla_alignment_ros.cli import calibration_run

        _make_folders(options)
        return calibration_run.run(
            console,
            options.checkpoint,
            options.calibrate,
            options.seed,
            options.device,
            options.json,
            options.out,
            options.in_place,
        )
    if options.alignment:
        from vla_alignment_ros.cli import alignment_run

        _make_folders(options)
        return alignment_run.run(
            console,
            options.checkpoint,
            options.episodes,
            options.seed,
            options.device,
            options.json,
            options.report,
            options.training_logs,
        )
    plan = plan_splits(parse_splits(options.splits), options.episodes, options.seed)
    evaluation, page = evaluate(options, plan, console, FilmShelf())
    console.print(results_table(evaluation))
    if options.json is not None:
        console.print(f'figures: {options.json}', highlight=False, soft_wrap=True)
    if page is not None:
        console.print(f'report:  {page}', highlight=False, soft_wrap=True)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    options = tyro.cli(Options, prog='vla_evaluate', description=DESCRIPTION, args=arguments)
    return guarded('vla_evaluate', lambda: run(options))


if __name__ == '__main__':
    sys.exit(main())
