"""Training on tiny recordings: it learns, resumes exactly, saves when stopped, and refuses."""

import dataclasses
import json
import os
from pathlib import Path
import signal
import subprocess
import sys

from lerobot_folders import foreign_embodiment, KEYS, write_foreign
import numpy as np
import pytest
from safetensors.torch import load_file
import torch
from training_demos import SENTENCES
import yaml

from vla_alignment_ros.alignment.registry import STRATEGIES
from vla_alignment_ros.cli import vla_train
from vla_alignment_ros.errors import CheckpointError, ConfigError, DatasetError
from vla_alignment_ros.policy.policy import Policy
from vla_alignment_ros.training.config import (
    AlignmentConfig,
    ArchitectureConfig,
    DataConfig,
    HardNegativesConfig,
    OptimizerConfig,
    TrainConfig,
)
from vla_alignment_ros.training.optimization import learning_rate, parameter_groups
from vla_alignment_ros.training.trainer import Trainer
from vla_alignment_ros.training.validation import (
    calibrate,
    EVEN_ODDS,
    FALSE_HOLD,
    GO_MISSED,
)


def config(steps=6, **changes):
    base = TrainConfig(
        data=DataConfig(val_fraction=0.3, horizon=4),
        model=ArchitectureConfig(width=32, heads=2, language_layers=1, decoder_layers=1),
        optimizer=OptimizerConfig(steps=steps, batch=8, warmup_steps=2),
        save_every=3,
        log_every=2,
        threads=1,
    )
    return dataclasses.replace(base, **changes)


def weights(folder):
    return load_file(str(folder / 'model.safetensors'))


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_a_run_makes_a_checkpoint_that_acts(demos, tmp_path):
    trainer = Trainer(config(), [demos], tmp_path / 'run')
    folder = trainer.run()
    saved = json.loads((folder / 'config.json').read_text())
    assert saved['training']['steps'] == 6
    assert saved['embodiment']['name'] == 'tiny'
    assert set(saved['metrics']) >= {'action_l1', 'vl_auroc', 'swap_sensitivity'}
    policy = Policy.load(folder, 'cpu')
    assert np.isfinite(policy.warm_up(1))
    assert list((tmp_path / 'run' / 'tensorboard').iterdir())


@pytest.mark.parametrize('strategy', [*sorted(STRATEGIES), 'clip+grounded'])
def test_every_strategy_trains_resumes_exactly_and_acts(demos, tmp_path, strategy):
    """Momentum copies and queues are in the training state and not in the checkpoint."""
    alignment = AlignmentConfig(strategy=strategy)
    whole = Trainer(config(alignment=alignment), [demos], tmp_path / 'whole').run()
    part = Trainer(config(alignment=alignment), [demos], tmp_path / 'part')
    part.run(on_progress=lambda now: now['step'] == 4 and signal.raise_signal(signal.SIGINT))
    resumed = Trainer(config(alignment=alignment), [demos], tmp_path / 'part')
    folder = resumed.run(resume=True)
    assert equal(weights(whole), weights(folder))
    assert not any(resumed.model.serves_training(name) for name in weights(folder))
    assert not any(resumed.model.serves_training(name) for name in resumed.average.tensors)
    policy = Policy.load(folder, 'cpu')
    assert np.isfinite(policy.warm_up(1))
    assert policy.checkpoint.model.config.alignment == strategy


HARD = HardNegativesConfig(weight=0.5, start_step=2, negatives=2, margin=1.0, bank=12)


def in_parts(strategy, batch=8, parts=4):
    alignment = AlignmentConfig(strategy=strategy, hard_negatives=HARD)
    optimizer = dataclasses.replace(config().optimizer, batch=batch, parts=parts)
    return config(alignment=alignment, optimizer=optimizer)


