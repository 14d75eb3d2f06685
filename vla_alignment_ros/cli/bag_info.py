"""`vla_bag info`: what is in recorded demonstrations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
import statistics

from rich.console import Console
from rich.table import Table
import tyro

from vla_alignment_ros.cli.bag_paths import chosen_episodes
from vla_alignment_ros.cli.console import NEWLINE, plain, printable
from vla_alignment_ros.data.bag import EpisodeInfo, EpisodeReader
from vla_alignment_ros.errors import BagError

_VERDICTS = {True: '[green]yes[/]', False: '[red]no[/]', None: '?'}


def info(paths: tyro.conf.Positional[tuple[Path, ...]], /) -> int:
    """Print episodes with instruction, success, duration and size, and how often each topic came.

    Exit code 1 if an episode is damaged; it is named in the table.

    Args:
        paths: Episodes, or folders to search for them.
    """
    folders = chosen_episodes(paths)
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
            plain(episode.name),
            plain(episode.extra.get('task', '')),
            plain(episode.instruction),
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
            plain(topic),
            plain(msgtype),
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
        f'embodiment {", ".join(plain(name) for name in sorted(robots))}'
    )


def _size(episode: EpisodeInfo) -> int:
    return sum(file.stat().st_size for file in episode.path.iterdir() if file.is_file())
