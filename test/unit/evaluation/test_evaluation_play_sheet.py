"""An episode on one sheet: what is read of it, and that it can be drawn."""

from acted_recordings import Actor
import cv2
import numpy as np
import pytest

from vla_alignment_ros.errors import DatasetError
from vla_alignment_ros.evaluation.play_sheet import draw_play, read_play


def moves(tick):
    return 10 <= tick < 30


def closing(actor):
    act = actor.action

    def action(tick, ticks):
        values = act(tick, ticks)
        values[6] = float(tick < 20)
        return values

    actor.action = action
    return actor


def shape_of(png):
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).shape


def test_what_happened_is_read_in_seconds_of_the_episode(tmp_path):
    path, _, _ = closing(Actor(tmp_path, moves)).record(
        ticks=40, interventions=[(25, True), (35, False)]
    )
    play = read_play(path, moments=5)
    assert play.times_s == pytest.approx([0.0, 1.0, 2.0, 2.9, 3.9], abs=0.051)
    assert {name: len(frames) for name, frames in play.frames.items()} == {'front': 5, 'wrist': 5}
    assert play.texts == ('pick up the red cube',)
    assert play.duration_s == pytest.approx(3.9)
    assert play.changes_s == ((pytest.approx(2.0), False),)
    assert play.person_s == ((pytest.approx(2.5), pytest.approx(3.5)),)
    assert play.idle_s[0] == pytest.approx((0.0, 0.9), abs=0.11)
    assert play.idle_s[-1] == pytest.approx((3.2, 4.0), abs=0.11)
    assert play.command.max() == pytest.approx(0.3)
    assert play.speed.max() == pytest.approx(0.3) and play.opening == pytest.approx(1.0)


@pytest.mark.parametrize('moments, ticks', [(1, 12), (24, 8), (3, 1)])
def test_it_can_be_drawn_whatever_its_length(tmp_path, moments, ticks):
    path, _, _ = Actor(tmp_path).record(ticks=ticks)
    play = read_play(path, moments)
    assert len(play.times_s) == min(moments, ticks)
    height, width, _ = shape_of(draw_play(play))
    assert width > 600 and height > 400


def test_a_long_instruction_makes_it_higher_not_wider(tmp_path):
    short, _, _ = Actor(tmp_path).record(ticks=4)
    long, _, _ = Actor(tmp_path).record(ticks=4, instruction='put it there and ' * 20)
    short, long = (shape_of(draw_play(read_play(path, 2))) for path in (short, long))
    assert long[0] > short[0] and long[1] == short[1]


def test_an_episode_without_samples_is_named(recorder):
    path, _, _ = recorder.record()
    next(path.glob('*.mcap')).write_bytes(b'')
    with pytest.raises(DatasetError, match=str(path)):
        read_play(path)
