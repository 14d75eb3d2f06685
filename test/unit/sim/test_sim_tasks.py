"""Episodes are reproducible, and what is held out stays held out."""

from __future__ import annotations

import json

import pytest

from vla_alignment_ros.errors import ConfigError, SimulationError
from vla_alignment_ros.observation import normalize_instruction
from vla_alignment_ros.sim.phrases import load_splits, render_phrase, SPLITS
from vla_alignment_ros.sim.spec import EpisodeSpec, TASKS
from vla_alignment_ros.sim.tasks import MIN_SPACING_M, sample_episode

SEEDS = range(60)


def pairs_of(spec: EpisodeSpec) -> set[tuple[str, str]]:
    return {(item.color, item.shape) for item in spec.scene.objects}


@pytest.mark.parametrize('split', SPLITS)
def test_the_same_seed_gives_the_same_episode_and_it_survives_json(split):
    for seed in range(10):
        spec = sample_episode(seed, split)
        assert spec == sample_episode(seed, split)
        assert EpisodeSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_no_two_splits_share_a_random_stream():
    config = load_splits()
    last = {split: config.stream_seed(split, 9_999_999) for split in SPLITS}
    first = {split: config.stream_seed(split, 0) for split in SPLITS}
    ordered = sorted(SPLITS, key=first.get)
    for before, after in zip(ordered, ordered[1:]):
        assert last[before] < first[after]
    with pytest.raises(ConfigError, match='seed'):
        config.stream_seed('train', 10_000_000)
    scenes = [sample_episode(seed, split).scene for split in SPLITS for seed in range(0, 20, 2)]
    assert len(set(scenes)) == len(scenes)


def test_unknown_split_is_refused_with_the_choices():
    with pytest.raises(ConfigError, match='unseen_objects'):
        sample_episode(0, 'tests')


@pytest.mark.parametrize('split', ['train', 'val', 'seen', 'unseen_phrases', 'swapped', 'absent'])
def test_held_out_pairs_are_nowhere_outside_their_split(split):
    held_out = load_splits().held_out_pairs
    for seed in SEEDS:
        spec = sample_episode(seed, split)
        assert not pairs_of(spec) & held_out
        assert tuple(spec.target.split()) not in held_out


def test_unseen_objects_always_asks_for_a_held_out_pair_that_is_there():
    held_out = load_splits().held_out_pairs
    for seed in SEEDS:
        spec = sample_episode(seed, 'unseen_objects')
        assert tuple(spec.target.split()) in held_out
        assert spec.target_present


def test_held_out_words_are_each_trained_on_in_other_pairs():
    config = load_splits()
    assert len(config.held_out_pairs) == 5
    for index, words in ((0, config.colors), (1, config.shapes)):
        for word in words:
            assert sum(pair[index] == word for pair in config.train_pairs) >= 2


def test_held_out_phrases_are_never_spoken_in_training():
    config = load_splits()
    for task in TASKS:
        trained = {normalize_instruction(p) for p in config.train_phrases[task]}
        held_out = {normalize_instruction(p) for p in config.held_out_phrases[task]}
        assert len(trained) >= 14
        assert len(held_out) >= 5
        assert not trained & held_out
    for seed in SEEDS:
        for split, phrases in (
            ('train', config.train_phrases),
            ('seen', config.train_phrases),
            ('unseen_phrases', config.held_out_phrases),
        ):
            spec = sample_episode(seed, split)
            said = {
                render_phrase(p, spec.target, spec.tray, spec.side) for p in phrases[spec.task]
            }
            assert spec.instruction in said


def test_swapped_seeds_come_in_pairs_that_differ_only_in_the_object_named():
    for seed in range(0, 40, 2):
        first, second = sample_episode(seed, 'swapped'), sample_episode(seed + 1, 'swapped')
        assert first.scene == second.scene
        assert (first.task, first.tray, first.side) == (second.task, second.tray, second.side)
        assert first.target != second.target
        assert first.target_present
        assert second.target_present
        assert second.instruction == first.instruction.replace(first.target, second.target)


def test_absent_names_an_object_that_is_not_there_among_look_alikes():
    alike = 0
    for seed in SEEDS:
        spec = sample_episode(seed, 'absent')
        assert not spec.target_present
        assert spec.target in spec.instruction
        color, shape = spec.target.split()
        alike += any(c == color or s == shape for c, s in pairs_of(spec))
    assert alike > 0.8 * len(SEEDS)


def test_scenes_leave_room_for_the_gripper_and_never_repeat_an_object():
    counts = set()
    for seed in SEEDS:
        objects = sample_episode(seed, 'train').scene.objects
        counts.add(len(objects))
        assert len({item.name for item in objects}) == len(objects)
        for i, a in enumerate(objects):
            for b in objects[i + 1 :]:
                gap = ((a.x_m - b.x_m) ** 2 + (a.y_m - b.y_m) ** 2) ** 0.5
                assert gap >= MIN_SPACING_M
    assert counts == {2, 3, 4}


def test_only_training_episodes_are_disturbed():
    assert any(sample_episode(seed, 'train').disturbance.events for seed in SEEDS)
    for split in ('seen', 'unseen_objects', 'unseen_phrases', 'swapped', 'absent'):
        disturbance = sample_episode(1, split).disturbance
        assert not disturbance.events
        assert disturbance.noise_m_s == 0


def test_a_broken_episode_description_is_refused_by_name():
    data = sample_episode(0, 'seen').to_dict()
    with pytest.raises(SimulationError, match='colour'):
        EpisodeSpec.from_dict({**data, 'colour': 1})
    del data['scene']
    with pytest.raises(SimulationError, match='scene'):
        EpisodeSpec.from_dict(data)


def test_a_split_file_that_trains_on_held_out_words_is_refused(tmp_path):
    path = tmp_path / 'splits.yaml'
    text = _shipped_splits()
    path.write_text(text.replace('- fetch the {object}', '- pick up the {object}'))
    with pytest.raises(ConfigError, match='trained on'):
        load_splits(path)
    path = tmp_path / 'thin.yaml'
    reds = '\n'.join(f'  - [red, {shape}]' for shape in ('cube', 'cylinder', 'brick'))
    path.write_text(text.replace('  - [red, ball]', f'  - [red, ball]\n{reds}'))
    with pytest.raises(ConfigError, match="'red'"):
        load_splits(path)


def _shipped_splits() -> str:
    from vla_alignment_ros.embodiment import package_path

    return package_path('config', 'splits.yaml').read_text()
