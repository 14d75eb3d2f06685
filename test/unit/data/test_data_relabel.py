"""Labels that are set anew hold for everybody, and can be taken back."""

import json
import os

from acted_recordings import contents
import pytest

from vla_alignment_ros.data.bag import EpisodeReader
from vla_alignment_ros.data.bag_format import METADATA
from vla_alignment_ros.data.episode import read_episode
from vla_alignment_ros.data.relabel import (
    apply_label,
    history,
    Label,
    plan_label,
    plan_table,
    plan_undo,
    read_table,
)
from vla_alignment_ros.errors import BagError

NOTES = {'task': 'pick', 'target': 'red cube', 'seed': '7'}


def info_of(path):
    return EpisodeReader(path).info


def relabel(path, *labels):
    for label in labels:
        apply_label(plan_label(info_of(path), label))
    return info_of(path)


@pytest.fixture
def episode(recorder):
    path, _, _ = recorder.record('one', extra=NOTES)
    return path


def test_a_new_label_stands_over_what_was_said(episode):
    before = contents(episode)
    info = relabel(episode, Label('push the ball', 'no'))
    assert (info.instruction, info.success, info.relabelled) == ('push the ball', False, True)
    assert set(read_episode(episode).instructions) == {'push the ball'}
    after = contents(episode)
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == [METADATA]


def test_notes_of_the_old_sentence_do_not_outlive_it(episode):
    info = relabel(episode, Label('push the ball', notes={'target': 'ball'}))
    assert info.extra['target'] == 'ball' and 'task' not in info.extra
    assert info.extra['seed'] == '7'
    assert history(info)[0]['notes'] == {'task': 'pick', 'target': 'red cube'}


def test_a_verdict_alone_leaves_words_and_notes(episode):
    info = relabel(episode, Label(success='no'))
    assert info.success is False and info.extra['task'] == 'pick' and not info.relabelled


def test_undo_goes_back_step_by_step_to_the_recorded_bag(episode):
    recorded = info_of(episode)
    steps = [Label('push the ball', 'no', {'task': 'push'}), Label(success='unknown'),
             Label('lift it')]  # fmt: skip
    seen = [recorded]
    for step in steps:
        seen.append(relabel(episode, step))
    assert len(history(seen[-1])) == 3
    for earlier in reversed(seen[:-1]):
        apply_label(plan_undo(info_of(episode)))
        assert info_of(episode) == earlier
    assert not plan_undo(info_of(episode)).custom


def test_what_is_said_already_changes_nothing(episode):
    info = relabel(episode, Label('push the ball', 'no'))
    assert not plan_label(info, Label('push the ball', 'no')).custom


def test_other_words_with_the_same_meaning_keep_the_notes(episode):
    info = relabel(episode, Label('  pick UP the red cube'))
    assert info.instruction == '  pick UP the red cube' and info.extra['task'] == 'pick'


def test_a_write_that_fails_leaves_the_old_label(episode, monkeypatch):
    before = contents(episode)
    change = plan_label(info_of(episode), Label('push the ball'))

    def full(descriptor):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(BagError, match='No space left'):
        apply_label(change)
    assert contents(episode) == before


def test_everything_else_in_the_metadata_stays(episode):
    relabel(episode, Label('“push”: the ball, [left]\n#1'))
    info = info_of(episode)
    assert info.instruction == '“push”: the ball, [left]\n#1'
    assert len(list(EpisodeReader(episode).messages())) == 31
    assert info.embodiment is not None and info.message_counts['instruction'] == 1


@pytest.mark.parametrize('note', ['{', '[1]', '[{"success": []}]', '[{"notes": {"task": 1}}]'])
def test_a_history_of_somebody_else_is_named(recorder, note):
    path, _, _ = recorder.record(extra={'relabelled': note})
    with pytest.raises(BagError, match='relabelled'):
        plan_undo(info_of(path))


@pytest.mark.parametrize(
    'arguments',
    [(), (' . ',), ('x' * 5000,), (None, 'maybe'), ('lift it', None, {'seed': '1'})],
)
def test_labels_that_say_nothing_are_refused(arguments):
    with pytest.raises(BagError):
        Label(*arguments)


# -- tables -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'name, text',
    [
        ('t.csv', 'episode,instruction,success,why\none,push the ball,no,looks so\ntwo,,yes,\n'),
        ('t.csv', '\ufeffepisode,instruction,success\r\none,push the ball,no\r\ntwo,,yes\r\n'),
        ('t.yaml', 'one: {instruction: push the ball, success: "no"}\ntwo: {success: "yes"}\n'),
    ],
)
def test_a_table_labels_each_episode(recorder, tmp_path, name, text):
    infos = [info_of(recorder.record(n, success=None)[0]) for n in ('one', 'two', 'three')]
    file = tmp_path / name
    file.write_text(text, encoding='utf-8')
    for change in plan_table(infos, read_table(file), name):
        apply_label(change)
    after = [(i.instruction, i.success) for i in (info_of(info.path) for info in infos)]
    said = 'Pick up the red cube.'
    assert after == [('push the ball', False), (said, True), (said, None)]


@pytest.mark.parametrize(
    'text, match',
    [
        ('episode,instruction\n', 'names no episode'),
        ('instruction\nlift it\n', 'episode 1: it names no episode'),
        ('episode,instruction\na,lift it\na,push it\n', "episode 2: 'a' has more than one row"),
        ('episode,instructions\na,lift it\n', 'column instructions is unknown'),
        ('episode,instruction,success\na,lift it,perhaps\n', 'success must be yes, no, unknown'),
        ('episode,instruction\na\n', 'episode 1: say what to set'),
        ('episode,instruction\na,"lift\n', 'cannot read the table'),
    ],
)
def test_a_wrong_row_is_named(tmp_path, text, match):
    file = tmp_path / 't.csv'
    file.write_text(text)
    with pytest.raises(BagError, match=match):
        read_table(file)


def test_yaml_that_is_no_table_is_named(tmp_path):
    file = tmp_path / 't.yaml'
    wrong = {'- a': 'maps episodes', 'a: 3': 'must be text', 'a: [': 'cannot read'}
    for text, match in wrong.items():
        file.write_text(text)
        with pytest.raises(BagError, match=match):
            read_table(file)


def test_episodes_that_are_not_there_or_not_clear_are_named(variant, tmp_path):
    infos = [info_of(variant(tmp_path / day).record('e')[0]) for day in ('monday', 'tuesday')]
    label = Label('lift it')
    with pytest.raises(BagError, match="no 'f' among the 2 episodes"):
        plan_table(infos, {'f': label}, 'table')
    with pytest.raises(BagError, match='write more of the path'):
        plan_table(infos, {'e': label}, 'table')
    with pytest.raises(BagError, match='has more than one row'):
        plan_table(infos, {'monday/e': label, str(infos[0].path): label}, 'table')
    (change,) = plan_table(infos, {'monday/e': label}, 'table')
    assert change.info.path == infos[0].path and json.loads(change.custom['relabelled'])