@pytest.mark.parametrize('strategy', ['align', 'vla+grounded'])
def test_a_run_in_parts_with_hard_negatives_resumes_exactly(demos, tmp_path, strategy):
    whole = Trainer(in_parts(strategy), [demos], tmp_path / 'whole')
    hinge = []
    folder = whole.run(on_progress=lambda now: hinge.append(now['loss/align_mining_hinge']))
    assert hinge[0] == 0 and hinge[-1] > 0  # of steps 2, 4 and 6; the first two warm up
    part = Trainer(in_parts(strategy), [demos], tmp_path / 'part')
    part.run(on_progress=lambda now: now['step'] == 4 and signal.raise_signal(signal.SIGINT))
    resumed = Trainer(in_parts(strategy), [demos], tmp_path / 'part')
    assert equal(weights(folder), weights(resumed.run(resume=True)))
    assert equal(whole.model.state_dict(), resumed.model.state_dict())
    assert any('mining.bank' in name for name in resumed.model.state_dict())
    assert not any('mining' in name for name in weights(folder))
    assert np.isfinite(Policy.load(folder, 'cpu').warm_up(1))


def test_parts_that_do_not_divide_the_batch_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ConfigError, match=r'optimizer.batch 8 .* optimizer.parts 3 .*divide'):
        Trainer(in_parts('clip', parts=3), [tmp_path / 'nothing'], tmp_path / 'run')


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_processes_train_stop_together_and_resume_to_equal_weights(demos, tmp_path):
    settings = json.dumps(in_parts('clip+align', batch=4, parts=2).to_dict())
    worker = Path(__file__).with_name('joint_trainer_worker.py')
    result = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
         worker, settings, demos, tmp_path],
        env={**os.environ, 'PYTHONPATH': str(Path(vla_train.__file__).parents[2]),
             'GLOO_SOCKET_IFNAME': 'lo'},
        capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    states = [load_file(tmp_path / f'{run}.{rank}.safetensors')
              for run in ('whole', 'part') for rank in range(2)]  # fmt: skip
    assert all(equal(states[0], state) for state in states[1:])
    assert any('running_mean' in name for name in states[0])
    trained = weights(tmp_path / 'whole' / 'checkpoint')
    assert equal(trained, weights(tmp_path / 'part' / 'checkpoint'))


def test_a_run_in_half_precision_keeps_whole_weights_and_resumes_exactly(demos, tmp_path):
    settings = config(precision='bfloat16')
    whole = Trainer(settings, [demos], tmp_path / 'whole')
    end = weights(whole.run())
    assert {p.dtype for p in whole.model.parameters()} == {torch.float32}
    part = Trainer(settings, [demos], tmp_path / 'part')
    part.run(on_progress=lambda now: now['step'] == 4 and signal.raise_signal(signal.SIGINT))
    resumed = Trainer(settings, [demos], tmp_path / 'part').run(resume=True)
    assert equal(weights(resumed), end)
    full = Trainer(config(precision='float32'), [demos], tmp_path / 'full')
    assert not equal(weights(full.run()), end)


def test_same_seed_same_weights_and_another_seed_others(demos, tmp_path):
    runs = [
        weights(Trainer(config(seed=seed), [demos], tmp_path / name).run())
        for name, seed in (('a', 0), ('b', 0), ('c', 1))
    ]
    assert equal(runs[0], runs[1])
    assert not equal(runs[0], runs[2])


def test_stopped_and_resumed_equals_uninterrupted(demos, tmp_path):
    whole = weights(Trainer(config(), [demos], tmp_path / 'whole').run())
    part = Trainer(config(), [demos], tmp_path / 'part')

    def stop(progress):
        if progress['step'] == 4:
            signal.raise_signal(signal.SIGINT)

    assert part.run(on_progress=stop) is None
    assert not (tmp_path / 'part' / 'checkpoint').exists()
    resumed = Trainer(config(), [demos], tmp_path / 'part')
    folder = resumed.run(resume=True)
    assert equal(whole, weights(folder))


