"""Maps that are planted are judged as they were planted."""

from __future__ import annotations

from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from vla_alignment_ros.evaluation.grounding import judge, Query, tally
from vla_alignment_ros.evaluation.overlay import enlarge

# a busy machine is no reason to fail
BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
CELL, ROWS, COLUMNS = 8, 16, 12
SHAPE = (CELL * ROWS, CELL * COLUMNS)


def planted(row, column, background=0.0):
    heat = np.full((ROWS, COLUMNS), background)
    heat[row, column] = 1.0
    return heat


def square(row, column, cells=1):
    mask = np.zeros(SHAPE, bool)
    mask[row * CELL : (row + cells) * CELL, column * CELL : (column + cells) * CELL] = True
    return mask


def test_a_peak_on_the_thing_is_a_hit_of_both_kinds():
    found = judge(planted(5, 7), square(5, 7))
    assert found.strict and found.near
    # linear between cell centres: half of the maximum reaches half a cell to each side
    assert 0.4 < found.iou <= 1.0
    assert found.area == pytest.approx(1 / (ROWS * COLUMNS))


@pytest.mark.parametrize(
    ('place', 'near'), [((5, 8), True), ((4, 6), True), ((5, 9), False), ((7, 7), False)]
)
def test_one_cell_beside_is_near_and_not_strict(place, near):
    found = judge(planted(*place), square(5, 7))
    assert not found.strict
    assert found.near == near


def test_a_flat_map_points_nowhere_and_marks_everything():
    mask = square(3, 3, cells=4)
    found = judge(np.full((ROWS, COLUMNS), 0.3), mask)
    assert not found.strict and not found.near
    assert found.iou == pytest.approx(mask.mean()) == pytest.approx(found.area)


def test_two_equal_peaks_must_both_be_right():
    heat = planted(5, 7) + planted(12, 2)
    assert not judge(heat, square(5, 7)).strict
    assert judge(heat, square(5, 7) | square(12, 2)).strict


def test_a_map_that_is_its_mask_overlaps_it_nearly_whole():
    heat = np.zeros((ROWS, COLUMNS))
    heat[2:8, 3:9] = 1.0
    assert judge(heat, square(2, 3, cells=6)).iou > 0.9
    assert judge(heat, square(9, 3, cells=2)).iou < 0.05


@settings(BUSY, max_examples=60)
@given(
    st.tuples(st.integers(0, ROWS - 1), st.integers(0, COLUMNS - 1)),
    st.tuples(st.integers(0, ROWS - 1), st.integers(0, COLUMNS - 1)),
    st.floats(0, 0.9),
)
def test_a_hit_is_decided_by_the_distance_in_cells_and_scale_does_not_matter(peak, thing, floor):
    heat, mask = planted(*peak, background=floor), square(*thing)
    found = judge(heat, mask)
    away = max(abs(peak[0] - thing[0]), abs(peak[1] - thing[1]))
    assert found.strict == (away == 0)
    assert found.near == (away <= 1)
    assert judge(heat * 1e-4, mask) == found


def test_maps_are_laid_over_the_picture_without_a_shift():
    large = enlarge(planted(5, 7), *SHAPE)
    y, x = np.argwhere(large >= large.max() - 1e-6).mean(0)
    assert (y, x) == pytest.approx(((5 + 0.5) * CELL - 0.5, (7 + 0.5) * CELL - 0.5))
    # halfway to the next cell's centre there is half of it left
    assert large[round(y), round(x + CELL / 2 - 0.5)] == pytest.approx(0.5, abs=0.1)


def test_hidden_things_are_left_out_and_counted():
    small = np.zeros(SHAPE, bool)
    small[:2, :3] = True
    found = tally(
        [
            (Query('colour', 'red', 3, square(5, 7)), planted(5, 7)),
            (Query('colour', 'red', 3, square(5, 7)), planted(5, 8)),
            (Query('colour', 'red', 3, small), planted(0, 0)),
            (Query('shape', 'cube', 4, small), planted(0, 0)),
        ]
    )
    colour, shape = found['colour'].to_dict(), found['shape'].to_dict()
    assert (colour['count'], colour['left_out']) == (2, 1)
    assert (colour['strict']['hits'], colour['near']['hits']) == (1, 2)
    assert colour['strict']['rate'] == 0.5
    assert colour['strict']['ci95'] == pytest.approx([0.094529, 0.905471], abs=1e-5)
    assert shape == {
        'count': 0, 'left_out': 1, 'mean_iou': None, 'mean_area': None,
        'strict': {'hits': 0, 'rate': None, 'ci95': [0.0, 1.0]},
        'near': {'hits': 0, 'rate': None, 'ci95': [0.0, 1.0]},
    }  # fmt: skip
