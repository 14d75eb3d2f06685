"""The comparison of strategies: what is run, that it goes on, and what the page says."""

from __future__ import annotations

import dataclasses

import pytest

from bench import compare
from vla_alignment_ros.alignment.registry import STRATEGIES
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.training.config import TrainConfig

FIGURES = {
    'retrieval': 0.5, 'zero_shot': None, 'pointing_seen': 0.9, 'pointing_unseen': 0.7,
    'auroc_seen': 0.95, 'auroc_unseen': 0.9, 'swap': 0.3, 'parameters': 1_500_000, 'speed': 60.0,
    'seen': {'episodes': 20, 'success_rate': 0.5}, 'unseen': {'episodes': 20, 'success_rate': 0.0},
}  # fmt: skip


def test_every_strategy_has_a_file_and_a_row():
    compared = {run.strategy for run in compare.planned(compare.Options())}
    assert compared >= set(STRATEGIES)
    for name in compared:
        config = TrainConfig.load(compare.CONFIGS / f'{name}.yaml')
        assert set(config.alignment.strategy.split('+')) <= set(STRATEGIES)
        assert name in (config.alignment.strategy, 'tabletop')


def test_align_and_clip_also_train_on_wrong_sentences():
    runs = compare.planned(compare.Options(seeds=2, strategies='vla,clip,align'))
    assert [run.name for run in runs] == [
        'vla_seed0', 'clip_seed0', 'align_seed0', 'clip_noise30_seed0', 'align_noise30_seed0',
        'vla_seed1', 'clip_seed1', 'align_seed1', 'clip_noise30_seed1', 'align_noise30_seed1',
    ]  # fmt: skip
    noisy = compare.stages(runs[3], compare.Options())[0].command
    assert '--data.no-labels' in noisy and noisy[noisy.index('--data.mislabel') + 1] == '0.3'
    assert '--data.mislabel' not in compare.stages(runs[1], compare.Options())[0].command


def test_a_strategy_without_a_file_is_named():
    with pytest.raises(ConfigError, match=r'no config/train/clipp\.yaml; there are align, clip'):
        compare.planned(compare.Options(strategies='clipp'))


def test_seeds_become_mean_and_spread_and_episodes_are_counted_together():
    other = FIGURES | {'retrieval': 0.7, 'seen': {'episodes': 20, 'success_rate': 0.75}}
    row = compare.table({'vla': [FIGURES, other]}).splitlines()[-1]
    cells = [cell.strip() for cell in row.strip('|').split('|')]
    named = dict(zip(['strategy', *compare.COLUMNS], cells))
    assert named['strategy'] == '`vla`' and named['R@1 %'] == '60 ± 14'
    assert named['zero-shot, pairs never trained %'] == '–'
    assert named['AUROC seen'] == '0.950 ± 0.000' and named['parameters, M'] == '1.50'
    assert named['success seen %'] == '62 [47–76]'  # 25 of 40


def a_finished_run(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, 'figures', lambda folder: FIGURES)
    options = compare.Options(results=tmp_path / 'results', strategies='clip', seeds=2)
    run = compare.planned(options)[0]
    compare.keep(run, options)
    return run, options


def test_a_finished_run_is_kept_and_counts_in_the_page(tmp_path, monkeypatch):
    run, options = a_finished_run(tmp_path, monkeypatch)
    assert compare.kept(run, options) == FIGURES
    others = [r for r in compare.planned(options) if r != run]
    assert {compare.kept(other, options) for other in others} == {None}
    page = compare.page(options, compare.planned(options), 'command')
    row = next(line for line in page.splitlines() if line.startswith('| `clip`'))
    assert row.split('|')[2].strip() == '1'


def test_a_run_kept_from_other_settings_is_refused_by_name(tmp_path, monkeypatch):
    run, options = a_finished_run(tmp_path, monkeypatch)
    other = dataclasses.replace(options, steps=options.steps + 1)
    with pytest.raises(ConfigError, match=r'clip_seed0\.json was made with .*\(steps\)'):
        compare.kept(run, other)


@pytest.mark.long
def test_a_small_comparison_runs_goes_on_and_writes_its_page(tmp_path, capsys):
    arguments = [
        '--out', str(tmp_path / 'runs'), '--strategies', 'clip', '--demonstrations', '16',
        '--steps', '4', '--seeds', '1', '--scenes', '6', '--episodes', '1',
        '--page', str(tmp_path / 'page.md'), '--results', str(tmp_path / 'results'),
    ]  # fmt: skip
    assert compare.main(arguments) == 0
    first = (tmp_path / 'page.md').read_text(encoding='utf-8')
    assert first.count('| `clip` |') == 2 and '--strategies clip' in first
    capsys.readouterr()
    assert compare.main(arguments) == 0
    assert '2 of 2 runs are there' in capsys.readouterr().out
    assert (tmp_path / 'page.md').read_text(encoding='utf-8') == first


def test_the_table_can_be_written_without_a_run(tmp_path, monkeypatch):
    run, options = a_finished_run(tmp_path, monkeypatch)
    monkeypatch.setattr(compare, 'run_stages', lambda *_: pytest.fail('a run was begun'))
    arguments = ['--results', str(options.results), '--page', str(tmp_path / 'page.md')]
    assert compare.main([*arguments, '--strategies', 'clip', '--table-only']) == 0
    text = (tmp_path / 'page.md').read_text(encoding='utf-8')
    assert '| `clip` | 1 |' in text and '1 of 6 runs are there' in text  # 3 seeds, noise too
    assert '--table-only' not in text