def test_a_killed_run_resumes_to_the_same_weights(demos, tmp_path):
    """SIGKILL after the first saved state: nothing runs at exit, the state on disk counts."""
    whole = weights(Trainer(config(), [demos], tmp_path / 'whole').run())
    script = """
import os, signal, sys
from pathlib import Path
import torch
from vla_alignment_ros.training.config import TrainConfig
from vla_alignment_ros.training.trainer import Trainer
import json
torch.set_num_threads(1)
def kill(progress):
    if progress['step'] == 4:
        os.kill(os.getpid(), signal.SIGKILL)
config = TrainConfig.from_dict(json.loads(sys.argv[1]))
Trainer(config, [Path(sys.argv[2])], Path(sys.argv[3])).run(on_progress=kill)
"""
    arguments = [json.dumps(config().to_dict()), str(demos), str(tmp_path / 'killed')]
    result = subprocess.run(
        [sys.executable, '-c', script, *arguments],
        env={**os.environ, 'PYTHONPATH': str(Path(vla_train.__file__).parents[2])},
        capture_output=True,
        timeout=300,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()
    assert (tmp_path / 'killed' / 'state.safetensors').is_file()
    folder = Trainer(config(), [demos], tmp_path / 'killed').run(resume=True)
    assert equal(whole, weights(folder))


def test_resume_with_other_settings_is_refused_by_name(demos, tmp_path):
    Trainer(config(), [demos], tmp_path / 'run').run()
    other = config(optimizer=dataclasses.replace(config().optimizer, learning_rate=0.5))
    with pytest.raises(CheckpointError, match='optimizer'):
        Trainer(other, [demos], tmp_path / 'run').run(resume=True)


def test_resume_with_another_number_of_processes_is_refused(demos, tmp_path, monkeypatch):
    trainer = Trainer(config(steps=2), [demos], tmp_path / 'run')
    with monkeypatch.context() as patch:  # the state says so, the run is one process
        patch.setattr(trainer.accelerator.state, 'num_processes', 2)
        trainer.save_state()
    with pytest.raises(CheckpointError, match='by 2 processes.* as many, not 1'):
        Trainer(config(steps=2), [demos], tmp_path / 'run').run(resume=True)


def test_a_damaged_state_is_refused(demos, tmp_path):
    Trainer(config(), [demos], tmp_path / 'run').run()
    (tmp_path / 'run' / 'state.safetensors').write_bytes(b'no tensors')
    with pytest.raises(CheckpointError, match='cannot resume'):
        Trainer(config(), [demos], tmp_path / 'run').run(resume=True)
    arguments = ['--data', str(demos), '--out', str(tmp_path / 'run'), '--resume']
    assert vla_train.main(arguments) == 2


def test_more_samples_than_there_are_is_refused(demos, tmp_path):
    large = config(optimizer=OptimizerConfig(steps=2, batch=1000))
    with pytest.raises(DatasetError, match='optimizer.batch'):
        Trainer(large, [demos], tmp_path / 'run')


def test_without_alignment_losses_the_rest_still_trains(demos, tmp_path):
    plain = config(alignment=dataclasses.replace(config().alignment, weight=0.0))
    trainer = Trainer(plain, [demos], tmp_path / 'run')
    log = trainer.train_step(trainer.stream.at(0), 0)
    assert not [name for name in log if 'align' in name or 'triplet' in name]
    assert trainer.run() is not None


def test_command_line_trains_resumes_and_refuses(demos, tmp_path, capsys):
    arguments = [
        '--data', str(demos), '--out', str(tmp_path / 'run'), '--optimizer.steps', '2',
        '--optimizer.batch', '8', '--data.val-fraction', '0.3', '--model.width', '32',
        '--model.heads', '2', '--threads', '1', '--optimizer.parts', '2',
        '--alignment.hard-negatives.weight', '0.1',
    ]  # fmt: skip
    with pytest.raises(SystemExit):
        vla_train.main(['--help'])
    text = capsys.readouterr().out
    assert '--optimizer.steps' in text and '--alignment.hard-negatives.start-step' in text
    assert vla_train.main(arguments) == 0
    assert 'checkpoint: ' in capsys.readouterr().out
    assert vla_train.main(arguments) == 2
    assert '--resume' in capsys.readouterr().err
    assert vla_train.main([*arguments, '--resume']) == 0
    assert vla_train.main(['--data', str(tmp_path / 'nothing'), '--out', str(tmp_path / 'x')]) == 2
    assert 'vla_train: no folder' in capsys.readouterr().err


def test_command_line_trains_from_a_lerobot_folder_of_others(tmp_path, capsys):
    write_foreign(tmp_path / 'set', lengths=(12, 11, 12, 13))
    robot, keys = tmp_path / 'robot.yaml', tmp_path / 'keys.yaml'
    robot.write_text(yaml.safe_dump(foreign_embodiment().to_dict()))
    keys.write_text(yaml.safe_dump(KEYS))
    arguments = [
        '--data', f'lerobot:{tmp_path}/set', '--out', str(tmp_path / 'run'),
        '--embodiment', str(robot), '--threads', '1', '--optimizer.steps', '2',
        '--optimizer.batch', '8', '--data.val-fraction', '0.4', '--model.width', '32',
        '--model.heads', '2', '--model.decoder-layers', '1', '--model.language-layers', '1',
    ]  # fmt: skip
    assert vla_train.main(arguments) == 2
    assert '--lerobot-keys' in capsys.readouterr().err
    assert vla_train.main([*arguments, '--lerobot-keys', str(keys)]) == 0
    saved = json.loads((tmp_path / 'run/checkpoint/config.json').read_text())
    assert saved['embodiment']['name'] == 'degrees'


# -- pure parts ---------------------------------------------------------------------------------


def test_learning_rate_warms_up_and_decays():
    rates = [learning_rate(step, 100, 10, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.1)


def test_only_matrices_decay(demos, tmp_path):
    trainer = Trainer(config(), [demos], tmp_path / 'run')
    groups = parameter_groups(trainer.model, 0.1)
    plain = {id(p) for p in groups[1]['params']}
    names = {n for n, p in trainer.model.named_parameters() if id(p) in plain}
    assert names >= {
        'fusion.log_sharpness',
        'action.time',
        'vision.camera',
        'head.position',
        'alignment.parts.vla.scales.vl.log_scale',
        'vision.norm.weight',
        'keyframe.0.bias',
        'language.bert.embeddings.word_embeddings.weight',
    }
    assert not names & {'vision.position.weight', 'keyframe.0.weight', 'fusion.key.weight'}
    assert [g['weight_decay'] for g in groups] == [0.1, 0.0]


def test_resume_after_the_episodes_changed_is_refused(demos, tmp_path, variant):
    Trainer(config(), [demos], tmp_path / 'run').run()
    variant(demos, seed=9).record('episode_9', ticks=8, instruction=SENTENCES[0])
    with pytest.raises(CheckpointError, match='episodes have changed'):
        Trainer(config(), [demos], tmp_path / 'run').run(resume=True)


def test_training_without_validation_episodes_is_refused(demos, tmp_path):
    alone = config(data=DataConfig(val_fraction=0.0, horizon=4))
    with pytest.raises(ConfigError, match='val_fraction above 0'):
        Trainer(alone, [demos], tmp_path / 'run')


def test_one_sentence_alone_leaves_the_gate_open_and_says_so(tmp_path, variant, capsys):
    root = tmp_path / 'demos'
    for i in range(4):
        variant(root, seed=i).record(f'episode_{i}', ticks=8, instruction=SENTENCES[0])
    folder = Trainer(config(), [root], tmp_path / 'run').run()
    assert not Policy.load(folder, 'cpu').calibration.fitted
    assert 'gate could not be calibrated' in capsys.readouterr().out
    metrics = json.loads((folder / 'config.json').read_text())['metrics']
    assert 'vl_auroc' not in metrics and all(np.isfinite(v) for v in metrics.values())


def test_a_score_that_tells_nothing_makes_no_gate():
    rng = np.random.default_rng(0)
    low, high = rng.normal(0, 1, 100), rng.normal(1, 1, 100)
    assert not calibrate(low, high, low).fitted
    assert calibrate(high, low, high).fitted


def test_a_resumed_run_keeps_its_number_of_threads(demos, tmp_path, monkeypatch):
    arguments = ['--data', str(demos), '--out', str(tmp_path / 'run'), '--optimizer.batch', '8',
                 '--data.val-fraction', '0.3', '--optimizer.steps', '2']  # fmt: skip
    assert vla_train.main(arguments) == 0
    used = torch.get_num_threads()
    torch.set_num_threads(used + 1)

    def measure(_trainer):
        raise AssertionError('measured again')

    monkeypatch.setattr(vla_train, 'measure_threads', measure)
    assert vla_train.main([*arguments, '--resume']) == 0
    assert torch.get_num_threads() == used


def test_no_more_is_asked_than_that_a_sentence_fits_more_likely_than_not():
    rng = np.random.default_rng(0)
    matched, mismatched = rng.normal(0.9, 0.1, 4000), rng.normal(0.1, 0.1, 4000)
    late = rng.normal(0.5, 0.1, 4000)  # moments at which the score is lower, and still right
    c = calibrate(matched, mismatched, np.r_[matched, late])
    assert c.go == EVEN_ODDS and 0 < c.hold < c.go


def test_calibration_separates_and_orders_the_thresholds():
    rng = np.random.default_rng(0)
    matched, mismatched = rng.normal(0.6, 0.15, 4000), rng.normal(0.1, 0.15, 4000)
    everywhere = np.r_[matched, rng.normal(0.5, 0.1, 4000)]
    c = calibrate(matched, mismatched, everywhere)

    def probability(score):
        return 1 / (1 + np.exp(-(c.slope * score + c.offset)))

    assert probability(0.6) > 0.9 > 0.1 > probability(0.1)
    assert c.hold <= c.go
    assert np.mean(probability(matched) < c.go) == pytest.approx(GO_MISSED, abs=0.003)
    assert np.mean(probability(everywhere) < c.hold) <= FALSE_HOLD + 1e-3


def test_config_refuses_unknown_keys_and_wrong_types(tmp_path):
    with pytest.raises(ConfigError, match='stepz.*allowed: steps'):
        TrainConfig.from_dict({'optimizer': {'stepz': 3}})
    with pytest.raises(ConfigError, match='steps must be int'):
        TrainConfig.from_dict({'optimizer': {'steps': 'many'}})
    path = tmp_path / 'c.yaml'
    path.write_text('optimizer: {learning_rate: 1, steps: 5}\n')
    assert TrainConfig.load(path).optimizer.learning_rate == 1.0
    path.write_text('alignment: {hard_negatives: {weight: 1, bank: 64}}\noptimizer: {parts: 2}\n')
    loaded = TrainConfig.load(path)
    assert loaded.alignment.hard_negatives == HardNegativesConfig(weight=1.0, bank=64)
    assert loaded.optimizer.parts == 2
    assert TrainConfig.from_dict(json.loads(json.dumps(loaded.to_dict()))) == loaded
    with pytest.raises(ConfigError, match='banks in alignment.hard_negatives; allowed: weight'):
        TrainConfig.from_dict({'alignment': {'hard_negatives': {'banks': 3}}})
    with pytest.raises(ConfigError, match='alignment.hard_negatives.bank must be int'):
        TrainConfig.from_dict({'alignment': {'hard_negatives': {'bank': 0.5}}})
    path.write_text('optimizer: [')
    with pytest.raises(ConfigError, match='not valid YAML'):
        TrainConfig.load(path)


def test_shipped_training_configs_load():
    folder = Path(vla_train.__file__).parents[2] / 'config' / 'train'
    files = sorted(folder.glob('*.yaml'))
    assert files
    for path in files:
        TrainConfig.load(path)
