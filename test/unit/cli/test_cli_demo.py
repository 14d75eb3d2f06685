"""vla_demo: what it prints last and what it returns, without starting anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from vla_alignment_ros.cli import vla_demo
from vla_alignment_ros.embodiment import package_path

SHIPPED = package_path('checkpoints', 'tabletop')


@dataclass(frozen=True)
class Episode:
    success: bool


@dataclass(frozen=True)
class Outcome:
    episodes: tuple[Episode, ...]


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """Runs vla_demo with an evaluation in which so many of 20 episodes succeed."""

    def run(won: int, *arguments: str) -> int:
        outcome = Outcome(tuple(Episode(i < won) for i in range(20)))
        monkeypatch.setattr(vla_demo, 'show_demonstrations', lambda folder, console: None)
        monkeypatch.setattr(
            vla_demo, 'evaluate', lambda *_: (outcome, tmp_path / 'report' / 'index.html')
        )
        monkeypatch.setattr(vla_demo, 'results_table', lambda evaluation: '')
        return vla_demo.main(['--out', str(tmp_path), *arguments])

    return run


@pytest.mark.parametrize(('won', 'code'), [(0, 1), (9, 1), (10, 0), (20, 0)])
@pytest.mark.parametrize('named', [False, True])
def test_the_shipped_checkpoint_must_succeed_half_the_time(demo, capsys, won, code, named):
    # the shipped checkpoint is the same by its own name, however the path is spelled
    given = ['--checkpoint', str(SHIPPED.parent / '.' / '..' / 'checkpoints' / 'tabletop')]
    assert demo(won, *(given if named else [])) == code
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == f'demo: success {won}/20'
    assert ('fewer than half' in printed.err) == bool(code)


def test_any_other_checkpoint_is_measured_and_not_judged(demo, capsys, tmp_path: Path):
    (tmp_path / 'mine').mkdir()
    assert demo(0, '--checkpoint', str(tmp_path / 'mine')) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == 'demo: success 0/20'
    assert printed.err == ''
