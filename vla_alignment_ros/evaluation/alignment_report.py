"""The alignment evaluation as a folder: pictures, figures, one page that needs no other file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch

from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.evaluation import grounding, pages, plots, training_logs, zero_shot
from vla_alignment_ros.evaluation.alignment import (
    AlignmentEvaluation,
    FORMS,
    MATCHED_SPLITS,
    Viewed,
    write_figures,
)
from vla_alignment_ros.evaluation.films import data_uri
from vla_alignment_ros.evaluation.probe import AlignmentProbe
from vla_alignment_ros.evaluation.report import percent
from vla_alignment_ros.evaluation.results import SPLIT_MEANING
from vla_alignment_ros.evaluation.retrieval import top

MAP_PAIRS = 150  # of the map of embeddings: more cannot be told apart
MATRIX_SCENES = 12
SHEET_QUERIES, SHEET_ITEMS = 5, 4
OVERLAYS, OVERLAY_WORDS = 3, 6  # pictures of a split, and words of each at most


@dataclass(frozen=True)
class Picture:
    """One picture of the report."""

    name: str  # of its file, without .png
    title: str
    caption: str
    png: bytes


def draw(
    found: AlignmentEvaluation, probe: AlignmentProbe, logs: Path | None = None
) -> list[Picture]:
    """All pictures of an evaluation, in the order of the page.

    logs: folder with the event files of the training run; left out if None.
    """
    pictures = []
    for split in MATCHED_SPLITS:
        pictures.append(_attention(found, probe, split))
    pictures += [_sheet(found, by_sentence) for by_sentence in (False, True)]
    pictures += [_matrix(found), _map(found)]
    pictures.append(
        Picture(
            'reliability',
            'Is the score right when it is sure?',
            'Every scene with its own sentence, and with the same sentence naming a thing that '
            'is not there. Bars: share of matches among scores of that size.',
            plots.reliability_diagram(found.reliability),
        )
    )
    pictures += _confusions(found)
    if logs is not None:
        curves = training_logs.worth_showing(training_logs.read_scalars(logs))
        caption = 'From the event files of the run that made the checkpoint.'
        pictures.append(
            Picture('training', 'How it was trained', caption, plots.training_curves(curves))
        )
    return pictures


def write_alignment_report(
    folder: Path,
    found: AlignmentEvaluation,
    pictures: list[Picture],
    command: str,
    about: Mapping[str, str],
) -> Path:
    """Write `index.html`, `alignment.json` and every picture as PNG; return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        (folder / f'{picture.name}.png').write_bytes(picture.png)
    write_figures(folder / 'alignment.json', found)
    page = folder / 'index.html'
    page.write_text(render(found, pictures, command, about), encoding='utf-8')
    return page


def render(
    found: AlignmentEvaluation,
    pictures: list[Picture],
    command: str,
    about: Mapping[str, str],
) -> str:
    """Return the report as one HTML page."""
    environment = pages.environment()
    environment.filters['percent'] = lambda value: percent(np.nan if value is None else value)
    environment.filters['number'] = lambda value, digits=2: (
        '—' if value is None else f'{value:.{digits}f}'
    )
    environment.filters['words'] = lambda name: str(name).replace('_', ' ')
    return environment.get_template('alignment.html.j2').render(
        found=found,
        figures=found.figures,
        headline=headline(found.figures),
        splits=MATCHED_SPLITS,
        meaning=SPLIT_MEANING,
        forms=FORMS,
        pictures=[(p, data_uri(p.png, 'png')) for p in pictures],
        command=command,
        about=about,
        iou_share=grounding.IOU_SHARE,
        min_pixels=grounding.MIN_PIXELS,
        templates=zero_shot.TEMPLATES,
        made=datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
    )


def headline(figures: Mapping) -> str:
    """Say in a few sentences what was found."""
    match = figures['matching']['seen']
    sentences = []
    if match['auroc_same_scene'] is not None:
        sentences.append(
            'Told the same sentence twice, once naming what is there and once what is missing, '
            f'the score is higher for what is there in {percent(match["score_falls"]["rate"])} '
            f'of {match["missing"]} scenes (AUROC {match["auroc_same_scene"]:.3f}).'
        )
    camera = next(iter(figures['grounding']['seen'].values()), {})
    if 'sentence' in camera and camera['sentence']['count']:
        near = camera['sentence']['near']
        sentences.append(
            f'Its attention peaks on the thing the sentence names, or at most one cell beside it, '
            f'in {percent(near["rate"])} of {camera["sentence"]["count"]} pictures.'
        )
    pairs = figures['zero_shot']['regions']['unseen_objects']['pair_never_trained']
    if pairs['count']:
        sentences.append(
            f'Of {pairs["count"]} objects whose colour–shape pair it never saw in training, it '
            f'names {percent(pairs["accuracy"])} rightly among {pairs["classes"]} pairs.'
        )
    return ' '.join(sentences)


def event_folder(checkpoint: Path, wanted: Path | None) -> Path | None:
    """Where the training's event files are: as asked for, or beside the checkpoint if there.

    Raises ConfigError if a folder was asked for that has none.
    """
    folder = wanted or checkpoint.resolve().parent / training_logs.LOG_FOLDER
    if list(folder.glob('events.out.tfevents.*')):
        return folder
    if wanted is not None:
        raise ConfigError(f'no TensorBoard event files in {wanted}; give the folder of a run')
    return None


