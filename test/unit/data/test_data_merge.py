"""Folders become one: names differ, copies are left out, and nothing else happens to the data."""

import os
import shutil

from acted_recordings import contents
import pytest
from recordings import rewrite

from vla_alignment_ros import wire
from vla_alignment_ros.data.bag import EpisodeReader, find_episodes
from vla_alignment_ros.data.content import content_digest
from vla_alignment_ros.data.merge import do_merge, plan_merge
from vla_alignment_ros.data.relabel import apply_label, Label, plan_label
from vla_alignment_ros.errors import BagError


@pytest.fixture
def days(variant, tmp_path):
    """Two folders with three episodes; a name is in both."""
    monday = variant(tmp_path / 'monday', seed=1)
    tuesday = variant(tmp_path / 'tuesday', seed=2)
    monday.record('a'), monday.record('b'), tuesday.record('a')
    return tmp_path / 'monday', tmp_path / 'tuesday'


def episodes(*folders):
    return [path for folder in folders for path in find_episodes(folder)]


def label(path, *what):
    apply_label(plan_label(EpisodeReader(path).info, Label(*what)))


@pytest.mark.parametrize('link', [True, False])
def test_every_episode_is_there_under_a_name_of_its_own(days, tmp_path, link):
    out = tmp_path / 'all'
    linked = do_merge(plan_merge(episodes(*days), out), link)
    assert linked == (3 if link else 0)
    assert sorted(path.name for path in find_episodes(out)) == ['a', 'b', 'tuesday_a']
    assert contents(out / 'tuesday_a') == contents(days[1] / 'a')
    assert sorted(os.listdir(out)) == ['a', 'b', 'tuesday_a']


def test_a_label_that_is_set_later_is_set_in_one_place_only(days, tmp_path):
    out = tmp_path / 'all'
    do_merge(plan_merge(episodes(*days), out), link=True)
    before = contents(days[0])
    label(out / 'a', 'lift it')
    with (out / 'b' / 'metadata.yaml').open('a') as file:  # as some tools write
        file.write('# seen\n')
    assert contents(days[0]) == before


def test_a_merge_can_be_repeated_and_added_to(days, variant, tmp_path):
    out = tmp_path / 'all'
    do_merge(plan_merge(episodes(days[0]), out), link=False)
    before = contents(out)
    again = plan_merge(episodes(days[0]), out)
    assert not again.copies and len(again.duplicates) == 2
    plan = plan_merge(episodes(*days), out)
    assert [name for _, name in plan.copies] == ['tuesday_a']
    do_merge(plan, link=False)
    assert contents(out).items() > before.items()


def test_a_copy_is_left_out_however_it_is_stored(days, tmp_path):
    def with_other_words(topic, log_ns, raw):
        return log_ns, wire.encode_string('Lift it.') if topic == 'instruction' else raw

    copy = rewrite(
        days[0] / 'a', tmp_path / 'copies', with_other_words, 'c', storage='sqlite3'
    )
    assert content_digest(copy) == content_digest(days[0] / 'a')
    assert content_digest(copy) != content_digest(days[0] / 'b')
    plan = plan_merge([*episodes(*days), copy], tmp_path / 'all')
    assert plan.duplicates == ((copy, days[0] / 'a'),)


def test_the_same_recording_with_two_labels_is_refused(days, tmp_path):
    shutil.copytree(days[0] / 'a', tmp_path / 'wednesday' / 'c')
    label(tmp_path / 'wednesday' / 'c', 'push the ball')
    with pytest.raises(BagError, match="'push the ball', 'succeeded'.*instead of"):
        plan_merge(episodes(*days, tmp_path / 'wednesday'), tmp_path / 'all')


def test_other_embodiments_are_refused_before_anything_is_written(days, variant, tmp_path):
    variant(tmp_path / 'other', rate_hz=20.0).record('x')
    with pytest.raises(BagError, match='another embodiment.*rate_hz'):
        plan_merge(episodes(*days, tmp_path / 'other'), tmp_path / 'all')
    assert not (tmp_path / 'all').exists()


def test_a_disk_that_fails_leaves_whole_episodes_only(days, tmp_path, monkeypatch):
    out = tmp_path / 'all'
    plan = plan_merge(episodes(*days), out)
    copied = []

    def copy(source, target):
        copied.append(source)
        if len(copied) == 4:  # in the middle of the second
            target.write_bytes(b'half')
            raise OSError(28, 'No space left on device')
        return shutil.copyfile(source, target)

    monkeypatch.setattr(shutil, 'copy2', copy)
    with pytest.raises(BagError, match='No space left'):
        do_merge(plan, link=False)
    assert os.listdir(out) == ['a']
    assert contents(out / 'a') == contents(days[0] / 'a')
