"""`vla_bag merge`: what it says and where the episodes are then."""

from acted_recordings import Actor
import pytest

from vla_alignment_ros.cli.vla_bag import main


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv('COLUMNS', '200')


def said(capsys):
    return [' '.join(line.split()) for line in capsys.readouterr().out.splitlines() if line]


def test_merge_brings_folders_together(tmp_path, capsys):
    demos = tmp_path / 'demos'
    Actor(demos).record('idle', ticks=20)
    Actor(demos, seed=1).record('busy', ticks=20)
    Actor(tmp_path / 'more', seed=5).record('idle', ticks=20)
    arguments = [str(demos), str(tmp_path / 'more'), '--out', str(tmp_path / 'all')]
    assert main(['merge', *arguments, '--dry-run']) == 0
    assert not (tmp_path / 'all').exists()
    capsys.readouterr()
    assert main(['merge', *arguments]) == 0
    assert said(capsys) == [
        f'{tmp_path}/more/idle becomes more_idle',
        f'3 episodes merged (3 linked, 0 copied) into {tmp_path}/all, 0 left out',
    ]
    assert main(['merge', str(demos / 'idle'), '--out', str(tmp_path / 'all'), '--copy']) == 0
    assert said(capsys)[0].startswith('left out: ')
