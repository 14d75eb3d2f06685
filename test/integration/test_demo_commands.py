"""The command lines, from bag to report, as a person runs them."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

import pytest
from small_model import save_random_checkpoint

pytest.importorskip('rclpy')

from vla_alignment_ros.cli import vla_demo, vla_evaluate
from vla_alignment_ros.cli.console import guarded
from vla_alignment_ros.cli.stages import run_stages, Stage
from vla_alignment_ros.data.bag import EpisodeReader, find_episodes
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.evaluation.processes import READY_S

# what hangs is named by the client, with the node's log, before pytest ends it
pytestmark = pytest.mark.timeout(3 * READY_S)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return save_random_checkpoint(tmp_path_factory.mktemp('checkpoint') / 'random', False)


def test_demo_records_acts_and_reports(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(vla_demo, 'PROGRAMME', {'seen': 1, 'absent': 1})
    out = tmp_path / 'demo'
    arguments = ['--checkpoint', str(checkpoint), '--out', str(out), '--device', 'cpu']
    assert vla_demo.main(arguments) == 0
    printed = capsys.readouterr().out
    # it refuses everything: wrong where the object is there, right where it is not
    assert printed.splitlines()[-1] == 'demo: success 1/2'
    assert str(out / 'report' / 'index.html') in printed
    bags = find_episodes(out / 'bags')
    assert len(bags) == 3
    for bag in bags:
        info = EpisodeReader(bag).info
        assert info.success and bag.name in printed
    figures = json.loads((out / 'results.json').read_text())
    assert figures['splits']['absent']['refused_rate'] == 1.0
    assert '<article' in (out / 'report' / 'index.html').read_text()


def test_evaluate_without_ros_writes_figures_and_report(checkpoint, tmp_path, capsys):
    arguments = [
        '--checkpoint', str(checkpoint), '--splits', 'seen,absent', '--episodes', '2',
        '--seed', '3', '--json', str(tmp_path / 'a' / 'r.json'),
        '--report', str(tmp_path / 'b'), '--in-process', '--device', 'cpu',
        '--execution', 'realtime', '--delay-steps', '2',
    ]  # fmt: skip
    assert vla_evaluate.main(arguments) == 0
    figures = json.loads((tmp_path / 'a' / 'r.json').read_text())
    assert figures['seed'] == 3 and list(figures['splits']) == ['seen', 'absent']
    assert figures['splits']['seen']['success_rate'] == 0.0
    assert figures['splits']['absent']['success_rate'] == 1.0
    assert figures['splits']['absent']['mean_jerk'] == 0.0  # it held
    assert 'refused' in capsys.readouterr().out
    assert json.loads((tmp_path / 'b' / 'results.json').read_text()) == figures


def test_an_interrupted_evaluation_keeps_what_it_has(checkpoint, tmp_path, monkeypatch, capsys):
    def two_then_ctrl_c(runner, plan):
        yield from run_plan(runner, plan[:2])
        raise KeyboardInterrupt

    run_plan = vla_evaluate.run_plan
    monkeypatch.setattr(vla_evaluate, 'run_plan', two_then_ctrl_c)
    figures = tmp_path / 'r.json'
    arguments = ['--checkpoint', str(checkpoint), '--episodes', '9', '--json', str(figures),
                 '--in-process', '--device', 'cpu']  # fmt: skip
    assert vla_evaluate.main(arguments) == 130
    assert json.loads(figures.read_text())['splits']['seen']['episodes'] == 2
    assert 'interrupted' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['--checkpoint', '/nowhere'], 'checkpoint folder not found: /nowhere'),
        (['--checkpoint', '/nowhere', '--splits', 'sen'], "unknown split 'sen'"),
        (['--checkpoint', '/nowhere', '--episodes', '0'], 'episodes must be at least 1'),
        (['--checkpoint', '/nowhere', '--max-steps', '0'], 'max_steps must be at least 1'),
        (['--checkpoint', '/nowhere', '--report', '/dev/null/x'], 'cannot write to /dev/null/x'),
        (['--checkpoint', '/nowhere', '--delay-steps', '2'], 'belongs to --in-process'),
    ],
)
def test_mistakes_are_one_clear_line(arguments, said, capsys):
    assert vla_evaluate.main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith('vla_evaluate: ') and said in error and '\n' not in error


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_both_signals_end_a_command_in_order(number, capsys, monkeypatch):
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts what ends in &
    try:
        assert guarded('it', lambda: signal.raise_signal(number)) == 130
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)
    assert capsys.readouterr().err == 'it: interrupted\n'


def test_demo_without_a_checkpoint_says_so(tmp_path, capsys):
    assert vla_demo.main(['--checkpoint', str(tmp_path / 'none')]) == 2
    assert '--checkpoint' in capsys.readouterr().err


def stage(name, tmp_path, code=0, **settings):
    line = f'open({str(tmp_path / "log")!r}, "a").write({name!r}); raise SystemExit({code})'
    return Stage(name, (sys.executable, '-c', line), settings)


def test_stages_go_on_where_they_were_stopped(tmp_path):
    console = vla_demo.Console(quiet=True)
    record = stage('a', tmp_path, episodes=3)
    assert run_stages(tmp_path, (record, stage('b', tmp_path, code=7)), console) == 7
    assert run_stages(tmp_path, (record, stage('b', tmp_path)), console) == 0
    assert run_stages(tmp_path, (record, stage('b', tmp_path)), console) == 0
    assert (tmp_path / 'log').read_text() == 'abb'


def test_an_interrupted_stage_is_asked_to_end_and_may_save(tmp_path):
    ready, saved = tmp_path / 'ready', tmp_path / 'saved'
    line = (
        'import pathlib, time\n'
        'try:\n'
        f'    pathlib.Path({str(ready)!r}).touch(); time.sleep(60)\n'
        'except KeyboardInterrupt:\n'
        f'    time.sleep(0.6); pathlib.Path({str(saved)!r}).touch()\n'
    )

    def interrupt():
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    console = vla_demo.Console(quiet=True)
    with pytest.raises(KeyboardInterrupt):
        run_stages(tmp_path, (Stage('a', (sys.executable, '-c', line), {}),), console)
    assert saved.exists()


def test_stages_refuse_to_mix_settings(tmp_path):
    console = vla_demo.Console(quiet=True)
    run_stages(tmp_path, (stage('a', tmp_path, episodes=3), stage('b', tmp_path)), console)
    with pytest.raises(ConfigError, match=r'a\.episodes'):
        run_stages(tmp_path, (stage('a', tmp_path, episodes=4), stage('b', tmp_path)), console)
    assert (tmp_path / 'log').read_text() == 'ab'


def test_demonstration_scenes_show_every_task():
    scenes = vla_demo.demonstration_scenes()
    tasks = {vla_demo.sample_episode(seed, split).task for split, seed in scenes}
    assert tasks == {'pick', 'place', 'push'}
