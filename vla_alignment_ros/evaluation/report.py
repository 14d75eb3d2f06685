"""One HTML file that shows what an evaluation found; it needs no other file and no network."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
import math
from pathlib import Path

from vla_alignment_ros.evaluation import pages
from vla_alignment_ros.evaluation.films import Film, frame_uris, held_spans, score_path
from vla_alignment_ros.evaluation.results import (
    ABSENT,
    EpisodeResult,
    Evaluation,
    SPLIT_MEANING,
    SplitResult,
)

CURVE_WIDTH, CURVE_HEIGHT = 1000.0, 60.0
HISTOGRAM_BINS = 20


@dataclass(frozen=True)
class Shown:
    """One episode with its film, as the report shows it."""

    episode: EpisodeResult
    frames: tuple[tuple[int, str], ...]  # (step, data URI)
    curve: str  # SVG path
    held: tuple[tuple[float, float], ...]  # (x, width) of held stretches


@dataclass(frozen=True)
class Settings:
    """What the reader needs to judge and to repeat the run."""

    command: str
    title: str = 'Closed-loop evaluation'
    go: float | None = None  # gate thresholds, 0..1
    hold: float | None = None
    rate_hz: float = 10.0
    config: Mapping[str, str] | None = None


class FilmShelf:
    """Keeps a few films per split and outcome, so that memory does not grow with the episodes."""

    def __init__(self, per_outcome: int = 3) -> None:
        self.per_outcome = per_outcome
        self._kept: dict[tuple[str, bool], list[tuple[EpisodeResult, Film]]] = {}

    def add(self, episode: EpisodeResult, film: Film) -> None:
        """Keep the film if its split has room for this outcome."""
        kept = self._kept.setdefault((episode.split, episode.success), [])
        if len(kept) < self.per_outcome:
            kept.append((episode, film))

    def films(self, split: str, success: bool) -> list[tuple[EpisodeResult, Film]]:
        return self._kept.get((split, success), [])


def percent(value: float) -> str:
    """0.875 → '88 %' with a space that does not break; a dash where there is nothing to say."""
    return '—' if math.isnan(value) else f'{100 * value:.0f}\u00a0%'


def headline(evaluation: Evaluation) -> str:
    """Say in one or two sentences what was found."""
    sentences = []
    seen = evaluation.splits.get('seen') or next(iter(evaluation.splits.values()), None)
    if seen is not None and seen.split != ABSENT:
        low, high = seen.ci95
        sentences.append(
            f'It did what the sentence said in {seen.successes} of {len(seen.episodes)} episodes '
            f'({seen.split.replace("_", " ")}; 95\u00a0% interval\u00a0'
            f'{percent(low)[:-2]}\u2060–\u2060{percent(high)}).'
        )
    absent = evaluation.splits.get(ABSENT)
    if absent is not None:
        sentences.append(
            f'Asked for something that was not there, it refused {absent.successes} of '
            f'{len(absent.episodes)} times.'
        )
    return ' '.join(sentences)


def score_histograms(evaluation: Evaluation) -> list[dict[str, object]]:
    """Return per split the share of all its decisions in each score bin, scaled to a peak of 1."""
    rows: list[dict[str, object]] = []
    for name, split in evaluation.splits.items():
        scores = [s for e in split.episodes for s in e.scores if math.isfinite(s)]
        counts = [0] * HISTOGRAM_BINS
        for score in scores:
            counts[min(HISTOGRAM_BINS - 1, max(0, int(score * HISTOGRAM_BINS)))] += 1
        if scores:
            peak = max(counts)
            rows.append({'split': name, 'bars': [c / peak for c in counts], 'n': len(scores)})
    return rows


def render(evaluation: Evaluation, shelf: FilmShelf, settings: Settings) -> str:
    """Return the report as one HTML page."""
    environment = pages.environment()
    environment.filters['percent'] = percent
    environment.filters['words'] = lambda name: str(name).replace('_', ' ')
    return environment.get_template('report.html.j2').render(
        evaluation=evaluation,
        meaning=SPLIT_MEANING,
        absent=ABSENT,
        tasks=_tasks(evaluation.splits.values()),
        headline=headline(evaluation),
        histograms=score_histograms(evaluation),
        films={name: _films(shelf, name) for name in evaluation.splits},
        settings=settings,
        width=CURVE_WIDTH,
        height=CURVE_HEIGHT,
        bins=HISTOGRAM_BINS,
        made=datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
    )


def write_report(
    folder: Path, evaluation: Evaluation, shelf: FilmShelf, settings: Settings
) -> Path:
    """Write `index.html`, `results.json` and `episodes.json` into a folder; return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    evaluation.write_json(folder / 'results.json')
    evaluation.write_episodes(folder / 'episodes.json')
    page = folder / 'index.html'
    page.write_text(render(evaluation, shelf, settings), encoding='utf-8')
    return page


def _tasks(splits: Sequence[SplitResult]) -> list[str]:
    return sorted({task for split in splits for task in split.by_task()})


def _films(shelf: FilmShelf, split: str) -> list[tuple[str, list[Shown]]]:
    """Return the groups (title, films) of one split: failures are shown as openly as successes."""
    won, lost = ('Refused, rightly', 'Did not refuse') if split == ABSENT else (
        'Successes', 'Failures')
    groups = []
    for title, success in ((won, True), (lost, False)):
        shown = [_shown(episode, film) for episode, film in shelf.films(split, success)]
        if shown:
            groups.append((title, shown))
    return groups


def _shown(episode: EpisodeResult, film: Film) -> Shown:
    return Shown(
        episode,
        tuple(frame_uris(film)),
        score_path(episode.scores, CURVE_WIDTH, CURVE_HEIGHT),
        tuple(held_spans(episode.gates, CURVE_WIDTH)),
    )
