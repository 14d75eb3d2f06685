"""What the tests of training train on."""

from pathlib import Path

import pytest
from recordings import make_embodiment, Recorder
import torch

from vla_alignment_ros.training.config import (
    AlignmentConfig,
    ArchitectureConfig,
    DataConfig,
    OptimizerConfig,
    TrainConfig,
)

SENTENCES = ('pick up the red cube', 'pick up the blue ball', 'push the red cube left')


def smallest(steps=2, strategy='vla+grounded', horizon=4, width=32, seed=0):
    """Settings of a training that takes a moment."""
    return TrainConfig(
        seed=seed,
        data=DataConfig(val_fraction=0.3, horizon=horizon),
        model=ArchitectureConfig(width=width, heads=2, language_layers=1, decoder_layers=1),
        alignment=AlignmentConfig(strategy=strategy),
        optimizer=OptimizerConfig(steps=steps, batch=8, warmup_steps=2),
        threads=1,
    )


def record(root, sentences=SENTENCES * 2, embodiment=None):
    """One small episode for each sentence."""
    for i, text in enumerate(sentences):
        recorder = Recorder(root, embodiment or make_embodiment(), seed=i)
        recorder.record(f'episode_{i}', ticks=8, instruction=text, extra={'group': text})
    return Path(root)


@pytest.fixture(scope='session')
def lasting_demos(tmp_path_factory):
    """Six small episodes that nobody changes."""
    return record(tmp_path_factory.mktemp('demos'))


@pytest.fixture(scope='session')
def trained(lasting_demos, tmp_path_factory):
    """The checkpoint of two steps on them, which nobody changes."""
    from vla_alignment_ros.training.trainer import Trainer

    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp('trained') / 'run'
    return Trainer(smallest(), [lasting_demos], run).run()


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def demos(tmp_path, variant):
    """Six small episodes of three sentences."""
    root = tmp_path / 'demos'
    for i in range(6):
        extra = {'task': 'pick', 'group': SENTENCES[i % 3]}
        recorder = variant(root, seed=i)
        recorder.record(f'episode_{i}', ticks=8, instruction=SENTENCES[i % 3], extra=extra)
    return root
