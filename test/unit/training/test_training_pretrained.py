"""Training with pretrained towers: it learns, resumes exactly, and its checkpoint needs no hub."""

import dataclasses
import importlib.util
import json
from pathlib import Path
import shutil
import signal

import numpy as np
from pretrained_models import save_tiny
import pytest
from safetensors.torch import load_file
import torch
from training_demos import SENTENCES

from vla_alignment_ros.encoders import pretrained
from vla_alignment_ros.errors import CheckpointError, ConfigError
from vla_alignment_ros.observation import Observation
from vla_alignment_ros.policy.policy import Policy
from vla_alignment_ros.training import trainer as trainer_module
from vla_alignment_ros.training.config import (
    ArchitectureConfig,
    DataConfig,
    OptimizerConfig,
    TrainConfig,
)
from vla_alignment_ros.training.trainer import Trainer

needs_peft = pytest.mark.skipif(
    importlib.util.find_spec('peft') is None, reason='peft is not installed'
)


def config(vision, language, mode, steps=4):
    return TrainConfig(
        data=DataConfig(val_fraction=0.3, horizon=4),
        model=ArchitectureConfig(
            width=32, heads=2, decoder_layers=1, language_layers=1,
            vision=vision, vision_mode=mode, language=language, language_mode=mode,
        ),
        optimizer=OptimizerConfig(steps=steps, batch=8, warmup_steps=1),
        save_every=2,
        log_every=1,
        threads=1,
    )  # fmt: skip


def weights(folder):
    return load_file(str(folder / 'model.safetensors'))


def decide(policy):
    rng = np.random.default_rng(0)
    images = {
        camera.name: rng.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
        for camera in policy.embodiment.cameras
    }
    state = rng.normal(size=policy.checkpoint.model.config.state_dim).astype(np.float32)
    observation = Observation(0, images, state, SENTENCES[1])
    return policy.step(observation, candidates=3, seed=0, grounding=True)


@pytest.mark.parametrize(
    'vision, language, mode',
    [
        ('clip', 'bert', 'frozen'),
        ('siglip2', 'roberta', 'tuned'),
        pytest.param('dinov2', 'siglip', 'lora', marks=needs_peft),
        (None, 'clip', 'tuned'),
    ],
)
def test_a_checkpoint_decides_alike_where_the_models_are_gone(
    demos, tmp_path, monkeypatch, vision, language, mode
):
    eye = save_tiny(vision, tmp_path / 'vision') if vision else 'resnet_micro'
    trainer = Trainer(
        config(eye, save_tiny(language, tmp_path / 'language'), mode, steps=2),
        [demos],
        tmp_path / 'run',
    )
    names = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    folder = trainer.run()
    moved = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, names[n])}
    inside = {n for n in moved if '.backbone.model.' in n}
    assert moved - inside
    assert bool(inside) == (mode != 'frozen')
    assert all('.lora_' in name for name in inside) or mode == 'tuned'
    for name in ('vision', 'language'):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    monkeypatch.setattr(pretrained, 'snapshot_download', None)
    policy = Policy.load(folder, 'cpu')
    loaded = decide(policy)
    policy.checkpoint.model.load_state_dict(trainer.averaged_model().state_dict())
    own = decide(policy)
    assert np.array_equal(loaded.chunk.actions, own.chunk.actions)
    assert loaded.vl_score == own.vl_score
    assert np.isfinite(loaded.chunk.actions).all()
    assert [key.split(':')[1] for key in loaded.grounding] == SENTENCES[1].split()


