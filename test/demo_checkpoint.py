"""A checkpoint with random weights for the tabletop: it moves, but knows nothing."""

from __future__ import annotations

from pathlib import Path

import torch

from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.encoders.language import build_tokenizer
from vla_alignment_ros.observation import ObservationAssembler
from vla_alignment_ros.policy.checkpoint import Calibration, Checkpoint, save_checkpoint
from vla_alignment_ros.policy.model import ModelConfig, VlaModel
from vla_alignment_ros.policy.normalizer import DataStatistics

SENTENCES = [
    'pick up the red cube',
    'push the blue ball to the left',
    'put the green brick in the white tray',
]


def save_random_checkpoint(folder: Path, willing: bool) -> Path:
    """willing: whether its score lets it move at all."""
    torch.manual_seed(0)
    embodiment = Embodiment.load('tabletop')
    names = ObservationAssembler(embodiment).state_names
    width = len(names)
    statistics = DataStatistics(
        state_mean=[0.0] * width,
        state_std=[1.0] * width,
        action_low=[-0.02] * 6 + [0.0],
        action_high=[0.02] * 6 + [1.0],
        passthrough=[False] * 6 + [True],
        keyframe_mean=[0.5, 0.0, 0.1],
        keyframe_std=[0.1, 0.1, 0.05],
    )
    tokenizer = build_tokenizer(SENTENCES)
    config = ModelConfig(
        cameras={camera.name: (camera.height, camera.width) for camera in embodiment.cameras},
        state_dim=width,
        position_index=tuple(names.index(name) for name in ('ee_x', 'ee_y', 'ee_z')),
        vocabulary_size=tokenizer.get_vocab_size(),
        horizon=4,
        width=32,
        heads=2,
        decoder_layers=1,
        language_layers=1,
        pointers=2,
    )
    model = VlaModel(config, statistics).eval()
    # probability = sigmoid(slope * cosine + offset)
    calibration = Calibration(slope=1.0, offset=3.0 if willing else -6.0, go=0.6, hold=0.3)
    checkpoint = Checkpoint(model, tokenizer, embodiment, statistics, calibration)
    return save_checkpoint(checkpoint, folder)
