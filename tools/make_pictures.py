"""Draw docs/images/grounding.png: where the shipped policy sees what a sentence names.

One scene, twice: told to take what is there, and then a thing that is missing. Drawn as the
policy node draws `~/grounding/image`, the front camera alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vla_alignment_ros.control.gate import GO, HOLD
from vla_alignment_ros.evaluation.films import encode_png
from vla_alignment_ros.evaluation.overlay import grounding_picture
from vla_alignment_ros.evaluation.scenes import generate_scenes
from vla_alignment_ros.policy.policy import Policy

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / 'docs' / 'images' / 'grounding.png'
SPLIT, SEED = 'seen', 4


def main() -> None:
    """Draw the picture."""
    policy = Policy.load(ROOT / 'checkpoints' / 'tabletop', device='cpu')
    (scene,) = generate_scenes(policy.embodiment, SPLIT, 1, SEED)
    missing = scene.another(np.random.default_rng(0), present=False)
    thresholds = (policy.calibration.hold, policy.calibration.go)
    pictures = []
    for sentence in (scene.observation.instruction, scene.saying(missing)):
        told = scene.told(sentence)
        front = {'front': told.images['front']}
        decided = policy.step(told, grounding=True)
        gate = GO if decided.vl_score >= thresholds[1] else HOLD
        pictures.append(
            grounding_picture(
                front, decided.grounding, sentence, decided.vl_score, gate, thresholds
            )
        )
    width = min(picture.shape[1] for picture in pictures)
    PICTURE.write_bytes(encode_png(np.concatenate([one[:, :width] for one in pictures])))
    print(f'wrote {PICTURE}')


if __name__ == '__main__':
    main()
