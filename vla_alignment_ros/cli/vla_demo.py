"""`vla_demo`: the whole loop on one machine, in minutes, or from nothing to a trained policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
import sys
from typing import Annotated

from rich.console import Console
from rich.table import Table
import tyro

from vla_alignment_ros.cli import check_embodiment
from vla_alignment_ros.cli.console import guarded, no_ros, results_table
from vla_alignment_ros.cli.stages import run_stages, Stage
from vla_alignment_ros.cli.vla_evaluate import evaluate
from vla_alignment_ros.cli.vla_evaluate import Options as EvaluateOptions
from vla_alignment_ros.data.bag import EpisodeReader
from vla_alignment_ros.embodiment import Embodiment, package_path
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.evaluation.demonstrations import record_over_ros
from vla_alignment_ros.evaluation.films import encode_png, filmstrip
from vla_alignment_ros.evaluation.report import FilmShelf
from vla_alignment_ros.evaluation.results import ABSENT
from vla_alignment_ros.evaluation.runner import plan_splits
from vla_alignment_ros.sim.spec import TASKS
from vla_alignment_ros.sim.tasks import sample_episode

DESCRIPTION = """Record, act, measure: the loop over real ROS 2 topics, on a simulated arm.

Three demonstrations are recorded into bags, then the shipped policy does what 20 sentences say,
in scenes that it has never seen. Some sentences name something that is not there: to refuse is
right then. The exit code is 1 where the shipped policy succeeds in fewer than half of them.

`vla_demo full` makes such a policy from nothing, and `vla_demo --check-embodiment FILE`
compares a robot of yours with its description; each has a `--help` of its own."""

FULL_DESCRIPTION = """From nothing to a measured policy: demonstrations, training, evaluation.

