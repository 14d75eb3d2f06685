"""`vla_bag trim`: what is left goes elsewhere, and the original stays."""

from acted_recordings import Actor, contents
import pytest

from vla_alignment_ros.cli.vla_bag import main
from vla_alignment_ros.data.bag import find_episodes


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv('COLUMNS', '200')


@pytest.fixture
def demos(tmp_path):
    root = tmp_path / 'demos'
    Actor(root, lambda tick: tick >= 15).record('idle', ticks=30)
    Actor(root, seed=1).record('busy.2', ticks=20)
    return root


def said(capsys):
    return [' '.join(line.split()) for line in capsys.readouterr().out.splitlines() if line]


def test_trim_writes_new_episodes_and_says_what_was_cut(demos, tmp_path, capsys):
    before, out = contents(demos), tmp_path / 'out'
    assert main(['trim', str(demos), '--dry-run']) == 0
    assert said(capsys)[-1] == '0.9 of 4.8 s would be cut, in 1 of 2 episodes'
    assert main(['trim', str(demos), '--out', str(out), '--margin-s', '0.2']) == 0
    assert said(capsys) == [
        'episode start cut s end cut s left s',
        'idle 1.2 0.0 1.7',
        '1.2 of 4.8 s cut, in 1 of 2 episodes',
    ]
    assert [path.name for path in find_episodes(out)] == ['busy.2', 'idle']
    assert contents(demos) == before
    assert main(['trim', str(demos), '--out', str(out)]) == 2
    assert 'exists already' in capsys.readouterr().err


def test_trim_names_what_it_cannot_trim_and_goes_on(demos, tmp_path, capsys):
    Actor(demos, lambda tick: False).record('never', ticks=20)
    assert main(['trim', str(demos), '--out', str(tmp_path / 'out')]) == 1
    captured = capsys.readouterr()
    assert 'never: nothing moves' in captured.err
    assert captured.out.splitlines()[-1].endswith('1 cannot be trimmed')
    assert len(find_episodes(tmp_path / 'out')) == 2


def test_trim_asks_for_a_folder(demos, tmp_path):
    assert main(['trim', str(demos)]) == 2
    assert main(['trim', str(demos), '--out', str(tmp_path / 'o'), '--margin-s', '-1']) == 2
    assert not (tmp_path / 'o').exists()
