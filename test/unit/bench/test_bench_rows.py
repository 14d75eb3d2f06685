"""Rows have the right form. Nothing here looks at how long anything took."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from small_model import save_random_checkpoint
import torch

from bench import __main__ as command
from bench import registry, results
from bench.results import BenchError, BenchSettings, Row
from bench.timing import seconds, take_turns
from vla_alignment_ros.errors import ConfigError


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """The shipped embodiment with a tiny network of random weights."""
    folder = tmp_path_factory.mktemp('bench') / 'checkpoint'
    return save_random_checkpoint(folder, willing=True)


def row(**changes):
    values = {
        'key': 'P2', 'title': 'a thing', 'unit': 'ms', 'ours': 1.0, 'baseline': 4.0, 'goal': 0.5,
        'ours_is': 'this', 'baseline_is': 'that',
    }  # fmt: skip
    return Row(**values | changes)


NODE_ROWS = ('P1', 'P1T', 'P4', 'P6', 'P15', 'P16', 'P17')
LONG_ROWS = ('P1T', 'P4', 'P15', 'P16', 'P17')  # start nodes again, as P1 and P6 do
ROWS = [
    pytest.param(name, marks=pytest.mark.long if name in LONG_ROWS else ())
    for name in registry.ROWS
    if name != 'P1'
]


@pytest.mark.parametrize('key', ROWS)
def test_a_quick_row_has_every_figure(key, checkpoint, tmp_path):
    if key in NODE_ROWS:
        pytest.importorskip('rclpy')
    if key == 'P13':
        pytest.importorskip('faiss')
    measured = registry.runner(key)(BenchSettings(checkpoint, tmp_path, quick=True))
    data = json.loads(json.dumps(measured.to_dict(), allow_nan=False))
    assert measured.key == key
    assert data['ours'] > 0 and data['baseline'] > 0 and data['figures']
    assert data['ratio'] == pytest.approx(data['ours'] / data['baseline'], rel=1e-3)
    assert data['unit'] and data['ours_is'] and data['baseline_is']


@pytest.mark.skipif(not torch.cuda.is_available(), reason='torch sees no GPU')
@pytest.mark.parametrize('key', ['G1', 'G2', 'P7', 'P7M'])
def test_a_quick_row_on_a_gpu_has_every_figure(key, checkpoint, tmp_path):
    measured = registry.runner(key)(
        BenchSettings(checkpoint, tmp_path, quick=True, device='cuda')
    ).to_dict()
    assert measured['ours'] > 0 and measured['baseline'] > 0 and measured['figures']


@pytest.mark.skipif(torch.cuda.is_available(), reason='torch sees a GPU')
def test_a_gpu_that_is_not_there_is_said(capsys):
    assert command.main(['--device', 'cuda']) == 2
    assert 'torch sees no GPU' in capsys.readouterr().err


def test_rows_on_the_cpu_see_no_gpu(monkeypatch):
    seen = []
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '1')
    monkeypatch.setattr(
        command, '_run', lambda *_: seen.append(os.environ['CUDA_VISIBLE_DEVICES']) or 0
    )
    assert command.main([]) == 0
    assert seen == [''] and os.environ['CUDA_VISIBLE_DEVICES'] == '1'


def test_the_latency_row_is_measured_on_a_policy_node_in_another_process(checkpoint, tmp_path):
    pytest.importorskip('rclpy')
    measured = registry.runner('P1')(BenchSettings(checkpoint, tmp_path, quick=True))
    figures = measured.to_dict()['figures']
    total = figures['image published to command received, p50 ms']
    transport = figures['DDS round trip of the two messages, p50 ms']
    assert measured.ours == pytest.approx(total - transport, rel=1e-3, abs=1e-2)
    assert measured.baseline == pytest.approx(figures['bare forward pass, p50 ms'], rel=1e-3)


def test_lower_or_higher_is_better():
    assert row().met and not row(ours=3.0).met
    assert not row(higher_is_better=True).met and row(ours=3.0, higher_is_better=True).met
    assert row().limit == '≤ 0.5' and row(higher_is_better=True).limit == '≥ 0.5'


def test_a_figure_that_is_not_finite_is_not_written():
    with pytest.raises(BenchError, match='P2: ours is nan'):
        row(ours=float('nan')).to_dict()


def test_results_come_back_and_make_a_page(tmp_path):
    run = {
        'command': 'python -m bench', 'date': 'today', 'threads': 1, 'machine': results.machine()
    }  # fmt: skip
    rows = [row(figures={'p95, ms': 2.0}, note='why'), row(key='P9', higher_is_better=True)]
    file = tmp_path / 'results.json'
    results.write(file, rows, run)
    assert set(json.loads(file.read_text())) == {'P2', 'P9', 'run'}
    assert results.read(file) == (rows, run)
    page = results.page(*results.read(file))
    assert '| P2 | a thing | 1 | 4 | ms | 0.25 | ≤ 0.5 | met |' in page
    assert '**missed**' in page and 'why' in page and '| p95, ms | 2 |' in page
    assert [p.name for p in tmp_path.iterdir()] == ['results.json']
    assert ' on a GPU' not in page
    both = results.page(rows, run, gpu=([row(key='G1')], run))
    assert both.startswith(page[: page.index('## P2')]) and '## G1 on a GPU: a thing' in both


@pytest.mark.parametrize('text', [None, '{}', '[1]', 'no json'])
def test_missing_or_foreign_results_are_refused_with_the_mend(tmp_path, text):
    file = tmp_path / 'results.json'
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match='make bench'):
        results.read(file)


def test_turns_are_taken_in_order_and_the_warm_up_is_left_out():
    calls = []

    def contestant(name):
        def measure():
            calls.append(name)
            return float(len(calls))

        return measure

    samples = take_turns({'a': contestant('a'), 'b': contestant('b')}, rounds=3, warm_up=1)
    assert ''.join(calls) == 'ab' * 4
    assert samples['a'].values == [3.0, 5.0, 7.0] and samples['b'].p50 == 6.0
    assert seconds(lambda: None, 3)() >= 0.0


def test_rows_are_chosen_by_name_in_the_order_of_the_table():
    assert registry.choose('') == list(registry.ROWS)
    assert registry.choose('p9, P2') == ['P2', 'P9']
    with pytest.raises(BenchError, match='no row P77 on cpu; there are P1'):
        registry.choose('P2,P77')
    assert registry.choose('P7,g1', 'cuda') == ['G1', 'P7']
    with pytest.raises(BenchError, match='no row P2 on cuda; there are G1'):
        registry.choose('P2', 'cuda')


def test_a_missing_checkpoint_is_one_line_before_anything_is_measured(tmp_path, capsys):
    assert command.main(['--checkpoint', str(tmp_path / 'none')]) == 2
    output = capsys.readouterr()
    assert output.err.startswith('bench: checkpoint folder not found') and not output.out


def test_a_part_of_the_rows_leaves_the_published_results_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, 'RESULTS', tmp_path / 'results.json')
    assert command.main(['--rows', 'P2', '--quick']) == 0
    assert 'P2' in capsys.readouterr().out and not (tmp_path / 'results.json').exists()
    assert command.main(['--rows', 'P2', '--quick', '--out', str(tmp_path / 'mine.json')]) == 0
    rows, run = results.read(tmp_path / 'mine.json')
    assert [r.key for r in rows] == ['P2'] and run['quick'] and run['machine']['cores'] >= 1


def test_it_runs_as_a_module_from_the_checkout():
    root = command.ROOT
    result = subprocess.run(
        [sys.executable, '-m', 'bench', '--help'], cwd=root, capture_output=True, text=True
    )
    assert result.returncode == 0 and '--rows' in result.stdout
