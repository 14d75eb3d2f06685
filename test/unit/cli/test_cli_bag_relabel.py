"""`vla_bag relabel`: what it says and what it asks for."""

from acted_recordings import contents
import pytest

from vla_alignment_ros.cli.vla_bag import main
from vla_alignment_ros.data.bag import EpisodeReader


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv('COLUMNS', '200')


@pytest.fixture
def demos(recorder):
    recorder.record('a'), recorder.record('b', success=None)
    return recorder.root


def labels(root):
    infos = [EpisodeReader(root / name).info for name in ('a', 'b')]
    return [(info.instruction, info.success) for info in infos]


def said(capsys):
    return [' '.join(line.split()) for line in capsys.readouterr().out.splitlines() if line]


def test_it_shows_what_changes_and_takes_it_back(demos, capsys):
    before = labels(demos)
    words = ['--instruction', 'push [it]', '--success', 'no']
    assert main(['relabel', str(demos / 'a'), *words]) == 0
    assert said(capsys) == [
        'episode was is success',
        'a Pick up the red cube. push [it] yes → no',
        '1 of 1 episodes relabelled',
    ]
    assert labels(demos) == [('push [it]', False), before[1]]
    assert main(['relabel', str(demos), '--undo']) == 0
    assert said(capsys)[-1] == '1 of 2 episodes relabelled; the others never were'
    assert labels(demos) == before


def test_a_dry_run_changes_nothing(demos, capsys):
    before = contents(demos)
    assert main(['relabel', str(demos), '--success', 'yes', '--dry-run']) == 0
    assert said(capsys)[-1] == '1 of 2 episodes would be relabelled; the others say so already'
    assert contents(demos) == before


def test_a_table_with_a_wrong_row_changes_nothing(demos, tmp_path, capsys):
    before = contents(demos)
    table = tmp_path / 'labels.csv'
    table.write_text('episode,instruction\na,lift it\nc,lift it\n')
    assert main(['relabel', str(demos), '--table', str(table)]) == 2
    assert "no 'c' among the 2 episodes" in capsys.readouterr().err
    assert contents(demos) == before
    table.write_text('episode,instruction\na,lift it\n')
    assert main(['relabel', str(demos), '--table', str(table)]) == 0
    assert [text for text, _ in labels(demos)] == ['lift it', 'Pick up the red cube.']


@pytest.mark.parametrize(
    'arguments', [[], ['--undo', '--success', 'no'], ['--instruction', ''], ['--table', 'absent']]
)
def test_what_is_not_clear_is_asked_for(demos, arguments):
    assert main(['relabel', str(demos), *arguments]) == 2
