"""How many wrong labels `vla_bag check` finds: the counting, and the bound that it has to keep."""

import json

from acted_recordings import Actor
import pytest

from bench.mislabelled import count, Counts, main, measure, mislabel, Options
from vla_alignment_ros.data.bag import EpisodeReader
from vla_alignment_ros.sim.record import record, RecordOptions

LEAST = 0.8
LEAST_NEAR = 0.7  # recall where only thing, tray or side is wrong: 0.9 in the mean, of ten labels
LABELS = json.dumps(['red cube', 'blue ball', 'white tray', 'black tray'])


def info_of(path):
    return EpisodeReader(path).info


@pytest.fixture
def episodes(tmp_path):
    infos = []
    for i in range(6):
        thing = ('red cube', 'blue ball')[i % 2]
        extra = {'group': f'push {thing} left', 'target': thing, 'labels': LABELS}
        path, _, _ = Actor(tmp_path / 'demos').record(
            f'e{i}', instruction=f'push the {thing} to the left', extra=extra
        )
        infos.append(info_of(path))
    return infos


@pytest.mark.parametrize('wrong', ['any', 'near'])
def test_wrong_labels_are_wrong_and_as_many_as_asked(episodes, wrong):
    truth = mislabel(episodes, 0.34, seed=3, wrong=wrong)
    changed = [i.name for i in episodes if info_of(i.path).instruction != i.instruction]
    assert changed == sorted(truth) and len(truth) == 2
    for info in episodes:
        if info.name in truth:
            assert truth[info.name] == info.extra['group']
            said = info_of(info.path).instruction
            assert info.extra['target'] not in said or 'right' in said


def test_the_same_seed_labels_the_same_wrongly(episodes):
    assert mislabel(episodes, 0.34, seed=3) == mislabel(episodes, 0.34, seed=3)
    assert mislabel(episodes, 0.34, seed=3) != mislabel(episodes, 0.34, seed=4)


def test_hits_false_alarms_and_suggestions_are_counted():
    groups = {'a': 'lift', 'b': 'push', 'c': 'lift', 'd': 'push', 'e': 'drop'}
    truth = {'a': 'lift', 'b': 'push', 'e': 'drop'}

    def episode(name, instruction, *labels):
        findings = [{'kind': 'label', **label} for label in labels]
        findings.append({'kind': 'idle'})
        return {'path': f'/x/{name}', 'instruction': instruction, 'findings': findings}

    found = [
        episode('a', 'push it', {'suggestion': 'lift it'}),
        episode('b', 'lift it'),
        episode('c', 'lift it', {'suggestion': 'push that'}),
        episode('d', 'push that'),
        episode('e', 'lift it', {}),
    ]
    counts = count(found, groups, truth)
    assert counts == Counts(5, 3, found=2, accused=1, suggested=1, sayable=1)
    assert counts.recall == pytest.approx(2 / 3) and counts.precision == pytest.approx(2 / 3)
    assert str(counts).startswith('| 5 | 3 | 2 of 3 = 67 %')


def test_nothing_is_measured_on_what_may_be_labelled_wrongly_already(episodes, tmp_path, capsys):
    out = tmp_path / 'out'
    (out / 'episodes').mkdir(parents=True)
    folder = str(episodes[0].path.parent)
    assert main([folder, '--episodes', '6', '--out', str(out)]) == 2
    assert 'exists already' in capsys.readouterr().err
    assert main([folder, '--episodes', '7', '--out', str(tmp_path / 'new')]) == 2
    assert '--episodes must be 2…6' in capsys.readouterr().err


@pytest.fixture(scope='module', params=[('train', 0), ('seen', 70_000)], ids=['trained', 'new'])
def demonstrations(request, tmp_path_factory):
    """100 episodes like those of training, and 100 of scenes that are new."""
    root = tmp_path_factory.mktemp('demos')
    split, seed = request.param
    assert record(RecordOptions(root, 100, seed, split, quiet=True)).failed == ()
    return root


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize('wrong', ['any', 'near'])
def test_wrong_labels_are_found(demonstrations, tmp_path, wrong):
    counts = measure(Options(demonstrations, tmp_path / 'out', episodes=100, wrong=wrong))
    assert counts.wrong == 10
    assert counts.recall >= (LEAST if wrong == 'any' else LEAST_NEAR), counts
    assert counts.precision >= LEAST, counts
