"""`vla_bag check`: what it says, writes and returns."""

import json
import os

from acted_recordings import Actor, contents
import pytest

from vla_alignment_ros.cli.vla_bag import main
from vla_alignment_ros.data.bag_format import METADATA


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv('COLUMNS', '200')


@pytest.fixture
def demos(tmp_path):
    """A good episode, an idle one, and one that lost its end."""
    root = tmp_path / 'demos'
    Actor(root).record('good', ticks=30)
    Actor(root, lambda tick: tick >= 15, seed=1).record('[idle]', ticks=30)
    lost, _, _ = Actor(root, seed=2).record('lost', ticks=30)
    (lost / METADATA).unlink()
    return root


def test_findings_are_listed_and_summed_and_nothing_is_changed(demos, capsys):
    before = contents(demos)
    assert main(['check', str(demos)]) == 1
    lines = [' '.join(line.split()) for line in capsys.readouterr().out.splitlines() if line]
    assert lines[1:] == [
        'lost error damaged its recording was cut off; `vla_bag recover` makes a bag of what was '
        'saved',
        'idle warning idle idle for the first 1.4 s',
        '3 episodes: 1 good, 1 with warnings, 1 with errors (damaged 1, idle 1)',
    ]
    assert contents(demos) == before


def test_the_exit_code_says_whether_it_is_worth_a_look(demos):
    assert main(['check', str(demos / 'good')]) == 0
    assert main(['check', str(demos / 'idle')]) == 0
    assert main(['check', str(demos / 'idle'), '--fail-on', 'warning']) == 1
    assert main(['check', str(demos / 'idle'), '--idle-s', '2', '--fail-on', 'warning']) == 0
    assert main(['check', str(demos / 'lost')]) == 1


def test_what_cannot_be_done_is_exit_code_2_before_anything_is_read(demos, tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    (tmp_path / 'empty').mkdir()
    for arguments in (
        [],
        [str(tmp_path / 'absent')],
        [str(tmp_path / 'empty')],
        [str(demos), '--checkpoint', 'no_such'],
        [str(demos), '--report', str(tmp_path / 'file' / 'report')],
        [str(demos), '--idle-s', '-1'],
    ):
        assert main(['check', *arguments]) == 2, arguments
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 6 and all(line.startswith('vla_bag: ') for line in errors)


def test_report_and_figures_are_written(demos, tmp_path, capsys):
    report, figures = tmp_path / 'report', tmp_path / 'new' / 'found.json'
    assert main(['check', str(demos), '--report', str(report), '--json', str(figures)]) == 1
    assert sorted(os.listdir(report)) == ['index.html', 'quality.json']
    assert json.loads(figures.read_text())['grades'] == {'good': 1, 'warning': 1, 'error': 1}
    assert str(report / 'index.html') in capsys.readouterr().out
