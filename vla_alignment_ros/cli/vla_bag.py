"""`vla_bag`: what is in recorded demonstrations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
import statistics
import sys

from rich.console import Console
from rich.table import Table
import tyro

from vla_alignment_ros.cli.console import guarded, NEWLINE, printable
from vla_alignment_ros.data.bag import EpisodeInfo, EpisodeReader, find_episodes
from vla_alignment_ros.errors import BagError

DESCRIPTION = 'Look at recorded demonstrations: one rosbag2 folder per episode.'
_VERDICTS = {True: '[green]yes[/]', False: '[red]no[/]', None: '?'}

app = tyro.extras.SubcommandApp()


@app.command
def info(paths: tyro.conf.Positional[tuple[Path, ...]], /) -> int:
    """Print episodes with instruction, success, duration and size, and how often each topic came.

    Exit code 1 if an episode is damaged; it is named in the table.

    Args:
        paths: Episodes, or folders to search for them.
    """
    if not paths:
        raise BagError('give an episode, or a folder of episodes: vla_bag info PATH')
    folders = list(dict.fromkeys(f for path in paths for f in find_episodes(path)))
    if not folders:
        raise BagError(
            f'no episode in {", ".join(map(str, paths))} (an episode is a folder with a '
            f'metadata.yaml; unfinished recordings do not count)'
        )
    console = Console()
    episodes: list[EpisodeInfo] = []
    damaged: dict[Path, str] = {}
    for folder in folders:
        try:
            episodes.append(EpisodeReader(folder).info)
        except BagError as error:
            damaged[folder] = str(error)
    if episodes:
        console.print(episode_table(episodes))
        console.print()
        console.print(topic_table(episodes))
        console.print()
        console.print(summary(episodes), highlight=False)
    for reason in damaged.values():
        text = printable(reason, keep=NEWLINE)
        console.print(text, style='red', markup=False, highlight=False, soft_wrap=True)
    return 1 if damaged else 0


def episode_table(episodes: Sequence[EpisodeInfo]) -> Table:
    """One line per episode."""
    table = Table(box=None, pad_edge=False, header_style='bold')
    for name in ('episode', 'task', 'instruction'):
        table.add_column(name, overflow='fold')
    table.add_column('success')
    for name in ('seconds', 'messages', 'MB'):
        table.add_column(name, justify='right')
    for episode in episodes:
        table.add_row(
            _plain(episode.name),
            _plain(episode.extra.get('task', '')),
            _plain(episode.instruction),
            _VERDICTS[episode.success],
            f'{episode.duration_s:.1f}',
            str(sum(episode.message_counts.values())),
            f'{_size(episode) / 1e6:.1f}',
        )
    return table


def topic_table(episodes: Sequence[EpisodeInfo]) -> Table:
    """One line per topic: messages in all, and the median of its rate over the episodes."""
    counts: Counter[tuple[str, str]] = Counter()
    rates: dict[tuple[str, str], list[float]] = {}
    needed: set[str] = set()
    for episode in episodes:
        if episode.embodiment is not None:
            needed |= set(episode.embodiment.topics())
        for topic, count in episode.message_counts.items():
            key = (topic, episode.message_types[topic])
            counts[key] += count
            if episode.duration_s > 0 and count > 1:
                # count messages have count - 1 intervals
                rates.setdefault(key, []).append((count - 1) / episode.duration_s)
    table = Table(box=None, pad_edge=False, header_style='bold')
    for name in ('topic', 'type'):
        table.add_column(name, overflow='fold')
    for name in ('messages', 'Hz', 'in episodes'):
        table.add_column(name, justify='right')
    for key in sorted(counts, key=lambda k: (k[0] not in needed, k)):
        topic, msgtype = key
        present = sum(1 for e in episodes if e.message_counts.get(topic))
        table.add_row(
            _plain(topic),
            _plain(msgtype),
            str(counts[key]),
            f'{statistics.median(rates[key]):.1f}' if key in rates else '',
            f'{present}/{len(episodes)}',
        )
    return table


def summary(episodes: Sequence[EpisodeInfo]) -> str:
    """The last line: all episodes together."""
    seconds = sum(episode.duration_s for episode in episodes)
    size = sum(_size(episode) for episode in episodes)
    verdicts = Counter(episode.success for episode in episodes)
    robots = Counter(e.embodiment.name if e.embodiment else 'unnamed' for e in episodes)
    said = len({episode.instruction for episode in episodes if episode.instruction})
    return (
        f'{len(episodes)} episodes, {seconds:.1f} s, {size / 1e6:.1f} MB, '
        f'{said} instructions; {verdicts[True]} succeeded, {verdicts[False]} failed, '
        f'{verdicts[None]} not judged; '
        f'embodiment {", ".join(_plain(name) for name in sorted(robots))}'
    )


def _size(episode: EpisodeInfo) -> int:
    return sum(file.stat().st_size for file in episode.path.iterdir() if file.is_file())


def _plain(text: str) -> str:
    # square brackets in recorded text are not markup
    return printable(text).replace('[', r'\[')


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    return guarded(
        'vla_bag',
        lambda: app.cli(prog='vla_bag', description=DESCRIPTION, args=arguments),
    )


if __name__ == '__main__':
    sys.exit(main())
