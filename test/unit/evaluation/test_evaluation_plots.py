"""Pictures are drawn without a screen, show what they are given, and are the same every time."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.evaluation import training_logs
from vla_alignment_ros.evaluation.reliability import reliability
from vla_alignment_ros.evaluation.zero_shot import classify

pytest.importorskip('matplotlib')
plots = pytest.importorskip('vla_alignment_ros.evaluation.plots')

LABELS = ('red', 'green', 'blue')


def read(png):
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None and min(image.shape[:2]) > 200
    return image


def drawn(image):
    """Whether there is anything but white in a part of a picture."""
    return (image < 250).any()


def test_the_map_of_embeddings_takes_few_and_many_pairs_and_is_repeatable():
    rng = np.random.default_rng(0)
    for count in (2, 5, 40):
        scenes, sentences = rng.normal(size=(2, count, 8))
        names = [f'{LABELS[i % 3]} cube' for i in range(count)]
        first = plots.embedding_map(scenes, sentences, names, seed=1)
        assert drawn(read(first))
        assert plots.embedding_map(scenes, sentences, names, seed=1) == first
    with pytest.raises(ConfigError, match='two pairs'):
        plots.embedding_map(scenes[:1], sentences[:1], names[:1])


def test_collapsed_embeddings_can_still_be_drawn():
    one = np.ones((6, 4))
    png = plots.embedding_map(one, one, ['red cube'] * 6)
    assert drawn(read(png))
    assert plots.embedding_map(one, one, ['red cube'] * 6) == png


def test_titles_are_not_cut_off_where_there_is_little_to_show():
    image, heat = np.zeros((8, 8, 3), np.uint8), np.ones((2, 2))
    scores = reliability(np.array([0.1]), np.array([True]))
    for png in (
        plots.similarity_matrix(np.eye(3), np.eye(3) > 0, ['a'] * 3, ['b'] * 3),
        plots.reliability_diagram({'seen': scores}),
        plots.retrieval_sheet([plots.Ranked('a sentence', [image], [0.1], [True])]),
        plots.attention_sheet([plots.Overlay(image, 'go', ['go'], [heat], [None])]),
    ):
        picture = read(png)
        assert drawn(picture[:40]) and not drawn(picture[:40, -4:])


def test_what_is_right_is_outlined():
    nothing = np.zeros((3, 3), bool)
    plain = read(plots.similarity_matrix(np.eye(3), nothing, ['a'] * 3, ['b'] * 3))
    outlined = read(plots.similarity_matrix(np.eye(3), ~nothing, ['a'] * 3, ['b'] * 3))
    changed = (plain != outlined).any(-1)
    assert changed.mean() > 0.005
    colour = outlined[changed].mean(0)  # BGR
    assert colour[2] > colour[0] and colour[2] > colour[1]


def test_a_sheet_shows_pictures_and_sentences_right_and_wrong():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)
    for query, items in ((image, ['a sentence', 'another']), ('a sentence', [image, image])):
        right, wrong = (
            read(plots.retrieval_sheet([plots.Ranked(query, items, [0.9, 0.1], [good, True])] * 2))
            for good in (True, False)
        )
        changed = (right != wrong).any(-1)
        (_, g, r), (_, g_wrong, r_wrong) = right[changed].mean(0), wrong[changed].mean(0)  # BGR
        assert g > r and r_wrong > g_wrong
    with pytest.raises(ConfigError, match='at least one'):
        plots.retrieval_sheet([])


def test_heat_shows_where_it_is_and_the_outline_where_it_should_be():
    image = np.full((64, 64, 3), 90, np.uint8)
    heat = np.zeros((8, 8))
    heat[1, 6] = 1.0
    mask = np.zeros((64, 64), bool)
    mask[40:56, 8:24] = True
    sheet = read(plots.attention_sheet([plots.Overlay(image, 'go', ['go'], [heat], [mask])]))
    hsv = cv2.cvtColor(sheet, cv2.COLOR_BGR2HSV)
    vivid = hsv[..., 1] > 120
    hot = np.argwhere(vivid & (hsv[..., 0] > 8) & (hsv[..., 0] < 35))
    green = np.argwhere(vivid & (hsv[..., 0] > 60) & (hsv[..., 0] < 85))
    assert len(hot) and len(green)
    assert hot[:, 0].mean() < green[:, 0].mean() and hot[:, 1].mean() > green[:, 1].mean()


def test_classes_without_objects_have_no_row():
    both = read(plots.confusion_matrix(classify(np.eye(3), [0, 1, 2], LABELS), 'colours'))
    one = read(plots.confusion_matrix(classify(np.eye(3)[:1], [0], LABELS), 'colours'))
    assert one.shape[0] < both.shape[0]
    with pytest.raises(ConfigError, match='at least one object'):
        plots.confusion_matrix(classify(np.zeros((0, 3)), [], LABELS), 'colours')


def test_a_reliability_diagram_of_no_scores_is_no_error():
    empty = reliability(np.zeros(0), np.zeros(0, bool))
    full = reliability(np.array([0.1, 0.9, 0.8]), np.array([False, True, False]))
    assert drawn(read(plots.reliability_diagram({'seen': full, 'unseen_objects': empty})))


def test_the_curves_of_a_run_are_read_back_and_drawn(tmp_path):
    writer = SummaryWriter(tmp_path)
    for step in range(0, 200, 10):
        writer.add_scalar('loss/total', 10.0 - step / 50, step)
        writer.add_scalar('speed/samples_per_s', 100.0, step)
    writer.add_scalar('validation/vl_auroc', 0.875, 100)
    writer.add_scalar('loss/total', 3.0, 50)  # a resumed run writes a step again
    writer.close()
    scalars = training_logs.read_scalars(tmp_path)
    steps, values = scalars['loss/total']
    assert steps.tolist() == list(range(0, 200, 10))
    assert values[5] == 3.0 and values[0] == 10.0
    shown = training_logs.worth_showing(scalars)
    assert list(shown) == ['loss/total', 'validation/vl_auroc']
    assert drawn(read(plots.training_curves(shown)))
    with pytest.raises(ConfigError, match='no TensorBoard event files'):
        training_logs.read_scalars(tmp_path / 'elsewhere')


def test_a_curve_is_smoothed_without_a_shift():
    line = np.linspace(0, 1, 200)
    assert plots._smooth(line)[20:-20] == pytest.approx(line[20:-20])
    assert plots._smooth(np.ones(3)).tolist() == [1.0] * 3
