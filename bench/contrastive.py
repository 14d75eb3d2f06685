"""Symmetric contrast of B pairs, forward and backward: streaming, and as it is usually written.

`python -m bench.contrastive SIDE BATCH WIDTH THREADS DEVICE` prints, as JSON, how much memory one
such step takes at most beyond its inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import json
from pathlib import Path
import sys

import torch
import torch.nn.functional as F

from bench.read_bag import memory_bytes
from vla_alignment_ros.alignment.streaming import streaming_info_nce

OURS, BASELINE = 'ours', 'baseline'
BATCH, WIDTH = 4096, 512
OURS_IS = '`streaming_info_nce`, forward and backward to both embeddings and the scale'
BASELINE_IS = (
    'the usual form: logits of both directions as matrices of all pairs, two cross-entropies'
)


@dataclass
class Step:
    """Embeddings of B pairs and a temperature, with their gradients."""

    rows: torch.Tensor
    columns: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def make(cls, batch: int, width: int, device: str = 'cpu') -> Step:
        generator = torch.Generator().manual_seed(0)
        made = [torch.randn(batch, width, generator=generator) for _ in range(2)]
        rows, columns = (F.normalize(one, dim=-1).to(device).requires_grad_() for one in made)
        return cls(rows, columns, torch.tensor(1 / 0.07, device=device, requires_grad=True))

    def ours(self) -> float:
        return self._finish(
            streaming_info_nce(self.rows, self.columns, self.scale, self._right())
        )

    def baseline(self) -> float:
        right = self._right()
        forward = F.cross_entropy(self.scale * self.rows @ self.columns.T, right)
        back = F.cross_entropy(self.scale * self.columns @ self.rows.T, right)
        return self._finish((forward + back) / 2)

    def _right(self) -> torch.Tensor:
        return torch.arange(len(self.rows), device=self.rows.device)

    def _finish(self, loss: torch.Tensor) -> float:
        for tensor in (self.rows, self.columns, self.scale):
            tensor.grad = None
        loss.backward()
        return float(loss.detach())

    def side(self, name: str) -> Callable[[], float]:
        return self.ours if name == OURS else self.baseline


def main(side: str, batch: str, width: str, threads: str, device: str) -> None:
    torch.set_num_threads(int(threads))
    # what every first call needs is not the step's memory
    Step.make(64, int(width), device).side(side)()
    step = Step.make(int(batch), int(width), device)
    if device == 'cpu':
        Path('/proc/self/clear_refs').write_text('5', encoding='ascii')  # the peak begins anew
        before = memory_bytes('VmRSS')
        loss = step.side(side)()
        most = memory_bytes('VmHWM')
    else:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss = step.side(side)()
        most = torch.cuda.max_memory_allocated()
    print(json.dumps({'bytes': most - before, 'loss': loss}))


if __name__ == '__main__':
    main(*sys.argv[1:])
