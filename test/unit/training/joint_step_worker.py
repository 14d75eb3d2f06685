"""One process of a training step on a joint batch: writes gradients for test_training_step."""

from __future__ import annotations

from datetime import timedelta
import sys

from safetensors.torch import save_file
from small_model import calibrated, make_batch, WEIGHTS, with_copies
import torch
from torch import distributed

from vla_alignment_ros.policy.model import VlaModel
from vla_alignment_ros.training.step import learn

ROWS = 8  # of all processes together
BY_CAMERA = ('images', 'labels', 'recoloured', 'recoloured_labels')
CASES = {  # alignment -> parts
    'clip': 1,
    'vla': 1,
    'vla+grounded': 2,
    'clip+align': 2,
}


def double_model(alignment: str) -> VlaModel:
    """A small model in float64 as it trains, but for its batch norms; with mined negatives."""
    model = calibrated(alignment=alignment).model.double()
    model.alignment.bind(model.vision, model.language)
    model.alignment.mine(names=3, weight=0.5, start_step=0, negatives=2, margin=1.0, bank=16)
    model.double().train()
    model.vision.eval()
    return model


def joint_batch(rows: int = ROWS) -> dict:
    """Rows of every kind: late ones, scenes that hold more than is asked for, sentences cut."""
    batch = make_batch(calibrated(), rows)
    for name in ('state', 'action', 'keyframe', 'keyframe_gripper'):
        batch[name] = batch[name].double()
    batch['approach'] = torch.arange(rows) % 4 != 3
    batch['action'][..., -1] = 1.0
    batch['keyframe'] *= 0.3
    batch['named'][2] = -1  # such rows are taught by hindsight
    batch['holds'][0] = batch['holds'][5] = torch.tensor([False, True, True])
    known = batch['holds'][:, batch['named'].clamp_min(0)] & (batch['named'] > 0)
    batch['present'] |= known
    return with_copies(batch, range(rows))


def share(batch: dict, rank: int, world: int) -> dict:
    """The rows of one process, with the sentences that they use, cut to the longest."""
    size = len(batch['sentence']) // world
    part = slice(rank * size, (rank + 1) * size)
    whole = ('names', 'untold', 'colours', 'ids')
    mine = {k: v if k in whole else v[part] for k, v in batch.items()
            if k not in (*BY_CAMERA, 'present')}  # fmt: skip
    for kind in BY_CAMERA:
        mine[kind] = {name: value[part] for name, value in batch[kind].items()}
    mine['present'] = batch['present'][part, part]
    used, mine['sentence'] = torch.unique(mine['sentence'], return_inverse=True)
    words = batch['ids'][used]
    mine['ids'] = words[:, : int((words != 0).sum(1).max())]
    return mine


def seeded(rank: int) -> torch.Generator:
    return torch.Generator().manual_seed(100 + rank)


def main(rank: int, world: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        'gloo', init_method=f'file://{store}', rank=rank, world_size=world,
        timeout=timedelta(seconds=100),
    )  # fmt: skip
    found = {}
    try:
        for alignment, parts in CASES.items():
            model = double_model(alignment)
            batch = share(joint_batch(), rank, world)
            for step in range(2):  # the second finds a bank
                model.zero_grad()
                losses, _, _ = learn(model, batch, WEIGHTS, seeded(10 * step + rank), parts)
                model.alignment.after_step()
            found |= {f'{alignment}/loss.{name}': value for name, value in losses.items()}
            found |= {
                f'{alignment}/grad.{name}': p.grad
                for name, p in model.named_parameters()
                if p.grad is not None
            }
            found |= {f'{alignment}/state.{n}': v for n, v in model.state_dict().items()
                      if model.serves_training(n)}  # fmt: skip
        plain = torch.contiguous_format  # weights of convolutions have their channels last
        save_file({n: value.clone(memory_format=plain) for n, value in found.items()}, out)
    finally:
        distributed.destroy_process_group()


if __name__ == '__main__':
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
