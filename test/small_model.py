"""Models of the smallest size with random weights, and a batch that one can train on."""

from pathlib import Path

import numpy as np
from recordings import make_embodiment
import torch
import torch.nn.functional as F

from vla_alignment_ros.calibration import Pinhole
from vla_alignment_ros.embodiment import Camera, Embodiment
from vla_alignment_ros.encoders.language import build_tokenizer, tokenize
from vla_alignment_ros.observation import EE_POSITION, Observation, state_names
from vla_alignment_ros.policy.checkpoint import Calibration, Checkpoint, save_checkpoint
from vla_alignment_ros.policy.model import ModelConfig, VlaModel
from vla_alignment_ros.policy.normalizer import DataStatistics

NAMES = ['red cube', 'blue ball']
SENTENCES = ['pick up the red cube', 'pick up the blue ball', 'push the red cube left']
TABLETOP_SENTENCES = [
    'pick up the red cube',
    'push the blue ball to the left',
    'put the green brick in the white tray',
]
STATE_DIM = 6
WEIGHTS = {'keyframe': 1.0, 'alignment': 1.0}
# looks straight down from 2 m: base x to the right, base y upwards; one metre fills the image
DOWN = Pinhole((0.0, 0.0, 2.0), (1.0, 0.0, 0.0, 0.0), (64.0, 48.0), (16.0, 12.0))


def statistics():
    return DataStatistics(
        state_mean=[0.1] * STATE_DIM,
        state_std=[0.5] * STATE_DIM,
        action_low=[-0.02, -0.02, -0.02, 0.0, 0.0, -0.1, 0.0],
        action_high=[0.02, 0.04, 0.02, 0.0, 0.0, 0.1, 1.0],
        passthrough=[False] * 6 + [True],
        keyframe_mean=[0.5, 0.0, 0.1],
        keyframe_std=[0.1, 0.1, 0.05],
    )


def embodiment():
    return make_embodiment(
        cameras=(Camera('front', 'front', 32, 24), Camera('wrist', 'wrist', 16, 16)),
        joint_names=tuple(f'joint{i}' for i in range(1, STATE_DIM)),
    )


def random_checkpoint(
    robot: Embodiment,
    about: DataStatistics,
    sentences: list[str],
    calibration: Calibration,
    seed: int = 0,
    **changes,
) -> Checkpoint:
    """Random weights of the smallest size for a robot, whose words are those of the sentences."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(sentences)
    config = {
        'cameras': {c.name: (c.height, c.width) for c in robot.cameras},
        'state_dim': len(about.state_mean),
        'vocabulary_size': tokenizer.get_vocab_size(),
        'horizon': 4,
        'width': 32,
        'heads': 2,
        'decoder_layers': 1,
        'language_layers': 1,
        'pointers': 2,
    }
    model = VlaModel(ModelConfig(**config | changes), about).eval()
    return Checkpoint(model, tokenizer, robot, about, calibration)


def make_checkpoint(seed=0, **changes):
    changes.setdefault('position_index', (3, 4, 5))
    calibration = Calibration(10.0, -1.0, 0.6, 0.4)
    return random_checkpoint(embodiment(), statistics(), SENTENCES, calibration, seed, **changes)


def save_random_checkpoint(folder: Path, willing: bool) -> Path:
    """For the tabletop: it moves, but knows nothing. willing: whether its score lets it move."""
    robot = Embodiment.load('tabletop')
    names = state_names(robot)
    about = DataStatistics(
        state_mean=[0.0] * len(names),
        state_std=[1.0] * len(names),
        action_low=[-0.02] * 6 + [0.0],
        action_high=[0.02] * 6 + [1.0],
        passthrough=[False] * 6 + [True],
        keyframe_mean=[0.5, 0.0, 0.1],
        keyframe_std=[0.1, 0.1, 0.05],
    )
    # probability = sigmoid(slope * cosine + offset)
    calibration = Calibration(slope=1.0, offset=3.0 if willing else -6.0, go=0.6, hold=0.3)
    place = tuple(names.index(name) for name in EE_POSITION)
    checkpoint = random_checkpoint(
        robot, about, TABLETOP_SENTENCES, calibration, position_index=place
    )
    return save_checkpoint(checkpoint, folder)


def calibrated(**changes):
    return make_checkpoint(projections={'front': DOWN.projection(32, 24).tolist()}, **changes)


def observation(seed=0, instruction=SENTENCES[0]):
    rng = np.random.default_rng(seed)
    images = {
        'front': rng.integers(0, 256, (24, 32, 3), dtype=np.uint8),
        'wrist': rng.integers(0, 256, (16, 16, 3), dtype=np.uint8),
    }
    return Observation(7, images, rng.normal(size=STATE_DIM).astype(np.float32), instruction)


def make_batch(checkpoint, rows=6):
    generator = torch.Generator().manual_seed(1)
    observations = [observation(i) for i in range(rows)]
    sentence = torch.arange(rows) % len(SENTENCES)
    return {
        'images': {
            name: torch.stack([torch.from_numpy(o.images[name]) for o in observations])
            for name in ('front', 'wrist')
        },
        'state': torch.stack([torch.from_numpy(o.state) for o in observations]),
        'ids': tokenize(checkpoint.tokenizer, SENTENCES),
        'sentence': sentence,
        'group': sentence,
        'referent': sentence,
        'approach': torch.ones(rows, dtype=torch.bool),
        'present': sentence.unsqueeze(1) == sentence,
        'task': torch.ones(rows, dtype=torch.long),
        'named': sentence % 2 + 1,  # both cube sentences name the first
        'holds': F.one_hot(sentence % 2 + 1, 3).bool(),
        'names': F.pad(tokenize(checkpoint.tokenizer, NAMES), (0, 0, 1, 0)),
        'untold': torch.zeros(0, 2, dtype=torch.long),
        'colours': tokenize(checkpoint.tokenizer, ['red', 'blue'])[:, 0],
        'labels': {'front': torch.randint(0, 3, (rows, 6, 8), generator=generator)},
        'action': 0.01 * torch.randn(rows, 4, 7, generator=generator),
        'action_mask': torch.tensor([[True, True, True, i % 2 == 0] for i in range(rows)]),
        'keyframe': torch.randn(rows, 3, generator=generator),
        'keyframe_gripper': torch.zeros(rows),
    }


def with_copies(batch, rows=(1, 4)):
    """The batch with copies of some of its rows in other colours."""
    rows = torch.tensor(list(rows))
    return {
        **batch,
        'recoloured': {name: 255.0 - pixels[rows] for name, pixels in batch['images'].items()},
        'recoloured_labels': {name: ids[rows] for name, ids in batch['labels'].items()},
    }