This is how the shipped checkpoint was made. On two cores without a GPU, in round figures: 12
minutes for the demonstrations (15 GB), 60 for the training, 10 for the evaluation.
It goes on where it was stopped: a stage whose result is there, made with the same settings, is
not run again."""

# what the demo asks of the policy: split → episodes
PROGRAMME = {'seen': 12, 'swapped': 4, 'absent': 4}


@dataclass(frozen=True)
class Demo:
    """See DESCRIPTION."""

    out: Path = Path('runs/demo')
    """Folder for bags, figures and report."""
    checkpoint: Annotated[Path | None, tyro.conf.arg(metavar='PATH')] = None
    """Checkpoint to run; the shipped one if not given."""
    seed: int = 0
    """Scene number of the first episode of each split."""
    device: str = 'auto'
    """'cpu', 'cuda', or 'auto': the GPU where there is one."""


@dataclass(frozen=True)
class Full:
    """See FULL_DESCRIPTION."""

    out: Path = Path('runs/full')
    """Folder for demonstrations, training run, figures and report."""
    demonstrations: int = 2700
    """Episodes that the expert demonstrates, scene numbers 0, 1, 2, …; 6 MB of disk each."""
    steps: Annotated[int | None, tyro.conf.arg(metavar='INT')] = None
    """Optimiser steps; if not given, those of the training settings."""
    seed: int = 0
    """Seed of the training: weights, order of the samples, noise."""
    config: Annotated[Path | None, tyro.conf.arg(metavar='PATH')] = None
    """Settings of the training; config/train/tabletop.yaml if not given."""
    workers: int = 2
    """Processes that record."""
    episodes: int = 50
    """Episodes of each split that are evaluated, scene numbers 0, 1, 2, …"""


def demo(options: Demo) -> int:
    """Record three episodes over ROS, run the policy for twenty, report.

    The exit code is 1 where the shipped checkpoint fails more often than it succeeds: then
    something is wrong here. Another checkpoint is measured and not judged.
    """
    console = Console()
    shipped = package_path('checkpoints', 'tabletop')
    checkpoint = options.checkpoint or shipped
    if not checkpoint.is_dir():
        raise ConfigError(f'no checkpoint at {checkpoint}; give one with --checkpoint')
    console.rule('1  Three demonstrations, recorded over ROS 2', align='left')
    show_demonstrations(options.out / 'bags', console)
    total = sum(PROGRAMME.values())
    console.rule(f'2  The policy does what {total} sentences say, over ROS 2', align='left')
    plan = [
        item
        for split, episodes in PROGRAMME.items()
        for item in plan_splits((split,), episodes, options.seed)
    ]
    shelf = FilmShelf()
    evaluation, page = evaluate(
        EvaluateOptions(
            checkpoint=checkpoint,
            seed=options.seed,
            splits=','.join(PROGRAMME),
            episodes=total,
            json=options.out / 'results.json',
            report=options.out / 'report',
            device=options.device,
        ),
        plan,
        console,
        shelf,
    )
    picture = options.out / 'film.png'
    moved = (split for split in PROGRAMME if split != ABSENT)
    films = [film for split in moved for _, film in shelf.films(split, True)]
    if films:
        picture.write_bytes(encode_png(filmstrip(films[0])))
    console.print(results_table(evaluation))
    print(f'report: {page.resolve()}')
    won = sum(episode.success for episode in evaluation.episodes)
    poor = 2 * won < total and checkpoint.resolve() == shipped.resolve()
    if poor:
        print(
            'vla_demo: the shipped policy succeeded in fewer than half of the episodes; what it '
            'did is in the report',
            file=sys.stderr,
            flush=True,
        )
    print(f'demo: success {won}/{total}')  # stays the last line
    return 1 if poor else 0


def show_demonstrations(folder: Path, console: Console) -> None:
    """Record one episode of each task over ROS and print what is in the bags."""
    table = Table(box=None, pad_edge=False, header_style='bold')
    table.add_column('bag', no_wrap=True)
    table.add_column('instruction')
    for name in ('s', 'images', 'commands', 'MB'):
        table.add_column(name, justify='right')
    with console.status('starting simulator, expert and recorder') as status:
        for path in record_over_ros(folder, demonstration_scenes(), _recording_client):
            info = EpisodeReader(path).info
            status.update(f'recorded: {info.instruction}')
            embodiment, counts = info.embodiment, info.message_counts
            size = sum(file.stat().st_size for file in path.iterdir())
            table.add_row(
                path.name,
                info.instruction,
                f'{info.duration_s:.1f}',
                str(sum(counts[camera.topic] for camera in embodiment.cameras)),
                str(min(counts[topic] for topic in embodiment.command_topics())),
                f'{size / 1e6:.1f}',
            )
    console.print(table)
    console.print(f'bags: {folder}', highlight=False, soft_wrap=True)


def demonstration_scenes(split: str = 'train') -> list[tuple[str, int]]:
    """Return the first scene of each task, as (split, scene number)."""
    first: dict[str, int] = {}
    seed = 0
    while len(first) < len(TASKS):
        first.setdefault(sample_episode(seed, split).task, seed)
        seed += 1
    return [(split, first[task]) for task in TASKS]


def full(options: Full) -> int:
    """Demonstrations, training, evaluation; each stage only if its result is not there."""
    out = options.out
    config = options.config or package_path('config', 'train', 'tabletop.yaml')
    if not config.is_file():
        raise ConfigError(f'no training settings at {config}; give a file with --config')
    python = (sys.executable, '-m')
    record = Stage(
        'demonstrations',
        (
            *python, 'vla_alignment_ros.sim.record',
            '--out', str(out / 'demonstrations'), '--episodes', str(options.demonstrations),
            '--split', 'train', '--workers', str(options.workers), '--resume',
        ),
        {'demonstrations': options.demonstrations, 'split': 'train'},
    )  # fmt: skip
    train = Stage(
        'training',
        (
            *python, 'vla_alignment_ros.cli.vla_train',
            '--data', str(out / 'demonstrations'), '--out', str(out / 'training'),
            '--config', str(config), '--seed', str(options.seed), '--resume',
            *(() if options.steps is None else ('--optimizer.steps', str(options.steps))),
        ),
        {'config': config.read_text(encoding='utf-8'), 'seed': options.seed,
         'steps': options.steps},
    )  # fmt: skip
    measure = Stage(
        'evaluation',
        (
            *python, 'vla_alignment_ros.cli.vla_evaluate',
            '--checkpoint', str(out / 'training' / 'checkpoint'), '--splits', 'all',
            '--episodes', str(options.episodes), '--json', str(out / 'results.json'),
            '--report', str(out / 'report'),
        ),
        {'episodes': options.episodes, 'splits': 'all'},
    )  # fmt: skip
    code = run_stages(out, (record, train, measure), Console())
    if code == 0:
        print(f'figures: {out / "results.json"}')
        print(f'report:  {out / "report" / "index.html"}')
    return code


def _recording_client(
    domain_id: int, check: Callable[[], None], embodiment: Embodiment
) -> object:
    try:
        from vla_alignment_ros.nodes.recording_client import RecordingClient
    except ImportError as error:
        raise no_ros(error) from error
    return RecordingClient(domain_id, check, embodiment)


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ['full']:
        chosen = tyro.cli(Full, prog='vla_demo full', description=FULL_DESCRIPTION, args=given[1:])
        return guarded('vla_demo', lambda: full(chosen))
    if given[:1] == [check_embodiment.OPTION]:
        return check_embodiment.main(given[1:])
    options = tyro.cli(Demo, prog='vla_demo', description=DESCRIPTION, args=given)
    return guarded('vla_demo', lambda: demo(options))


if __name__ == '__main__':
    sys.exit(main())
