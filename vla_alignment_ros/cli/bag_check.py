"""`vla_bag check`: which demonstrations are worth training on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
import tyro

from vla_alignment_ros.cli.bag_paths import chosen_episodes
from vla_alignment_ros.cli.console import command_line, plain, printable
from vla_alignment_ros.data.bag import find_episodes
from vla_alignment_ros.data.quality import EpisodeQuality, Limits, ordered, Severity
from vla_alignment_ros.data.quality_folder import unfinished
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.resources import package_path

if TYPE_CHECKING:  # torch takes its time; --help must not
    from vla_alignment_ros.evaluation.label_check import LabelJudge

_STYLES = {Severity.INFO: 'dim', Severity.WARNING: 'yellow', Severity.ERROR: 'red'}
_LIMITS = Limits()
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar='PATH')]


def check(
    paths: tyro.conf.Positional[tuple[Path, ...]],
    /,
    checkpoint: OptionalPath = None,
    report: OptionalPath = None,
    json: OptionalPath = None,
    fail_on: Literal['warning', 'error'] = 'error',
    embodiment: str | None = None,
    device: str = 'auto',
    limits: Annotated[Limits, tyro.conf.arg(name='')] = _LIMITS,
) -> int:
    """Grade episodes by what training would trip over.

    Missing and uneven topics, stamps, dead cameras, odd commands, idle time, copies, labels that
    contradict themselves; with --checkpoint also words that do not fit. Nothing is changed. Exit
    code 0: nothing is wrong; 1: something is, as bad as --fail-on or worse; 2: the command was
    not understood.

    Args:
        paths: Episodes, or folders to search for them.
        checkpoint: Folder (or name of a shipped one, `tabletop`) of a policy that is asked whether
            words, scene and actions fit, and which other sentence of the folder fits better.
        report: Folder for an HTML report with pictures, and a table of suggested labels.
        json: File for everything that was found.
        fail_on: From which severity on the exit code is 1.
        embodiment: Robot (name or file) of episodes that name none.
        device: 'cpu', 'cuda', or 'auto': the GPU where there is one. For --checkpoint.
        limits: What is still fine.
    """
    from vla_alignment_ros.evaluation.grading import grade_episodes
    from vla_alignment_ros.evaluation.quality_report import (
        Made,
        write_figures,
        write_quality_report,
    )

    episodes = list(dict.fromkeys(f for path in paths for f in find_episodes(path)))
    if not episodes and not unfinished(paths):
        chosen_episodes(paths)  # says what is missing
    robot = None if embodiment is None else Embodiment.load(embodiment)
    _make_folders(report, json)
    judge = None if checkpoint is None else _judge(checkpoint, device)
    console = Console()
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, int] = {}

        def note(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done)

        found = grade_episodes(episodes, paths, limits, judge, robot, note)
    made = Made(
        command_line(),
        limits,
        '' if checkpoint is None else str(checkpoint),
        0.0 if judge is None else judge.go,
    )
    shown = [e for e in found if e.worst > Severity.INFO]
    if shown:
        console.print(findings_table(shown))
        console.print()
    console.print(summary_line(found), highlight=False)
    if json is not None:
        write_figures(json, found, made)
        console.print(f'figures: {json}', highlight=False, soft_wrap=True, markup=False)
    if report is not None:
        page = write_quality_report(report, found, made)
        console.print(f'report:  {page}', highlight=False, soft_wrap=True, markup=False)
    return int(any(e.worst >= Severity[fail_on.upper()] for e in found))


def findings_table(episodes: Sequence[EpisodeQuality]) -> Table:
    """One line per finding, the worst episodes first."""
    table = Table(box=None, pad_edge=False, header_style='bold')
    table.add_column('episode', overflow='fold')
    table.add_column('grade')
    table.add_column('kind')
    table.add_column('what', overflow='fold')
    for episode in sorted(episodes, key=lambda e: -e.worst):
        name = plain(episode.name)
        for finding in ordered(episode.findings):
            if finding.severity > Severity.INFO:
                style = _STYLES[finding.severity]
                grade = f'[{style}]{finding.severity.name.lower()}[/]'
                table.add_row(name, grade, finding.kind, plain(finding.text))
                name = ''
    return table


def summary_line(episodes: Sequence[EpisodeQuality]) -> str:
    """The last line: all episodes together."""
    from vla_alignment_ros.evaluation.grading import summary

    counts = summary(episodes)
    grades = counts['grades']
    kinds = ', '.join(f'{kind} {sum(n.values())}' for kind, n in counts['kinds'].items())
    text = (
        f'{counts["episodes"]} episodes: {grades["good"]} good, {grades["warning"]} with '
        f'warnings, {grades["error"]} with errors'
    )
    return printable(text + (f' ({kinds})' if kinds else ''))


def _judge(checkpoint: Path, device: str) -> LabelJudge:
    import torch

    from vla_alignment_ros.evaluation.label_check import LabelJudge
    from vla_alignment_ros.policy.policy import Policy

    torch.set_num_threads(1)  # as the other commands: another number of threads rounds differently
    shipped = package_path('checkpoints', checkpoint.name)
    named = not checkpoint.is_dir() and len(checkpoint.parts) == 1 and shipped.is_dir()
    return LabelJudge(Policy.load(shipped if named else checkpoint, device=device))


def _make_folders(report: Path | None, json: Path | None) -> None:
    """Fail before the episodes, not after them, where results cannot be written."""
    for folder in (report, None if json is None else json.parent):
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f'cannot write to {folder}: {error.strerror}') from error
