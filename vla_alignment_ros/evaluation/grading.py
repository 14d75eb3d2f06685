"""Grades folders of episodes: one after the other, then beside each other, then their words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vla_alignment_ros.data.quality import EpisodeQuality, grade, KINDS, Limits, Severity
from vla_alignment_ros.data.quality_episode import inspect_episode
from vla_alignment_ros.data.quality_folder import beside_the_others, unfinished
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.evaluation.label_check import judged, LabelJudge, with_labels_checked

GRADES = ('good', 'warning', 'error')
Note = Callable[[str, int, int], None]  # told what is done, and how many of how many


def grade_episodes(
    episodes: Sequence[Path],
    roots: Sequence[Path],
    limits: Limits,
    judge: LabelJudge | None = None,
    embodiment: Embodiment | None = None,
    note: Note = lambda what, done, total: None,
) -> list[EpisodeQuality]:
    """What is wrong with each episode; a few numbers of each are kept, never its messages.

    Args:
        episodes: to look at.
        roots: folders where recordings that were never finished are looked for too.
        limits: what is still fine.
        judge: a policy that is asked whether words and actions fit; None: nobody is.
        embodiment: of episodes that name none.
        note: told how far it is.
    """
    found = []
    for number, path in enumerate(episodes, 1):
        one = inspect_episode(path, limits, embodiment)
        found.append(one if judge is None else judged(one, judge))
        note('episodes', number, len(episodes))
    found = beside_the_others(found, limits)
    if judge is not None:
        found = with_labels_checked(found, judge, lambda a, b: note('suspicious', a, b))
    return [*found, *unfinished(roots)]


def summary(episodes: Sequence[EpisodeQuality]) -> dict[str, Any]:
    """Counts: episodes by grade, and by kind of finding (errors, warnings, remarks)."""
    grades = Counter(map(grade, episodes))
    kinds = {}
    for kind in KINDS:
        worst = Counter(
            max(f.severity for f in e.findings if f.kind == kind)
            for e in episodes
            if any(f.kind == kind for f in e.findings)
        )
        if worst:
            kinds[kind] = {s.name.lower(): worst[s] for s in reversed(Severity)}
    return {
        'episodes': len(episodes),
        'grades': {name: grades[name] for name in GRADES},
        'kinds': kinds,
    }


def worst_first(episodes: Sequence[EpisodeQuality]) -> list[EpisodeQuality]:
    """Episodes with a finding, errors before warnings, in their order."""
    return sorted((e for e in episodes if e.findings), key=lambda episode: -episode.worst)
