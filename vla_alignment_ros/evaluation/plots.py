"""Pictures of an alignment, as PNG bytes: drawn without a screen, from plain arrays.

Needs matplotlib and, for the map of embeddings, scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import io

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
import numpy as np

from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.evaluation.overlay import overlay
from vla_alignment_ros.evaluation.reliability import Reliability
from vla_alignment_ros.evaluation.zero_shot import Classification

INK, SOFT, LINE = '#1d2327', '#667078', '#d5d9d6'
MARK, GOOD, BAD, HELD = '#3a6ea5', '#2f8f6b', '#c4553d', '#e9b44c'
DPI = 110
TITLE = 8.0  # inches that a title needs
FEW_POINTS = 15  # of a curve: they are marked, and not smoothed
STYLE = {
    'font.family': 'sans-serif',
    'font.size': 11,
    'text.color': INK,
    'axes.labelcolor': INK,
    'axes.edgecolor': LINE,
    'axes.titlesize': 12,
    'axes.titlelocation': 'left',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'xtick.color': SOFT,
    'ytick.color': SOFT,
    'legend.frameon': False,
    'figure.facecolor': 'white',
    'figure.constrained_layout.use': True,
}


@dataclass(frozen=True)
class Ranked:
    """A query and the first items that were found for it."""

    query: np.ndarray | str  # a picture (H, W, 3) uint8 or a sentence
    items: Sequence[np.ndarray | str]  # of the other kind
    scores: Sequence[float]
    right: Sequence[bool]


@dataclass(frozen=True)
class Overlay:
    """A picture with the maps of the words of one sentence on it."""

    image: np.ndarray  # (H, W, 3) uint8
    title: str
    words: Sequence[str]
    maps: Sequence[np.ndarray]  # (rows, columns) each
    masks: Sequence[np.ndarray | None]  # (H, W) bool of what each word means, where it means one


def png(figure: Figure) -> bytes:
    """Draw a figure."""
    FigureCanvasAgg(figure)
    out = io.BytesIO()
    figure.savefig(out, format='png', dpi=DPI)
    return out.getvalue()


def embedding_map(
    scenes: np.ndarray, sentences: np.ndarray, names: Sequence[str], seed: int = 0
) -> bytes:
    """t-SNE of scenes and sentences (n, E) each, row i of both belonging together.

    One joint fit (van der Maaten & Hinton 2008), seeded; names (n,) say what each sentence is
    about and give the colour. Exact, so a few hundred pairs at most. Raises ConfigError below two
    pairs.
    """
    from sklearn.manifold import TSNE

    count = len(scenes)
    if count < 2 or len(sentences) != count or len(names) != count:
        raise ConfigError(f'a map needs at least two pairs, got {count} and {len(sentences)}')
    both = np.concatenate([scenes, sentences]).astype(np.float64)
    perplexity = min(30.0, (2 * count - 1) / 3)
    # collapsed embeddings have no principal components, and the tree of the faster method breaks
    # down (the process with it) over points that are all alike
    spread = float(np.ptp(both, axis=0).max())
    start = 'pca' if spread > 1e-6 else 'random'
    flat = TSNE(2, perplexity=perplexity, init=start, method='exact', random_state=seed)
    points = flat.fit_transform(both)
    seen, said = points[:count], points[count:]
    words = sorted({name.split()[0] for name in names})
    shades = {word: _color(word, i) for i, word in enumerate(words)}
    colors = [shades[name.split()[0]] for name in names]
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 6.4))
        axes = figure.add_subplot()
        for a, b in zip(seen, said):
            axes.plot(*zip(a, b), color=LINE, linewidth=0.7, zorder=1)
        axes.scatter(*seen.T, c=colors, s=34, edgecolors='white', linewidths=0.6, zorder=2)
        axes.scatter(*said.T, c=colors, s=52, marker='^', edgecolors=INK, linewidths=0.8, zorder=3)
        handles = [
            axes.scatter([], [], c=SOFT, s=34, label='scene'),
            axes.scatter([], [], c=SOFT, s=52, marker='^', edgecolors=INK, label='sentence'),
            *axes.plot([], [], color='#a9b0ac', linewidth=1, label='belong together'),
        ]
        handles += [
            axes.scatter([], [], c=shades[w], s=34, label=f'about {w} things') for w in words
        ]
        axes.legend(handles=handles, loc='center left', bbox_to_anchor=(1.0, 0.5))
        axes.set_title(f'Scenes and the sentences said in them: {count} pairs, one joint t-SNE')
        axes.set(xticks=[], yticks=[])
        return png(figure)


def retrieval_sheet(ranked: Sequence[Ranked]) -> bytes:
    """Queries, one a row, with what was found for them; right answers are green."""
    if not ranked:
        raise ConfigError('a retrieval sheet needs at least one query')
    columns = 1 + max(len(one.items) for one in ranked)
    of_sentences = isinstance(ranked[0].query, str)
    with rc_context(STYLE):
        wide, high = (2.0, 2.35) if of_sentences else (2.4, 2.0)
        figure = Figure(figsize=(max(TITLE, wide * columns), high * len(ranked) + 0.5))
        grid = figure.subplots(len(ranked), columns, squeeze=False)
        for cells, one in zip(grid, ranked):
            _cell(cells[0], one.query, 'the sentence' if of_sentences else 'the scene', INK)
            for axes, item, score, right in zip(cells[1:], one.items, one.scores, one.right):
                mark = ('✓ ' if right else '✗ ') + f'{score:.3f}'
                _cell(axes, item, mark, GOOD if right else BAD)
            for axes in cells[1 + len(one.items) :]:
                axes.set_axis_off()
        what = 'Sentence → scenes' if of_sentences else 'Scene → sentences'
        figure.suptitle(
            f'{what}: best first, green where it fits, red where it does not',
            x=0.01, ha='left', fontsize=13,
        )  # fmt: skip
        return png(figure)


def _cell(axes, item: np.ndarray | str, title: str, color: str) -> None:
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, color=color, fontsize=11)
    for spine in axes.spines.values():
        spine.set(visible=True, color=color, linewidth=2.5 if color != INK else 1)
    if isinstance(item, str):
        axes.text(
            0.5, 0.5, wrap(item, 17), ha='center', va='center', fontsize=11,
            transform=axes.transAxes,
        )  # fmt: skip
    else:
        axes.imshow(item, interpolation='nearest')


def similarity_matrix(
    similarity: np.ndarray, right: np.ndarray, scenes: Sequence[str], sentences: Sequence[str]
) -> bytes:
    """Scenes (rows) against sentences (columns); what is right is outlined. Both (V, T)."""
    rows, columns = similarity.shape
    with rc_context(STYLE):
        figure = Figure(figsize=(max(TITLE, 4.4 + 0.36 * columns), 3.4 + 0.3 * rows))
        axes = figure.add_subplot()
        picture = axes.imshow(similarity, cmap='Blues', aspect='auto')
        for row, column in np.argwhere(right):
            axes.add_patch(
                Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=BAD,
                          linewidth=1.8)
            )  # fmt: skip
        axes.set_xticks(range(columns), sentences, rotation=50, ha='right', rotation_mode='anchor')
        axes.set_yticks(range(rows), scenes)
        axes.tick_params(labelsize=9.5, colors=INK, length=0)
        figure.suptitle(
            'How well each sentence fits each scene (red outline: what it names is there)',
            x=0.01, ha='left', fontsize=13,
        )  # fmt: skip
        axes.set(xlabel='what the sentence names', ylabel='what is on the table')
        bar = figure.colorbar(picture, ax=axes, shrink=0.8)
        bar.set_label('similarity')
        bar.outline.set_visible(False)
        return png(figure)


def attention_sheet(overlays: Sequence[Overlay]) -> bytes:
    """Pictures, one a row: as the camera saw it, then what each word looks at."""
    if not overlays:
        raise ConfigError('an attention sheet needs at least one picture')
    columns = 1 + max(len(one.words) for one in overlays)
    with rc_context(STYLE):
        figure = Figure(figsize=(max(1.3 * TITLE, 1.75 * columns), 2.2 * len(overlays) + 0.5))
        grid = figure.subplots(len(overlays), columns, squeeze=False)
        for cells, one in zip(grid, overlays):
            for axes in cells:
                axes.set_axis_off()
            cells[0].imshow(one.image, interpolation='nearest')
            cells[0].set_title(wrap(one.title, 19), fontsize=12)
            for axes, word, heat, mask in zip(cells[1:], one.words, one.maps, one.masks):
                _overlay(axes, one.image, heat, mask)
                axes.set_title(word, fontsize=15, fontweight='bold' if mask is not None else None)
        figure.suptitle(
            'Where each word looks (yellow: most). Green outline: what the word truly means',
            x=0.01, ha='left', fontsize=17,
        )  # fmt: skip
        return png(figure)


def _overlay(axes, image: np.ndarray, heat: np.ndarray, mask: np.ndarray | None) -> None:
    axes.imshow(overlay(image, heat), interpolation='nearest')
    if mask is not None and mask.any() and not mask.all():
        axes.contour(mask.astype(float), levels=[0.5], colors=['#37e08b'], linewidths=1.6)


def reliability_diagram(found: Mapping[str, Reliability]) -> bytes:
    """How often the score is right where it says so, one panel per split."""
    with rc_context(STYLE):
        figure = Figure(figsize=(max(TITLE, 5.0 * len(found)), 4.6))
        panels = figure.subplots(1, len(found), squeeze=False)[0]
        for axes, (split, one) in zip(panels, found.items()):
            axes.plot([0, 1], [0, 1], color=SOFT, linestyle='--', linewidth=1, zorder=1)
            most = max((b.count for b in one.bins), default=1)
            for b in one.bins:
                axes.bar(
                    b.low, b.accuracy, b.high - b.low, align='edge', color=MARK, alpha=0.25,
                    edgecolor='white', zorder=0,
                )  # fmt: skip
                size = 25 + 200 * b.count / most
                axes.scatter(b.confidence, b.accuracy, s=size, color=MARK, zorder=2)
            axes.set(xlim=(-0.05, 1.05), ylim=(-0.06, 1.08))
            axes.set(xlabel='score: probability of a match', ylabel='share that did match')
            title = f'{split.replace("_", " ")}: {one.count} scores'
            axes.set_title(f'{title}, calibration error {one.ece:.3f}' if one.bins else title)
        figure.suptitle(
            'Is the score right? On the dashed line it is; larger dots hold more scores',
            x=0.01, ha='left', fontsize=13,
        )  # fmt: skip
        return png(figure)


def confusion_matrix(answers: Classification, title: str) -> bytes:
    """Truth in rows, answers in columns, counts in the cells; classes without objects left out."""
    rows = np.flatnonzero(answers.confusion.sum(1))
    if not len(rows):
        raise ConfigError('a confusion matrix needs at least one object')
    counts = answers.confusion[rows]
    share = counts / counts.sum(1, keepdims=True)
    size = len(answers.labels)
    with rc_context(STYLE):
        step = 0.62 if size < 10 else 0.38
        figure = Figure(figsize=(2.6 + step * size, 2.3 + step * len(rows)))
        axes = figure.add_subplot()
        axes.imshow(share, cmap='Blues', vmin=0, vmax=1, aspect='auto')
        for y, x in np.argwhere(counts):
            color = 'white' if share[y, x] > 0.55 else INK
            axes.text(x, y, str(counts[y, x]), ha='center', va='center', color=color, fontsize=10)
        for y, row in enumerate(rows):
            axes.add_patch(
                Rectangle((row - 0.48, y - 0.48), 0.96, 0.96, fill=False, edgecolor=GOOD, lw=1.8)
            )
        axes.set_xticks(
            range(size), answers.labels, rotation=50, ha='right', rotation_mode='anchor'
        )
        axes.set_yticks(range(len(rows)), [answers.labels[i] for i in rows])
        axes.tick_params(colors=INK, length=0)
        axes.set(xlabel='answer', ylabel='truth')
        right = f'{answers.correct} of {answers.count} right'
        axes.set_title(f'{title}\n{right} (green: the right answer)')
        return png(figure)


def training_curves(series: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> bytes:
    """Name → (steps, values) of a run, one panel each."""
    if not series:
        raise ConfigError('there are no training curves to draw')
    columns = min(3, len(series))
    rows = -(-len(series) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(4.2 * columns, 2.5 * rows + 0.5))
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, (name, (steps, values)) in zip(panels, series.items()):
            few = len(values) <= FEW_POINTS
            axes.plot(steps, values, color=MARK, linewidth=1, alpha=0.8 if few else 0.3,
                      marker='o' if few else None, markersize=5)  # fmt: skip
            if not few:
                axes.plot(steps, _smooth(values), color=MARK, linewidth=1.8)
            axes.set_title(name.replace('_', ' ').replace('/', ': '), fontsize=11)
            axes.grid(color=LINE, linewidth=0.5)
            axes.locator_params(axis='x', nbins=5)
        for axes in panels[len(series) :]:
            axes.set_axis_off()
        figure.suptitle('Training, by optimiser step (thick: smoothed)', x=0.01, ha='left')
        return png(figure)


def _smooth(values: np.ndarray, window_share: float = 0.04) -> np.ndarray:
    """Centred moving average; shorter at both ends."""
    half = max(0, round(len(values) * window_share / 2))
    total = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(len(values)) - half, 0)
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (total[last] - total[first]) / (last - first)


def _color(word: str, index: int) -> str:
    """The colour that a word names, or one of our own."""
    named = {
        'red': '#d6453d', 'green': '#3f9e4d', 'blue': '#3b6fd4', 'yellow': '#e3b912',
        'purple': '#8e4bb8', 'cyan': '#25b3c4',
    }  # fmt: skip
    return named.get(word, (MARK, GOOD, BAD, HELD, SOFT)[index % 5])


def wrap(text: str, width: int) -> str:
    """Text in lines of at most so many letters, but for longer words."""
    lines, line = [], ''
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f'{line} {word}'.strip()
    return '\n'.join([*lines, line])
