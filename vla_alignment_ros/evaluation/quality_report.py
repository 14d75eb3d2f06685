"""What grading found, as a folder: one page that needs no other file, figures, a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
import csv
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
import io
import json
from pathlib import Path
from typing import Any

from vla_alignment_ros.data.files import write_file
from vla_alignment_ros.data.quality import EpisodeQuality, grade, KINDS, Limits, ordered, Severity
from vla_alignment_ros.errors import VlaError
from vla_alignment_ros.evaluation import pages, quality_plots
from vla_alignment_ros.evaluation.films import data_uri, encode_jpeg, score_path, thumbnail
from vla_alignment_ros.evaluation.grading import summary, worst_first
from vla_alignment_ros.evaluation.play_sheet import Play, read_play
from vla_alignment_ros.evaluation.report import CURVE_HEIGHT, CURVE_WIDTH
from vla_alignment_ros.observation import normalize_instruction

SHOWN = 40  # episodes with pictures: a page has to stay one that opens
PAGE, FIGURES, LABELS = 'index.html', 'quality.json', 'relabel.csv'


@dataclass(frozen=True)
class Made:
    """How the grading was done, so that it can be repeated."""

    command: str
    limits: Limits
    checkpoint: str = ''
    go: float = 0.0  # scene score at which the checkpoint's gate opens


@dataclass(frozen=True)
class Card:
    """One episode as the page shows it."""

    episode: EpisodeQuality
    strips: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]  # camera, (time, data URI) each
    opening: str  # SVG path
    speed: str
    idle: tuple[tuple[float, float], ...]  # x, width
    marks: tuple[float, ...]  # x of what was found
    missing: str  # why there are no pictures


def figures(episodes: Sequence[EpisodeQuality], made: Made) -> dict[str, Any]:
    """Everything that was found, fit for JSON."""
    return {
        'command': made.command,
        'made': _now(),
        'checkpoint': made.checkpoint or None,
        'limits': asdict(made.limits),
        **summary(episodes),
        'found': [episode.to_dict() for episode in episodes],
    }


def write_figures(file: Path, episodes: Sequence[EpisodeQuality], made: Made) -> None:
    """Write `figures` as JSON."""
    text = json.dumps(figures(episodes, made), indent=1) + '\n'
    write_file(file, text.encode('utf-8'))


def write_quality_report(folder: Path, episodes: Sequence[EpisodeQuality], made: Made) -> Path:
    """Write the page, the figures and, where a label is suggested, a table for `relabel`.

    Returns the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_figures(folder / FIGURES, episodes, made)
    write_labels(folder / LABELS, episodes)
    page = folder / PAGE
    write_file(page, render(episodes, made).encode('utf-8'))
    return page


def write_labels(file: Path, episodes: Sequence[EpisodeQuality]) -> int:
    """Write the suggested labels as a table that `vla_bag relabel --table` takes; how many.

    Without any, a table of an earlier run is removed.
    """
    suggested = [episode for episode in episodes if episode.suggestion]
    if not suggested:
        file.unlink(missing_ok=True)
        return 0
    names = Counter(episode.name for episode in episodes)
    out = io.StringIO(newline='')
    writer = csv.writer(out)
    writer.writerow(('episode', 'instruction', 'was', 'why'))
    for episode in suggested:
        name = episode.name if names[episode.name] == 1 else str(episode.path.resolve())
        why = next(f.text for f in episode.findings if f.suggestion)
        writer.writerow((name, episode.suggestion, episode.instruction, why))
    write_file(file, out.getvalue().encode('utf-8'))
    return len(suggested)


def headline(episodes: Sequence[EpisodeQuality]) -> str:
    """Say in a sentence or two what was found."""
    counts = summary(episodes)
    grades = counts['grades']
    text = f'{grades["good"]} of {counts["episodes"]} episodes are good.'
    if grades['error']:
        text += f' {grades["error"]} should not be trained on as they are'
        text += f', {grades["warning"]} need a look.' if grades['warning'] else '.'
    elif grades['warning']:
        text += f' {grades["warning"]} need a look.'
    wrong = counts['kinds'].get('label')
    if wrong:
        suggested = sum(episode.suggestion is not None for episode in episodes)
        text += (
            f' The words of {wrong["error"] + wrong["warning"]} do not fit what is done; for '
            f'{suggested} of them another sentence fits better.'
        )
    return text


def render(episodes: Sequence[EpisodeQuality], made: Made) -> str:
    """The page."""
    flagged = [e for e in worst_first(episodes) if e.worst > Severity.INFO]
    return pages.environment().get_template('quality.html.j2').render(
        headline=headline(episodes),
        counts=summary(episodes),
        kinds=KINDS,
        labels=LABELS if any(e.suggestion for e in episodes) else '',
        pictures=_pictures(episodes, made),
        cards=[_card(episode) for episode in flagged[:SHOWN]],
        more=flagged[SHOWN:],
        episodes=episodes,
        grade=grade,
        ordered=ordered,
        same=lambda a, b: normalize_instruction(a) == normalize_instruction(b),
        made=made,
        limits=_flat(asdict(made.limits)),
        now=_now(),
        width=CURVE_WIDTH,
        height=CURVE_HEIGHT,
        shown=SHOWN,
    )


def _pictures(
    episodes: Sequence[EpisodeQuality], made: Made
) -> list[tuple[str, str, str]]:
    """(title, caption, data URI) of what can be drawn of all of them together."""
    drawn = (
        (
            'Do words and actions fit?',
            'Every episode by the scores of the checkpoint. To the left: something else was done '
            'than was said. Below: what is named is not in the scene.',
            quality_plots.words_and_actions(episodes, made.go),
        ),
        ('How long they are', '', quality_plots.durations(episodes)),
    )
    return [(t, c, data_uri(image, 'png')) for t, c, image in drawn if image is not None]


def _card(episode: EpisodeQuality) -> Card:
    try:
        play = read_play(episode.path, embodiment=episode.embodiment)
    except VlaError as error:
        why = f': {error}' if episode.usable else ''  # else the findings say it
        return Card(episode, (), '', '', (), (), f'no pictures{why}')
    scale = CURVE_WIDTH / max(play.duration_s, 1e-3)
    strips = tuple(
        (name, tuple(
            (f'{time:.1f} s', data_uri(encode_jpeg(thumbnail(frame)), 'jpeg'))
            for time, frame in zip(play.times_s, frames)
        ))
        for name, frames in play.frames.items()
    )  # fmt: skip
    return Card(
        episode,
        strips,
        _path(play, play.opening),
        _path(play, play.speed / max(float(play.speed.max(initial=0.0)), 1e-9)),
        tuple((begin * scale, (end - begin) * scale) for begin, end in play.idle_s),
        tuple(f.at_s * scale for f in episode.findings if f.at_s is not None),
        '',
    )


def _path(play: Play, values) -> str:
    """A curve over the time of an episode as an SVG path; evenly spaced, as joint states come."""
    if not len(values):
        return ''
    steps = max(2, min(len(values), 400))
    times = [play.duration_s * i / (steps - 1) for i in range(steps)]
    at = play.joint_s.searchsorted(times, side='right').clip(1, len(values)) - 1
    return score_path(values[at].tolist(), CURVE_WIDTH, CURVE_HEIGHT)


def _flat(limits: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for key, given in limits.items()
        for name, value in (given.items() if isinstance(given, Mapping) else ((key, given),))
    }


def _now() -> str:
    return datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC')
