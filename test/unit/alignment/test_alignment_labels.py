"""From labelled pixels to labelled cells, and which words the data can tell apart."""

import torch

from vla_alignment_ros.alignment.base import Labels
from vla_alignment_ros.alignment.labels import cell_labels, untold_contrasts, words_told
from vla_alignment_ros.encoders.vision import CameraTokens

LAYOUT = (CameraTokens('front', 0, 2, 2), CameraTokens('wrist', 4, 1, 1))


def test_a_cell_shows_the_name_that_most_of_its_pixels_show():
    front = torch.tensor(
        [
            [0, 0, 3, 3],
            [0, 2, 3, 1],
            [0, 0, -1, 0],
            [0, 0, 0, 0],
        ]
    )
    cells = cell_labels({'front': front.unsqueeze(0)}, LAYOUT)
    # a small thing is not lost to the table; one unknown pixel makes a cell unknown
    assert cells.tolist() == [[2, 3, 0, -1, -1]]


def test_labels_of_another_size_than_the_cells_are_resampled():
    pixels = torch.zeros(1, 3, 3, dtype=torch.int64)
    pixels[0, 2, 2] = 5
    assert cell_labels({'front': pixels}, LAYOUT)[0, :4].tolist() == [0, 0, 0, 5]


def test_without_any_labels_there_are_none():
    assert cell_labels({}, LAYOUT) is None


# words: 2 red, 3 green, 4 cube, 5 ball, 6 white, 7 tray
NAMES = torch.tensor([[0, 0], [2, 4], [3, 4], [3, 5], [6, 7]])


def test_only_what_the_data_can_tell_is_a_negative():
    """There is no red ball: "ball" is no negative of red, and "red" none of balls."""
    pairs = set(map(tuple, untold_contrasts(NAMES).tolist()))
    assert pairs == {(1, 5), (3, 2)}


def test_members_and_untold_words_of_a_batch():
    labels = Labels(torch.zeros(1, 1), NAMES, untold_contrasts(NAMES))
    member, told = words_told(labels, torch.tensor([0, 5, 2, 9]))
    assert member.tolist() == [
        [False] * 4,
        [False, False, True, False],
        [False] * 4,
        [False, True, False, False],
        [False] * 4,
    ]
    assert (~told).nonzero().tolist() == [[1, 1], [3, 2]]


def test_no_names_leave_nothing_untold():
    assert untold_contrasts(torch.zeros(1, 1, dtype=torch.int64)).shape == (0, 2)