@pytest.mark.parametrize(
    'mode', ['frozen', 'tuned', pytest.param('lora', marks=needs_peft)]
)
def test_stopped_and_resumed_equals_uninterrupted(demos, tmp_path, mode):
    names = save_tiny('dinov2', tmp_path / 'vision'), save_tiny('mpnet', tmp_path / 'language')
    settings = config(*names, mode)
    whole = weights(Trainer(settings, [demos], tmp_path / 'whole').run())
    part = Trainer(settings, [demos], tmp_path / 'part')

    def stop(progress):
        if progress['step'] == 3:
            signal.raise_signal(signal.SIGINT)

    assert part.run(on_progress=stop) is None
    resumed = weights(Trainer(settings, [demos], tmp_path / 'part').run(resume=True))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    saved = load_file(str(tmp_path / 'part' / 'state.safetensors'))
    twice = [n for n in saved if n.startswith('average.') and '.backbone.model.' in n]
    assert bool(twice) == (mode != 'frozen'), 'frozen weights are stored once'


def test_a_model_that_is_missing_starts_nothing(demos, tmp_path, monkeypatch):
    def refuse(*_args, **_keywords):
        raise AssertionError('the episodes were read')

    monkeypatch.setattr(trainer_module, 'load_dataset', refuse)
    for vision, language in (('hf:no/model', 'words'), ('resnet_micro', 'hf:no/model')):
        with pytest.raises(ConfigError, match='hf download no/model'):
            Trainer(config(vision, language, 'frozen'), [demos], tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_unknown_towers_are_refused_by_name(demos, tmp_path):
    with pytest.raises(ConfigError, match='resnet_micro.*hf:NAME'):
        Trainer(config('vit', 'words', 'frozen'), [demos], tmp_path / 'run')
    with pytest.raises(ConfigError, match="'words', or hf:NAME"):
        Trainer(config('resnet_micro', 'bert', 'frozen'), [demos], tmp_path / 'run')


def test_tuned_weights_learn_slowly_and_frozen_ones_are_not_given_to_the_optimiser(
    demos, tmp_path
):
    eye = save_tiny('clip', tmp_path / 'vision')
    settings = config(eye, 'words', 'tuned')
    settings = dataclasses.replace(
        settings, optimizer=dataclasses.replace(settings.optimizer, tuned_share=0.25)
    )
    trainer = Trainer(settings, [demos], tmp_path / 'run')
    trainer.train_step(trainer.stream.at(0), 0)
    tuned = {id(p) for p in trainer.model.vision.backbone.parameters()}
    rates = {
        id(p): group['lr'] for group in trainer.optimizer.param_groups for p in group['params']
    }
    peak = settings.optimizer.learning_rate
    assert {rates[i] for i in tuned} == {0.25 * peak}
    assert {rate for i, rate in rates.items() if i not in tuned} == {peak}
    frozen = Trainer(config(eye, 'words', 'frozen'), [demos], tmp_path / 'frozen')
    given = {id(p) for group in frozen.optimizer.param_groups for p in group['params']}
    assert not given & {id(p) for p in frozen.model.vision.backbone.parameters()}


def test_a_checkpoint_cannot_name_another_kind_of_model(demos, tmp_path):
    names = save_tiny('clip', tmp_path / 'vision'), save_tiny('bert', tmp_path / 'language')
    folder = Trainer(config(*names, 'frozen', steps=1), [demos], tmp_path / 'run').run()
    path = Path(folder) / 'config.json'
    whole = json.loads(path.read_text())
    assert str(tmp_path) not in json.dumps(whole['model']['pretrained'])

    def spoiled(kind, **changes):
        data = json.loads(json.dumps(whole))
        data['model']['pretrained'][kind].update(changes)
        path.write_text(json.dumps(data))
        return folder

    with pytest.raises(CheckpointError, match="'gpt2' is no vision tower"):
        Policy.load(spoiled('vision', model_type='gpt2'), 'cpu')
    with pytest.raises(CheckpointError, match='not of the same kind'):
        Policy.load(spoiled('language', shift=0), 'cpu')
    wide = {**whole['model']['pretrained']['vision']['config'], 'hidden_size': 64}
    with pytest.raises(CheckpointError, match='does not fit its config'):
        Policy.load(spoiled('vision', config=wide), 'cpu')
