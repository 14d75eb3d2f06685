"""What shows only beside the other episodes: copies, outliers, recordings that never ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from vla_alignment_ros.data.bag_format import METADATA
from vla_alignment_ros.data.bag_places import is_recording
from vla_alignment_ros.data.quality import EpisodeQuality, Finding, Limits, Severity
from vla_alignment_ros.data.recover import find_damaged
from vla_alignment_ros.observation import normalize_instruction

FEWEST = 8  # episodes from which it can be told what is usual
LEAST_SPREAD = 0.05  # of the median: less is no spread, or equal episodes would be outliers
# measure -> what is said of it
TOLD = {
    'duration_s': 'lasts {:.1f} s',
    'joint_travel': 'its joints travel {:.1f} rad in all',
}


def beside_the_others(episodes: Sequence[EpisodeQuality], limits: Limits) -> list[EpisodeQuality]:
    """The same episodes with what their comparison finds, in the same order."""
    found: dict[Path, list[Finding]] = {episode.path: [] for episode in episodes}
    _find_copies(episodes, found)
    by_task: dict[str, list[EpisodeQuality]] = {}
    for episode in episodes:
        if episode.usable:
            by_task.setdefault(episode.task, []).append(episode)
    for alike in by_task.values():
        _find_outliers(alike, limits, found)
    return [episode.plus(*found[episode.path]) for episode in episodes]


def unusual(values: np.ndarray) -> tuple[float, np.ndarray]:
    """Median of values (N,), and how many robust deviations each is away from it, (N,), signed."""
    median = float(np.median(values))
    deviation = 1.4826 * float(np.median(np.abs(values - median)))  # σ, were they normal
    return median, (values - median) / max(deviation, LEAST_SPREAD * abs(median), 1e-9)


def _find_copies(episodes: Sequence[EpisodeQuality], found: dict[Path, list[Finding]]) -> None:
    first: dict[str, EpisodeQuality] = {}
    for episode in episodes:
        if episode.digest is None:
            continue
        earlier = first.setdefault(episode.digest, episode)
        if earlier is episode:
            continue
        text = f'the same recording as {_name(earlier, episode)}'
        found[episode.path].append(Finding('duplicate', Severity.WARNING, text))
        a, b = (normalize_instruction(e.instruction) for e in (earlier, episode))
        if a != b:
            for one, other in ((episode, earlier), (earlier, episode)):
                text = f'{_name(other, one)}, the same recording, says “{other.instruction}”'
                found[one.path].append(Finding('instruction', Severity.ERROR, text))


def _name(episode: EpisodeQuality, beside: EpisodeQuality) -> str:
    return str(episode.path) if episode.name == beside.name else episode.name


def _find_outliers(
    alike: Sequence[EpisodeQuality], limits: Limits, found: dict[Path, list[Finding]]
) -> None:
    if len(alike) < FEWEST:
        return
    measures = dict(TOLD)
    for name in alike[0].measures:
        if name.startswith('brightness_'):
            camera = name.removeprefix('brightness_')
            measures[name] = f'its pictures of {camera} have a mean level of {{:.0f}} of 255'
    for name, form in measures.items():
        known = [e for e in alike if np.isfinite(e.measures.get(name, np.nan))]
        if len(known) < FEWEST:
            continue
        median, away = unusual(np.array([e.measures[name] for e in known]))
        for episode, deviation in zip(known, away):
            if abs(deviation) > limits.outlier:
                among = f'{episode.task} episodes' if episode.task else 'episodes'
                text = f'{form.format(episode.measures[name])}; the others about {median:.3g}'
                text += f' ({len(known)} {among})'
                found[episode.path].append(Finding('outlier', Severity.WARNING, text))


def unfinished(roots: Iterable[Path]) -> list[EpisodeQuality]:
    """Recordings under the folders that have no end: still running, cut off, or damaged."""
    found = []
    for root in roots:
        if root.is_file():
            continue  # a list names episodes that have their end
        for path in find_damaged(root):
            if (path / METADATA).is_file():
                continue  # an episode, and looked at as one
            running = is_recording(path)
            text = 'it is being recorded just now' if running else (
                'its recording was cut off; `vla_bag recover` makes a bag of what was saved'
            )
            severity = Severity.WARNING if running else Severity.ERROR
            found.append(EpisodeQuality(path, findings=(Finding('damaged', severity, text),)))
    return found
