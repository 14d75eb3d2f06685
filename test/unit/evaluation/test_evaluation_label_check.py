"""Labels that do not fit what was done, by the shipped checkpoint, in scenes it has never seen.

How many are found is counted in test/unit/bench/test_bench_mislabelled.py.
"""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from vla_alignment_ros.data.bag import EpisodeReader, find_episodes
from vla_alignment_ros.data.quality import EpisodeQuality, Finding, grade, Limits, Severity
from vla_alignment_ros.data.quality_episode import inspect_episode
from vla_alignment_ros.data.quality_folder import FEWEST
from vla_alignment_ros.data.relabel import apply_label, Label, plan_label
from vla_alignment_ros.evaluation.grading import grade_episodes, summary, worst_first
from vla_alignment_ros.evaluation.label_check import ACTION, judged, LabelJudge, SCENE, Usual
from vla_alignment_ros.observation import normalize_instruction
from vla_alignment_ros.policy.policy import Policy
from vla_alignment_ros.resources import package_path
from vla_alignment_ros.sim.record import record, RecordOptions

EPISODES = 4
SEED = 60_000  # the checkpoint was trained on the first thousands


@pytest.fixture(scope='module')
def judge():
    torch.set_num_threads(1)
    return LabelJudge(Policy.load(package_path('checkpoints', 'tabletop'), device='cpu'))


@pytest.fixture(scope='module')
def swapped(tmp_path_factory):
    """Episodes of which the first two have each other's label; and the right labels of all."""
    root = tmp_path_factory.mktemp('demos')
    options = RecordOptions(root, EPISODES, SEED, 'seen', compression='zstd', quiet=True)
    assert record(options).recorded == EPISODES
    infos = [EpisodeReader(path).info for path in find_episodes(root)]
    assert len({info.extra['group'] for info in infos}) == EPISODES
    for info, other in ((infos[0], infos[1]), (infos[1], infos[0])):
        apply_label(plan_label(info, Label(other.instruction)))
    return root, [normalize_instruction(info.instruction) for info in infos]


@pytest.fixture(scope='module')
def found(swapped, judge):
    return grade_episodes(find_episodes(swapped[0]), [swapped[0]], Limits(), judge)


def test_swapped_labels_are_found_and_the_right_ones_suggested(swapped, found):
    _, right = swapped
    assert [e.suggestion for e in found] == [right[0], right[1], None, None]
    assert [grade(e) for e in found] == ['error', 'error', 'good', 'good']
    text = found[0].findings[0].text
    assert text.startswith(f'“{right[1]}”: ') and f'“{right[0]}” fits better' in text
    assert [e.name for e in worst_first(found)] == [found[0].name, found[1].name]
    assert summary(found) == {
        'episodes': 4, 'grades': {'good': 2, 'warning': 0, 'error': 2},
        'kinds': {'label': {'error': 2, 'warning': 0, 'info': 0}},
    }  # fmt: skip


def test_scores_are_those_of_the_words_alone(swapped, found, judge):
    root, right = swapped
    for path, episode in zip(find_episodes(root), found):
        scores = judge.action_scores(path, right)
        own = right.index(normalize_instruction(episode.instruction))
        assert scores[own] == pytest.approx(episode.measures[ACTION], abs=1e-4)
    assert np.argmax(judge.action_scores(find_episodes(root)[2], right)) == 2
    assert all(e.measures[SCENE] > judge.go for e in found[2:])


def test_what_the_model_cannot_judge_is_said_and_not_judged(swapped, judge):
    path = find_episodes(swapped[0])[0]
    episode = inspect_episode(path, Limits())
    slower = replace(episode, embodiment=replace(episode.embodiment, rate_hz=5.0))
    (finding,) = judged(slower, judge).findings
    assert finding.kind == 'unscored' and 'rate_hz' in finding.text
    blind = episode.plus(Finding('image', Severity.ERROR, 'black'))
    assert judged(blind, judge).findings[-1].text.startswith('a camera shows nothing')
    assert ACTION not in judged(blind, judge).measures
    broken = EpisodeQuality(path)
    assert judged(broken, judge) is broken


def test_words_that_the_model_was_never_told_are_named(swapped, judge, tmp_path):
    root, right = swapped
    path = find_episodes(root)[2]
    apply_label(plan_label(EpisodeReader(path).info, Label('defenestrate the red cube')))
    try:
        (finding,) = judged(inspect_episode(path, Limits()), judge).findings
    finally:
        apply_label(plan_label(EpisodeReader(path).info, Label(right[2])))
    assert finding.text == 'the model was never told “defenestrate”'


@settings(deadline=None)
@given(
    right=st.integers(20, 200),
    share=st.floats(0.0, 0.3),
    spread=st.floats(0.005, 0.03),
    seed=st.integers(0, 100),
)
def test_what_is_usual_holds_with_a_third_of_wrong_labels(right, share, spread, seed):
    rng = np.random.default_rng(seed)
    good = rng.normal(0.85, spread, right)
    bad = rng.uniform(-0.2, 0.45, round(right * share / (1 - share)))
    usual = Usual.of(np.concatenate([good, bad]))
    assert all(map(usual.is_low, bad))
    assert not any(map(usual.is_low, good[good > 0.85 - 3 * spread]))


def test_too_few_episodes_tell_nothing_and_each_is_compared():
    usual = Usual.of(np.full(FEWEST - 1, 0.9))
    assert np.isnan(usual.low) and usual.is_low(0.9)
    assert not Usual.of(np.full(FEWEST, 0.9)).is_low(0.85)
