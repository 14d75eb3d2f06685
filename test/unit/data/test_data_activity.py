"""When an arm was active: as the recorder sees it, and with what it was told."""

from acted_recordings import Actor
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from recordings import make_embodiment

from vla_alignment_ros.data.activity import (
    activity,
    command_shares,
    joint_positions,
    moving_spans,
    Stillness,
)
from vla_alignment_ros.data.bag import EpisodeReader
from vla_alignment_ros.data.episode import commands, scan_episode
from vla_alignment_ros.errors import ConfigError


def activity_of(path, stillness=Stillness()):  # noqa: B008
    reader = EpisodeReader(path)
    scan = scan_episode(reader, reader.info.embodiment)
    ticks, actions, _ = commands(scan, reader.info.embodiment)
    return activity(scan, reader.info.embodiment, ticks, actions, stillness)


def test_idle_parts_are_found_to_the_control_period(tmp_path):
    path, _, _ = Actor(tmp_path, moves=lambda tick: 20 <= tick < 50 or tick == 75).record(ticks=90)
    found = activity_of(path)
    # a step is seen in the tick after it, over a window of two
    assert (found.first_ns - found.start_ns) * 1e-9 == pytest.approx(1.9, abs=0.11)
    assert (found.last_ns - found.start_ns) * 1e-9 == pytest.approx(7.8, abs=0.11)
    begin_s, length_s = found.longest_pause()
    assert begin_s == pytest.approx(5.2, abs=0.11) and length_s == pytest.approx(2.3, abs=0.11)
    assert found.idle_share == pytest.approx(1 - 3.6 / 9, abs=0.03)


def test_an_arm_that_is_told_to_move_is_active_though_nothing_moves(tmp_path):
    actor = Actor(tmp_path)
    actor.travelled = lambda tick: 0.0
    path, _, _ = actor.record(ticks=30)
    assert activity_of(path).idle_share == pytest.approx(0.0, abs=0.04)
    assert activity_of(path, Stillness(command_share=0.5)).first_ns is None


def test_the_gripper_alone_counts_in_openings(tmp_path):
    actor = Actor(tmp_path, moves=lambda tick: False)
    path, _, _ = actor.record(ticks=20)
    scan = scan_episode(EpisodeReader(path), actor.embodiment)
    stamps, positions = joint_positions(scan, actor.embodiment)
    assert positions[:, -1] == pytest.approx(1.0)
    closing = positions.copy()
    closing[10:, -1] -= np.linspace(0.01, 0.1, 10)  # 4 mm of 40 in a second: no joint is so slow
    assert not len(moving_spans(stamps, positions, Stillness().speed))
    spans = moving_spans(stamps, closing, Stillness().speed)
    assert spans[0, 1] == stamps[10] and spans[-1, 1] == stamps[-1]


@settings(deadline=None, max_examples=40)
@given(
    speed=st.floats(0.0, 0.5),
    hz=st.sampled_from([10, 30, 100, 400]),
    seed=st.integers(0, 1000),
)
def test_only_what_is_faster_than_rest_moves(speed, hz, seed):
    times = np.arange(hz) / hz
    noise = np.random.default_rng(seed).uniform(-1e-4, 1e-4, (hz, 2))
    positions = noise + np.stack([speed * times, np.zeros(hz)], axis=1)
    spans = moving_spans((times * 1e9).astype(np.int64), positions, 0.1)
    if speed < 0.09:
        assert not len(spans)
    if speed > 0.11:
        assert spans[0, 0] <= 0.02e9 and spans[-1, 1] >= 0.9e9


def test_commands_are_shares_of_what_the_embodiment_allows():
    embodiment = make_embodiment()
    actions = np.zeros((4, 7))
    actions[:, 6] = 1.0
    actions[1, 2] = -0.25
    actions[3, 6] = 0.0  # a gripper that is told to close
    assert command_shares(actions, embodiment) == pytest.approx([0.0, 0.25, 0.0, 1.0])


@pytest.mark.parametrize('wrong', [{'speed': -1.0}, {'command_share': float('nan')}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(ConfigError, match='must be 0 or more'):
        Stillness(**wrong)
