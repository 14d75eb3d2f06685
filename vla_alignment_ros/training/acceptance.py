"""Whether a new checkpoint may take the place of the one that serves.

    python -m vla_alignment_ros.training.acceptance CHECKPOINT --episodes LIST --robot EMBODIMENT
        --out VERDICT.json [--against CHECKPOINT] [--tolerance T] [--threads N]

It must load and answer, be of the robot's embodiment, and not be worse than the other on the
episodes that were held out of its own training: the action error of both, in the units of the
checkpoint that would be replaced, and how well the alignment score tells right from wrong
sentences. A gate that was calibrated may not be lost. Where the other has trained on these
episodes it has the advantage, so the doubt is never for the new one.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
import sys

import torch

from vla_alignment_ros.data.dataset import DemonstrationDataset, load_dataset
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import CheckpointError, VlaError
from vla_alignment_ros.policy.checkpoint import Checkpoint
from vla_alignment_ros.policy.normalizer import Normalizer
from vla_alignment_ros.policy.policy import Policy
from vla_alignment_ros.training.batches import BatchStream
from vla_alignment_ros.training.config import DataConfig, TrainConfig
from vla_alignment_ros.training.validation import validate
from vla_alignment_ros.training.verdict import Verdict

BATCH, BATCHES = 64, 24  # held-out moments that are looked at, at most
NAMED = 3  # differences that a refusal names


def judge(
    folder: Path, episodes: Path, robot: Embodiment, against: Path | None, tolerance: float
) -> Verdict:
    """Judge the checkpoint in `folder`.

    Args:
        episodes: list of all that it was trained on and held out from; its own notes say which.
        robot: that it is for.
        against: the checkpoint it would replace.
        tolerance: how much worse it may be: of the action error relatively, of the area under
            the curve absolutely.
    """
    other = '' if against is None else str(against)
    try:
        new, old = _answering(folder), None
        _require_robot(new.embodiment, robot, 'of this robot')
        if against is not None:
            old = _answering(against)
            _require_robot(new.embodiment, old.embodiment, f'of {against}, which it would replace')
        found = _measure([new] if old is None else [new, old], episodes)
    except VlaError as error:
        return Verdict(False, str(error), other)
    worse = []
    if old is not None:
        worse += _worse(*found, tolerance)
        if old.calibration.fitted and not new.calibration.fitted:
            worse.append('its alignment gate could not be calibrated: it would stay open')
    if worse:
        reason = f'worse than {other or "it may be"}: {"; ".join(worse)}'
        return Verdict(False, reason, other, *found)
    error = f'action error {found[0]["action_l1"]:.4g} on held-out episodes'
    reason = f'{error}, {found[1]["action_l1"]:.4g} of {other}' if old is not None else error
    return Verdict(True, reason, other, *found)


def _answering(folder: Path) -> Policy:
    """A checkpoint that loads and answers."""
    policy = Policy.load(folder)
    try:
        policy.warm_up(1)
    except VlaError as error:
        raise CheckpointError(f'{folder}: {error}') from error
    return policy


def _require_robot(mine: Embodiment, robot: Embodiment, whose: str) -> None:
    found = robot.differences(mine)
    if found:
        more = f' and {len(found) - NAMED} more' if len(found) > NAMED else ''
        raise CheckpointError(
            f'its embodiment is not that {whose}: {"; ".join(found[:NAMED])}{more}'
        )


def _measure(policies: list[Policy], episodes: Path) -> list[dict[str, float]]:
    """Metrics of each on the same held-out moments, in the units of the last."""
    new = policies[0].checkpoint
    data, seed = _trained_with(new)
    loaded = load_dataset(
        [episodes], horizon=data.horizon, val_fraction=data.val_fraction, seed=data.split_seed,
        progress=False,
    )  # fmt: skip
    steps = min(policy.horizon for policy in policies)
    units = Normalizer(policies[-1].checkpoint.statistics).to(policies[-1].device)
    found = []
    for policy in policies:
        held_out = DemonstrationDataset(
            loaded.cache, 'val', policy.horizon, data.val_fraction, data.split_seed
        )
        batch = min(BATCH, len(held_out))
        stream = BatchStream(held_out, policy.checkpoint.tokenizer, batch, seed)
        metrics, _ = validate(
            policy.checkpoint.model, stream, BATCHES, seed, policy.device, units, steps
        )
        if not math.isfinite(metrics.get('action_l1', math.nan)):
            which = 'its actions' if policy is policies[0] else 'those that it would replace'
            raise CheckpointError(f'{which} are not finite on held-out episodes')
        found.append(metrics)
    return found


def _trained_with(checkpoint: Checkpoint) -> tuple[DataConfig, int]:
    """How its episodes were split, and its seed."""
    if 'config' not in checkpoint.training:
        raise CheckpointError('the checkpoint does not say how its episodes were split')
    config = TrainConfig.from_dict(checkpoint.training['config'])
    return config.data, config.seed


def _worse(new: dict[str, float], old: dict[str, float], tolerance: float) -> list[str]:
    """In what the new one is worse than the old one, with both numbers."""
    found = []
    if new['action_l1'] > old['action_l1'] * (1 + tolerance):
        found.append(f'action error {new["action_l1"]:.4g} instead of {old["action_l1"]:.4g}')
    if 'vl_auroc' in old and new['vl_auroc'] < old['vl_auroc'] - tolerance:
        found.append(
            f'right sentences score higher than wrong ones in {100 * new["vl_auroc"]:.1f} % '
            f'instead of {100 * old["vl_auroc"]:.1f} %'
        )
    return found


def main(argv: list[str] | None = None) -> int:
    """Entry point; 0 when there is a verdict, whichever."""
    parser = argparse.ArgumentParser(prog='acceptance', description='Judge a new checkpoint.')
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('--episodes', type=Path, required=True)
    parser.add_argument('--robot', required=True)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--against', type=Path)
    parser.add_argument('--tolerance', type=float, default=0.0)
    parser.add_argument('--threads', type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads or 1)
    try:
        robot = Embodiment.load(options.robot)
        verdict = judge(
            options.checkpoint, options.episodes, robot, options.against, options.tolerance
        )
        verdict.save(options.out)
    except (VlaError, OSError) as error:
        print(f'acceptance: {error}', file=sys.stderr)
        return 2
    print(f'{"accepted" if verdict.accepted else "refused"}: {verdict.reason}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
