"""Pictures of a graded folder, as PNG bytes."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure
import numpy as np

from vla_alignment_ros.data.quality import EpisodeQuality, grade
from vla_alignment_ros.evaluation.label_check import ACTION, SCENE, Usual
from vla_alignment_ros.evaluation.plots import BAD, GOOD, HELD, LINE, png, SOFT, STYLE

NAMED = 12  # suspicious episodes whose names are written: more cannot be read
COLORS = {'good': GOOD, 'warning': HELD, 'error': BAD}


def words_and_actions(episodes: Sequence[EpisodeQuality], go: float) -> bytes | None:
    """Every episode by its two scores, with what is too low; None where nothing was scored.

    go: scene score at which the gate opens.
    """
    scored = [e for e in episodes if ACTION in e.measures]
    if not scored:
        return None
    usual = Usual.of(np.array([e.measures[ACTION] for e in scored]))
    wrong = [any(f.kind == 'label' for f in e.findings) for e in scored]
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 4.6))
        axes = figure.add_subplot()
        if np.isfinite(usual.low):
            axes.axvline(usual.low, color=BAD, linewidth=1, linestyle='--')
            axes.annotate(' too low for this folder', (usual.low, 0.02), color=BAD, fontsize=10,
                          ha='right')  # fmt: skip
        axes.axhline(go, color=BAD, linewidth=1, linestyle='--')
        axes.annotate('below: the gate would not open', (0.0, go), color=BAD, fontsize=10,
                      va='top', xycoords=('axes fraction', 'data'))  # fmt: skip
        for flagged, color, name in ((False, GOOD, 'fits'), (True, BAD, 'words do not fit')):
            some = [e for e, is_wrong in zip(scored, wrong) if is_wrong == flagged]
            axes.scatter(
                [e.measures[ACTION] for e in some], [e.measures[SCENE] for e in some],
                s=34, color=color, alpha=0.7, edgecolors='white', linewidths=0.6,
                label=f'{name} ({len(some)})', zorder=3,
            )  # fmt: skip
        for episode in [e for e, is_wrong in zip(scored, wrong) if is_wrong][:NAMED]:
            point = (episode.measures[ACTION], episode.measures[SCENE])
            below = point[1] > 0.5
            axes.annotate(episode.name, point, fontsize=8.5, color=SOFT, rotation=-28 if below
                          else 28, xytext=(4, -4 if below else 4), textcoords='offset points',
                          va='top' if below else 'bottom')  # fmt: skip
        axes.set(ylim=(-0.05, 1.1), xlabel='action score: does what is done fit the words?',
                 ylabel='scene score:\nis what they name there?')  # fmt: skip
        axes.legend(loc='lower left', bbox_to_anchor=(0.0, 1.0), ncols=2)
        axes.grid(color=LINE, linewidth=0.5)
        return png(figure)


def durations(episodes: Sequence[EpisodeQuality]) -> bytes | None:
    """How long the episodes last, by grade; None where no duration is known."""
    known = [e for e in episodes if np.isfinite(e.measures.get('duration_s', np.nan))]
    if not known:
        return None
    longest = max(e.measures['duration_s'] for e in known)
    edges = np.linspace(0, max(longest, 1e-3) * 1.02, 31)
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 2.6))
        axes = figure.add_subplot()
        values = {
            name: [e.measures['duration_s'] for e in known if grade(e) == name] for name in COLORS
        }
        axes.hist(
            list(values.values()), bins=edges, stacked=True, color=list(COLORS.values()),
            label=[f'{name} ({len(v)})' for name, v in values.items()], edgecolor='white',
            linewidth=0.6,
        )  # fmt: skip
        axes.set(xlabel='seconds', ylabel='episodes')
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.legend()
        return png(figure)
