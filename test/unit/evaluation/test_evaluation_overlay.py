"""Maps lie where they point, and the picture of a sentence says what a person needs to know."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest

from vla_alignment_ros.evaluation.overlay import (
    BAR,
    CELL,
    GAP,
    GATES,
    grounding_picture,
    naming_words,
    overlay,
    TITLE,
)


@dataclass
class Pointing:
    words: dict = field(default_factory=dict)
    sentence: dict = field(default_factory=dict)
    naming: dict = field(default_factory=dict)


def peak(y: int, x: int) -> np.ndarray:
    heat = np.full((8, 8), 1e-4, np.float32)
    heat[y, x] = 1.0
    return heat


def warmth(picture: np.ndarray) -> np.ndarray:
    """How far each pixel of a grey scene is from grey."""
    return np.ptp(picture.astype(int), axis=2)


def picture(grounding: Pointing, image: np.ndarray | None = None, **changes) -> np.ndarray:
    image = np.full((96, 96, 3), 120, np.uint8) if image is None else image
    given = {'instruction': 'pick up the red cube', 'score': 0.8, 'gate': 'go'} | changes
    return grounding_picture(
        {'front': image}, grounding, thresholds=(0.2, 0.6), **given
    )


def test_an_overlay_is_coloured_where_the_map_is_and_grey_elsewhere():
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    found = warmth(overlay(image, peak(2, 5)))
    y, x = np.unravel_index(found.argmax(), found.shape)
    assert (y // 8, x // 12) == (2, 5)
    assert found[40:].max() <= 3


def test_a_map_that_is_weak_beside_another_camera_stays_grey():
    image = np.full((64, 64, 3), 100, np.uint8)
    assert warmth(overlay(image, 0.01 * peak(2, 5), most=1.0)).max() < 12


def test_only_words_that_name_the_thing_have_a_map():
    naming = {'0:lift': 0.02, '1:the': 0.1, '2:red': 0.9, '3:cube': 0.95}
    assert naming_words(naming) == ['2:red', '3:cube']
    assert naming_words(dict.fromkeys(naming, 0.0)) == []
    assert naming_words({f'{i}:w': 0.5 + 0.01 * i for i in range(9)}) == ['6:w', '7:w', '8:w']


@pytest.mark.parametrize('size', [(48, 48), (96, 128), (480, 640)])
def test_small_cameras_are_enlarged_and_each_word_has_a_column(size):
    maps = {'front': peak(1, 1)}
    naming = {'0:red': 0.9, '1:cube': 0.8, '2:up': 0.1}
    words = dict.fromkeys(naming, maps)
    found = picture(Pointing(words, maps, naming), np.zeros((*size, 3), np.uint8))
    height = max(CELL, min(size[0], 384))
    assert found.shape[0] >= BAR + TITLE + height
    assert found.shape[1] >= 4 * height * size[1] // size[0]


def test_the_column_of_a_word_shows_its_own_map():
    found = picture(
        Pointing({'0:red': {'front': peak(1, 6)}}, {'front': peak(6, 1)}, {'0:red': 1.0})
    )
    cells = found[BAR + TITLE : BAR + TITLE + CELL]
    width = found.shape[1] // 3
    for column, (y, x) in ((1, (6, 1)), (2, (1, 6))):
        hot = warmth(cells[:, column * width : (column + 1) * width])
        row, place = np.unravel_index(hot.argmax(), hot.shape)
        assert (row // 32, (place - 4) // 32) == (y, x)


def test_cameras_share_one_scale_so_that_only_the_one_that_sees_the_thing_is_lit():
    image = np.full((96, 96, 3), 120, np.uint8)
    maps = {'front': peak(1, 1), 'wrist': 0.01 * peak(6, 6)}
    found = grounding_picture(
        {'front': image, 'wrist': image}, Pointing(sentence=maps), 'lift it', 0.8, 'go', (0.2, 0.6)
    )
    front, wrist = BAR + TITLE, BAR + 2 * TITLE + CELL
    column = slice(CELL + 2 * GAP, 2 * CELL + GAP)
    assert warmth(found[front : front + CELL, column]).max() > 100
    assert warmth(found[wrist : wrist + CELL, column]).max() < 12


@pytest.mark.parametrize('gate', ['go', 'slow', 'hold'])
def test_the_colour_of_the_corner_is_the_gate(gate):
    found = picture(Pointing(sentence={'front': peak(1, 1)}), gate=gate)
    assert tuple(found[4, 4]) == GATES[gate]


def test_a_reason_and_a_score_are_written_where_a_person_looks():
    base = picture(Pointing(sentence={'front': peak(1, 1)}))
    for changes in ({'reason': 'not sure'}, {'score': 0.3}, {'instruction': 'lift it'}):
        other = picture(Pointing(sentence={'front': peak(1, 1)}), **changes)
        assert (other[:BAR] != base[:BAR]).any()
        np.testing.assert_array_equal(other[BAR:], base[BAR:])


def test_any_sentence_and_no_score_can_be_drawn():
    long = 'hebe den roten Würfel auf ' * 30 + '立方体'
    found = picture(Pointing(sentence={'front': peak(1, 1)}), instruction=long, score=np.nan)
    assert found.dtype == np.uint8
    assert cv2.imencode('.png', found)[0]
