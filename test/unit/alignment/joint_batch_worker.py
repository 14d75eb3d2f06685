"""One process of a joint batch: writes its loss and gradients, for test_alignment_distributed."""

from __future__ import annotations

from datetime import timedelta
import sys

from safetensors.torch import save_file
import torch
from torch import distributed, nn
import torch.nn.functional as F

from vla_alignment_ros.alignment.bank import MemoryBank
from vla_alignment_ros.alignment.distributed import (
    average_gradients,
    distributed_info_nce,
    gather,
)
from vla_alignment_ros.alignment.losses import LogitScale
from vla_alignment_ros.errors import AlignmentError

BATCH, WIDTH = 8, 6  # of all processes together


class DualTower(nn.Module):
    """Two small towers and a temperature, in float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vision = nn.Sequential(nn.Linear(WIDTH, 5), nn.Tanh(), nn.Linear(5, 4))
        self.language = nn.Linear(WIDTH, 4)
        self.scale = LogitScale()
        self.double()

    def forward(self, scenes: torch.Tensor, sentences: torch.Tensor) -> tuple[torch.Tensor, ...]:
        vision = F.normalize(self.vision(scenes), dim=-1)
        language = F.normalize(self.language(sentences), dim=-1)
        return vision, language, self.scale()


def joint_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scenes, sentences and ids; every id occurs in both halves, once or more."""
    generator = torch.Generator().manual_seed(1)
    scenes, sentences = torch.randn(2, BATCH, WIDTH, generator=generator, dtype=torch.float64)
    return scenes, sentences, torch.tensor([0, 1, 1, 2, 2, 0, 3, 1])


def main(rank: int, world: int, store: str, out: str) -> None:
    distributed.init_process_group(
        'gloo', init_method=f'file://{store}', rank=rank, world_size=world,
        timeout=timedelta(seconds=60),
    )  # fmt: skip
    try:
        save_file(work(rank, world), out)
    finally:
        distributed.destroy_process_group()


def work(rank: int, world: int) -> dict[str, torch.Tensor]:
    scenes, sentences, ids = (tensor.chunk(world)[rank] for tensor in joint_batch())
    found = {}
    # 1. DDP exchanges the gradients of the parameters
    model = DualTower()
    wrapped = nn.parallel.DistributedDataParallel(model)
    vision, language, scale = wrapped(scenes, sentences)
    vision.retain_grad()
    language.retain_grad()
    loss = distributed_info_nce(vision, language, scale, ids)
    loss.backward()
    found['loss'] = loss.detach()
    found |= {f'ddp.{name}': p.grad for name, p in model.named_parameters()}
    # of the sum over processes; of their mean, the joint loss, it is this
    found |= {'vision': vision.grad / world, 'language': language.grad / world}
    # 2. the same, exchanged by hand
    model = DualTower()
    distributed_info_nce(*model(scenes, sentences), ids).backward()
    average_gradients(model.parameters())
    found |= {f'average.{name}': p.grad for name, p in model.named_parameters()}
    # 3. banks stay alike
    bank = MemoryBank(BATCH - 2, 4)
    all_ids, all_vision, all_language = gather(ids, vision.detach(), language.detach())
    bank.enqueue(all_ids, vision=all_vision, language=all_language)
    found |= {'bank.ids': bank.ids.clone(), 'bank.vision': bank.rows('vision').clone()}
    # 4. unequal numbers of rows are refused in every process instead of hanging
    try:
        gather(scenes[: len(scenes) - rank])
    except AlignmentError as error:
        refused = '[4, 3] rows' in str(error)
    else:
        refused = False
    return found | {'refused': torch.tensor(refused)}


if __name__ == '__main__':
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