def overlays(
    found: AlignmentEvaluation, probe: AlignmentProbe, split: str
) -> list[plots.Overlay]:
    """Where sentences of a split look, as one, and word by word where a word names something."""
    viewed = found.viewed[split]
    camera = viewed.vision.layout[0].name
    shown = []
    for row, (scene, text) in enumerate(zip(viewed.scenes[:OVERLAYS], viewed.sentences)):
        whole, maps = probe.maps(viewed.vision, viewed.language, row, camera)
        asked = grounding.queries(scene, text, camera)
        # where "the" looks says nothing: it names nothing
        words = [q for q in asked if q.word is not None and q.word < len(maps)][:OVERLAY_WORDS]
        referent = next((q.mask for q in asked if q.word is None), None)
        shown.append(
            plots.Overlay(
                scene.observation.images[camera],
                text,
                ['all words', *(q.text for q in words)],
                [whole, *(maps[q.word] for q in words)],
                [referent, *(q.mask for q in words)],
            )
        )
    return shown


def _attention(found: AlignmentEvaluation, probe: AlignmentProbe, split: str) -> Picture:
    camera = found.viewed[split].vision.layout[0].name
    return Picture(
        f'attention_{split}',
        f'Where the words look: {SPLIT_MEANING[split]}',
        f'The first sentences of the split as the {camera} camera saw them: all words together, '
        'and each word that names something, on a scale of its own for each picture. Outlined: '
        'all that the word means.',
        plots.attention_sheet(overlays(found, probe, split)),
    )


def _sheet(found: AlignmentEvaluation, by_sentence: bool) -> Picture:
    viewed, split = found.viewed['seen'], 'seen'
    similarity, right = found.similarity[split], found.right[split]
    if by_sentence:
        similarity, right = similarity.T, right.T
    camera = viewed.vision.layout[0].name
    images = [scene.observation.images[camera] for scene in viewed.scenes]
    queries, items = (viewed.sentences, images) if by_sentence else (images, viewed.sentences)
    gallery = list(range(len(items)))
    if not by_sentence:  # a sentence that was said twice is shown once
        gallery = [i for i in gallery if viewed.sentences.index(viewed.sentences[i]) == i]
    chosen = np.linspace(0, len(queries) - 1, min(SHEET_QUERIES, len(queries))).round().astype(int)
    index, scores, good = top(
        torch.from_numpy(similarity[np.ix_(chosen, gallery)]),
        torch.from_numpy(right[np.ix_(chosen, gallery)]),
        SHEET_ITEMS,
    )
    ranked = [
        plots.Ranked(queries[q], [items[gallery[i]] for i in row], s.tolist(), g.tolist())
        for q, row, s, g in zip(chosen, index.tolist(), scores, good)
    ]
    what = ('sentence', 'scenes') if by_sentence else ('scene', 'sentences')
    return Picture(
        f'retrieval_{what[1]}',
        f'Which {what[1]} fit a {what[0]} best',
        f'Among {len(gallery)} {what[1]} of the split “seen”. A pair is right if what the '
        'sentence names is on the table.',
        plots.retrieval_sheet(ranked),
    )


def _matrix(found: AlignmentEvaluation) -> Picture:
    viewed = found.viewed['seen']
    first = slice(0, MATRIX_SCENES)
    return Picture(
        'similarity',
        'Every sentence against every scene',
        'The first scenes of the split “seen” and their sentences, by the score that the gate '
        'looks at, before its calibration.',
        plots.similarity_matrix(
            found.similarity['seen'][first, first],
            found.right['seen'][first, first],
            [' · '.join(' '.join(p) for p in scene.objects) for scene in viewed.scenes[first]],
            [' '.join(scene.target) for scene in viewed.scenes[first]],
        ),
    )


def _map(found: AlignmentEvaluation) -> Picture:
    viewed: Viewed = found.viewed['seen']
    scenes, sentences = (rows[:MAP_PAIRS] for rows in found.embeddings['seen'])
    return Picture(
        'embeddings',
        'Scenes and sentences in one space',
        'Pooled embeddings, both kinds in one fit; colour: the one that the sentence names. '
        'A scene holds several things, so it need not lie on its own sentence.',
        plots.embedding_map(
            scenes, sentences, [s.spec.target for s in viewed.scenes[:MAP_PAIRS]], found.seed
        ),
    )


def _confusions(found: AlignmentEvaluation) -> list[Picture]:
    pictures = []
    for split in MATCHED_SPLITS:
        for kind, answers in found.classified[split]['regions'].items():
            if answers.count and (kind == 'pair' or split == 'seen'):
                title = f'Which {kind}? {split.replace("_", " ")}'
                pictures.append(
                    Picture(
                        f'confusion_{kind}_{split}',
                        f'Zero-shot, {kind}s, {split.replace("_", " ")}',
                        f'{FORMS["regions"].capitalize()}.',
                        plots.confusion_matrix(answers, title),
                    )
                )
    return pictures
