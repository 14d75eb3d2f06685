"""One process of a contrastive training step on a joint batch, for P12.

`python -m bench.joint_batch_process RANK WORLD STORE OUT BATCH STEPS THREADS` writes the gradients
of the first step to OUT and prints, as JSON, the median seconds of the others.
"""

from __future__ import annotations

from datetime import timedelta
import json
import statistics
import sys
import time

from safetensors.torch import save_file
import torch
from torch import distributed, nn
import torch.nn.functional as F

from vla_alignment_ros.alignment.distributed import distributed_info_nce
from vla_alignment_ros.alignment.losses import LogitScale

WIDTH, HIDDEN, EMBED, SENTENCES = 512, 1024, 256, 64


class DualTower(nn.Module):
    """Two towers of three layers and a temperature."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.towers = nn.ModuleList(
            nn.Sequential(
                nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(),
                nn.Linear(HIDDEN, EMBED),
            )
            for _ in range(2)
        )  # fmt: skip
        self.scale = LogitScale()

    def forward(self, scenes: torch.Tensor, sentences: torch.Tensor) -> tuple[torch.Tensor, ...]:
        pairs = zip(self.towers, (scenes, sentences))
        return *(F.normalize(tower(x), dim=-1) for tower, x in pairs), self.scale()


def main(rank: int, world: int, store: str, out: str, batch: int, steps: int) -> None:
    if world > 1:
        distributed.init_process_group(
            'gloo', init_method=f'file://{store}', rank=rank, world_size=world,
            timeout=timedelta(seconds=120),
        )  # fmt: skip
    try:
        print(json.dumps({'seconds': _work(rank, world, out, batch, steps)}))
    finally:
        if world > 1:
            distributed.destroy_process_group()


def _work(rank: int, world: int, out: str, batch: int, steps: int) -> float:
    generator = torch.Generator().manual_seed(1)
    everything = (
        *torch.randn(2, batch, WIDTH, generator=generator),
        torch.randint(SENTENCES, (batch,), generator=generator),
    )
    scenes, sentences, ids = (tensor.chunk(world)[rank] for tensor in everything)
    model = DualTower()
    wrapped = nn.parallel.DistributedDataParallel(model) if world > 1 else model
    taken = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        model.zero_grad()
        distributed_info_nce(*wrapped(scenes, sentences), ids).backward()
        taken.append(time.perf_counter() - start)
    save_file({name: p.grad for name, p in model.named_parameters()}, out)
    return statistics.median(taken[1:])


if __name__ == '__main__':
    torch.set_num_threads(int(sys.argv[7]))
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:5], int(sys.argv[5]), int(sys.argv[6]))
