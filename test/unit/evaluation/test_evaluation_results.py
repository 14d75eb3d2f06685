"""Episodes end and count by the documented rules, and the JSON has exactly its keys."""
import dataclasses
import json
import math

import pytest

from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.evaluation.episode import (
    Decided,
    EpisodeLimits,
    EpisodeTracker,
    Scene,
    Stepped,
)
from vla_alignment_ros.evaluation.results import gather, parse_splits
from vla_alignment_ros.evaluation.smoothness import Smoothness

LIMITS = EpisodeLimits(max_steps=20, hold_steps=5)


def run(split='seen', gates='g' * 20, success_at=None, touched=(), wrong=False, displaced_m=0.0):
    scene = Scene(3, 13, split, 'pick', 'pick up the red cube', 'red cube')
    tracker = EpisodeTracker(scene, LIMITS, rate_hz=10.0)
    names = {'g': 'go', 's': 'slow', 'h': 'hold'}
    for i, gate in enumerate(gates):
        decided = Decided(i * 100_000_000, scene.instruction, 0.5, names[gate], 0.01)
        success = success_at is not None and i + 1 >= success_at
        if tracker.tick(decided, Stepped(i + 1, success, wrong, touched, displaced_m)):
            break
    return tracker.result(wall_s=1.0)


def test_success_ends_the_episode_at_that_step():
    result = run(success_at=7, touched=('red cube',))
    assert (result.success, result.end, result.steps) == (True, 'success', 7)
    assert result.duration_s == pytest.approx(0.7)
    assert len(result.scores) == len(result.gates) == 7


def test_running_out_of_steps_is_a_failure_and_no_refusal():
    result = run(split='absent')
    assert (result.success, result.refused, result.end) == (False, False, 'limit')
    assert result.outcome == 'out of time'


def test_a_long_unbroken_hold_with_nothing_touched_is_a_refusal():
    result = run(split='absent', gates='g' * 3 + 'h' * 20)
    assert (result.success, result.refused, result.end, result.steps) == (True, True, 'hold', 8)


def test_a_broken_hold_is_no_refusal():
    assert not run(split='absent', gates='hhhhg' * 4).refused


@pytest.mark.parametrize('moved', [{'touched': ('red cube',)}, {'displaced_m': 0.011}])
def test_holding_after_something_moved_is_no_refusal(moved):
    result = run(split='absent', gates='h' * 20, **moved)
    assert (result.success, result.refused, result.end) == (False, False, 'hold')


def test_refusing_what_is_there_fails():
    result = run(split='seen', gates='h' * 20)
    assert (result.success, result.refused, result.outcome) == (False, True, 'refused, wrongly')


def test_touching_another_object_is_the_wrong_object_even_if_it_succeeds():
    result = run(success_at=5, touched=('red cube', 'blue ball'))
    assert (result.success, result.wrong_object, result.wrong_moved) == (True, True, False)
    assert not run(success_at=5, touched=('red cube',)).wrong_object


def test_success_of_the_world_does_not_count_where_the_object_is_absent():
    result = run(split='absent', success_at=1)
    assert (result.success, result.end) == (False, 'limit')


def test_results_file_has_exactly_its_keys(tmp_path):
    episodes = [run(success_at=5), run(wrong=True), run(split='absent', gates='h' * 9)]
    evaluation = gather('checkpoints/tabletop', 4, episodes)
    evaluation.write_json(tmp_path / 'deep' / 'r.json')
    read = json.loads((tmp_path / 'deep' / 'r.json').read_text())
    assert set(read) == {'splits', 'checkpoint', 'seed'}
    assert list(read['splits']) == ['seen', 'absent']
    for figures in read['splits'].values():
        assert set(figures) == {
            'episodes', 'success_rate', 'ci95', 'wrong_object_rate', 'refused_rate'}
    seen, absent = read['splits']['seen'], read['splits']['absent']
    assert (seen['episodes'], seen['success_rate'], seen['wrong_object_rate']) == (2, 0.5, 0.5)
    assert (absent['success_rate'], absent['refused_rate']) == (1.0, 1.0)
    assert absent['ci95'] == pytest.approx([0.206549, 1.0], abs=1e-6)
    assert (read['checkpoint'], read['seed']) == ('checkpoints/tabletop', 4)


def test_smoothness_is_in_the_results_where_every_episode_knows_its_commands():
    known = [
        dataclasses.replace(run(), motion=Smoothness(peak_acceleration=a, mean_jerk=10 * a))
        for a in (1.0, 3.0)
    ]
    figures = gather('c', 0, known).splits['seen'].to_dict()
    assert (figures['peak_acceleration'], figures['mean_jerk']) == (2.0, 20.0)
    assert 'mean_jerk' not in gather('c', 0, [*known, run()]).splits['seen'].to_dict()


def test_episodes_file_keeps_every_decision(tmp_path):
    gather('c', 0, [run(success_at=5)]).write_episodes(tmp_path / 'e.json')
    (episode,) = json.loads((tmp_path / 'e.json').read_text())
    assert episode['gates'] == ['go'] * 5
    assert len(episode['scores']) == 5


def test_tasks_are_counted_apart():
    split = gather('c', 0, [run(success_at=5), run()]).splits['seen']
    assert split.by_task() == {'pick': (1, 2)}
    assert not math.isnan(split.median_score)


def test_splits_are_read_in_order_without_repeats():
    assert parse_splits('seen, absent,seen') == ('seen', 'absent')
    assert parse_splits('all') == (
        'seen', 'unseen_objects', 'unseen_phrases', 'swapped', 'absent')


@pytest.mark.parametrize('text', ['seen,sen', '', ' , '])
def test_unknown_splits_are_refused_with_the_known_ones(text):
    with pytest.raises(ConfigError, match='unseen_phrases'):
        parse_splits(text)


def test_limits_below_one_are_refused():
    with pytest.raises(ConfigError, match='hold_steps'):
        EpisodeLimits(hold_steps=0)


def test_between_two_decisions_the_last_one_goes_on():
    tracker = EpisodeTracker(Scene(0, 0, 'seen', '', '', ''), LIMITS, 10.0)
    standing = Stepped(1, False, False, (), 0.0)
    assert tracker.tick(None, standing) is None  # nothing was decided yet: that is no hold
    tracker.tick(Decided(0, '', 0.5, 'hold', 0.01), standing)
    ends = [tracker.tick(None, standing) for _ in range(4)]
    assert ends == [None, None, None, 'hold']
    result = tracker.result(1.0)
    assert (result.steps, result.gates) == (6, ('hold',))


def test_an_unfinished_episode_has_no_result():
    tracker = EpisodeTracker(Scene(0, 0, 'seen', '', '', ''), LIMITS, 10.0)
    with pytest.raises(RuntimeError, match='not ended'):
        tracker.result(0.0)
