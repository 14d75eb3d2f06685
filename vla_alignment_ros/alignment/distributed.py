"""Contrast over the batches of all processes, with the gradients of one process.

The joint loss has to be the mean of what the W processes compute. `gather` sums, in its backward
pass, what every process's loss says about a row: the gradient of the *sum* of the losses, W times
that of the joint loss. Averaging the gradients of the parameters over processes divides by W, and
every parameter, the logit scale included, gets exactly the gradient that one process would compute
on the joint batch. So nothing else multiplies or divides by W. `average_gradients` averages, and
DistributedDataParallel does too.

Training (`training.step`) gathers what was read of all rows and computes the joint loss in every
process, which works for every strategy. `distributed_info_nce` compares a process's own rows with
the columns of all, for pairs with ids alone: there the loss of a process is the mean over its own
rows.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import distributed, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from vla_alignment_ros.alignment.heads import precise
from vla_alignment_ros.alignment.streaming import streaming_info_nce
from vla_alignment_ros.errors import AlignmentError


def world() -> tuple[int, int]:
    """(rank, processes); (0, 1) where there is no process group."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def gather(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Each (B, …) → (W·B, …), the rows of all processes in the order of their ranks.

    Floating-point tensors keep their gradients, see the module's docstring; ids must mean the same
    in every process. Every process has to call this with tensors of the same types and widths.
    With one process it gives back the tensors themselves.

    Raises:
        AlignmentError: the processes hold different numbers of rows.
    """
    _, processes = world()
    if processes == 1:
        return tensors
    _require_equal([len(tensor) for tensor in tensors], processes, tensors[0].device)
    return tuple(
        _Gather.apply(tensor) if tensor.is_floating_point() else _all_rows(tensor)
        for tensor in tensors
    )


def distributed_info_nce(
    rows: torch.Tensor, columns: torch.Tensor, scale: torch.Tensor, ids: torch.Tensor
) -> torch.Tensor:
    """`streaming_info_nce` of the joint batch of all processes, both directions.

    The mean over processes of the value is that of the joint batch; for gradients see the module's
    docstring. Exact because row i of `rows` and of `columns` are a pair, so that none is without
    a positive and every process counts the same number of rows.

    Args:
        rows, columns: (B, D) of this process, of length 1; the same B in every process.
        scale: scalar tensor.
        ids: (B,) of the pairs, of the same meaning in every process.
    """
    all_rows, all_columns, all_ids = gather(rows, columns, ids)
    if all_rows is rows:
        return streaming_info_nce(rows, columns, scale, ids)
    forward = streaming_info_nce(rows, all_columns, scale, ids, all_ids, symmetric=False)
    return (
        forward + streaming_info_nce(columns, all_rows, scale, ids, all_ids, symmetric=False)
    ) / 2


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Mean of every gradient over processes; where a process has none it counts as zero.

    A parameter that no process has a gradient of keeps none, as in a single process.

    One exchange for all, for gradients that were collected without DDP's own exchange
    (`training.gradcache`). With one process nothing changes.
    """
    _, processes = world()
    wanted = [p for p in parameters if p.requires_grad]
    if processes == 1 or not wanted:
        return
    found = torch.tensor([p.grad is not None for p in wanted], device=wanted[0].device).int()
    distributed.all_reduce(found)
    used = [p for p, count in zip(wanted, found.tolist()) if count]
    for parameter in used:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    _average([parameter.grad for parameter in used])


@torch.no_grad()
def average_statistics(network: nn.Module) -> None:
    """Mean of the running statistics of batch norms over processes.

    Each process sees its own rows only; a mean of their statistics is that of all rows, but for
    how much the means of the processes differ. With one process nothing changes.
    """
    if world()[1] > 1:
        norms = (m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.training)
        _average([t for norm in norms for t in (norm.running_mean, norm.running_var)])


def largest(value: int, device: torch.device) -> int:
    """The largest of all processes' values, for what they have to agree on."""
    if world()[1] == 1:
        return value
    found = torch.tensor(value, device=device)
    distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
    return int(found)


def _average(tensors: list[torch.Tensor]) -> None:
    """Replace each by its mean over processes, in one exchange."""
    if not tensors:
        return
    flat = torch.cat([precise(tensor).flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= world()[1]
    for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors])):
        tensor.copy_(mean.view_as(tensor))


def _require_equal(rows: list[int], processes: int, device: torch.device) -> None:
    """One exchange for the row counts of several tensors."""
    mine = torch.tensor(rows, device=device)
    counts = [torch.zeros_like(mine) for _ in range(processes)]
    distributed.all_gather(counts, mine)
    for numbers in torch.stack(counts, dim=1).tolist():  # of each tensor, by process
        if len(set(numbers)) > 1:
            raise AlignmentError(
                f'the processes hold {numbers} rows; a joint contrast needs the same number in '
                f'each'
            )


def _all_rows(tensor: torch.Tensor) -> torch.Tensor:
    _, processes = world()
    parts = [torch.empty_like(tensor) for _ in range(processes)]
    distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, local: torch.Tensor) -> torch.Tensor:
        ctx.count = len(local)
        return _all_rows(local)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: torch.Tensor) -> torch.Tensor:
        # all-reduce and a slice: gloo has no reduce-scatter for every type
        grad = grad.contiguous().clone()
        distributed.all_reduce(grad)
        start = world()[0] * ctx.count
        return grad[start : start + ctx.count]
