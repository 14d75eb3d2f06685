"""What the command lines share: errors on one line, live progress, and the table of results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
import math
import shlex
import signal
import sys
import threading

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from vla_alignment_ros.errors import ConfigError, VlaError
from vla_alignment_ros.evaluation.films import Film
from vla_alignment_ros.evaluation.report import FilmShelf
from vla_alignment_ros.evaluation.results import EpisodeResult, Evaluation
from vla_alignment_ros.evaluation.runner import describe

USAGE_ERROR = 2
INTERRUPTED = 130
NEWLINE = '\n'
_ENDING = (signal.SIGINT, signal.SIGTERM)


def printable(text: str, keep: str = '') -> str:
    """Text from outside, fit for a terminal: what would steer it is shown as its escape."""
    return ''.join(
        letter if letter in keep or letter.isprintable()
        else letter.encode('unicode_escape').decode()
        for letter in text
    )  # fmt: skip


def plain(text: str) -> str:
    """Text from outside as one cell of a table: printable, and its square brackets no markup."""
    return printable(text).replace('[', r'\[')


def guarded(name: str, run: Callable[[], int]) -> int:
    """Run a command; a mistake that the user can mend is one line and exit code 2.

    SIGTERM, and SIGINT where a shell left it ignored, end it like Ctrl-C: the nodes that it
    started are ended too.
    """
    in_main = threading.current_thread() is threading.main_thread()
    before = {n: signal.signal(n, signal.default_int_handler) for n in _ENDING} if in_main else {}
    try:
        return run()
    except VlaError as error:
        print(f'{name}: {printable(str(error), keep=NEWLINE)}', file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print(f'{name}: interrupted', file=sys.stderr)
        return INTERRUPTED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def no_ros(error: ImportError) -> ConfigError:
    """Return what to say where a command needs ROS 2 and there is none."""
    return ConfigError(
        f'ROS 2 is not importable here ({error}); install the standalone extra, or source a '
        f'ROS 2 installation'
    )


def command_line() -> str:
    """Return the command as it can be typed again."""
    name = sys.argv[0].rsplit('/', 1)[-1]
    return shlex.join([name, *sys.argv[1:]])


def show_progress(
    console: Console,
    episodes: Iterable[tuple[EpisodeResult, Film]],
    total: int,
    shelf: FilmShelf,
    results: list[EpisodeResult],
) -> None:
    """Run the episodes into `results`, one line each over a bar that says how many are left."""
    columns = (
        TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn('left'), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task('episodes', total=total)
        for result, film in episodes:
            results.append(result)
            shelf.add(result, film)
            style = 'green' if result.success else 'red'
            line = f'{len(results):>{len(str(total))}}/{total} {describe(result)}'
            progress.console.print(
                line, style=style, markup=False, highlight=False, soft_wrap=True
            )
            won = sum(r.success for r in results)
            progress.update(task, advance=1, description=f'{won} of {len(results)} succeeded')


def results_table(evaluation: Evaluation) -> Table:
    """Return the split table."""
    table = Table(box=None, pad_edge=False, header_style='bold')
    table.add_column('split')
    names = ('episodes', 'success', '95 % interval', 'wrong object', 'refused', 'score')
    for name in names:
        table.add_column(name, justify='right')
    for name, split in evaluation.splits.items():
        low, high = split.ci95
        score = split.median_score
        table.add_row(
            name,
            str(len(split.episodes)),
            f'{100 * split.success_rate:.0f} %',
            f'{100 * low:.0f} to {100 * high:.0f} %',
            f'{100 * split.wrong_object_rate:.0f} %',
            f'{100 * split.refused_rate:.0f} %',
            '' if math.isnan(score) else f'{score:.2f}',
        )
    return table
