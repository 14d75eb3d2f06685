"""The losses of `losses`, exact in value and gradients, without the matrix of all pairs.

Logits are made a block of rows at a time, in one buffer that is used again for every block, and
once more in the backward pass; memory grows with B and M instead of B · M. It is faster too: both
directions come from the same block, and the positives need no mask. The sum over all positives
of a row is a product with the *sum* of its group's columns, so it costs O(B · D).

Shapes: B rows, M columns, D width, U distinct ids.
"""

from __future__ import annotations

import math

import torch
from torch.autograd.function import FunctionCtx, once_differentiable
import torch.nn.functional as F

from vla_alignment_ros.alignment.heads import precise
from vla_alignment_ros.alignment.losses import require_finite
from vla_alignment_ros.errors import ConfigError

BLOCK_ROWS = 256


def streaming_info_nce(
    rows: torch.Tensor,
    columns: torch.Tensor,
    scale: torch.Tensor,
    row_ids: torch.Tensor,
    column_ids: torch.Tensor | None = None,
    *,
    symmetric: bool = True,
    block_rows: int = BLOCK_ROWS,
) -> torch.Tensor:
    """`multi_positive_info_nce` of `scale · rows @ columns.T`, positives being equal ids.

    Args:
        rows: (B, D), of length 1.
        columns: (M, D), of length 1; other columns than rows are fine (a queue, another process).
        scale: scalar tensor, the logit scale; gets its gradient.
        row_ids: (B,) integer.
        column_ids: (M,) integer; None: M = B and those of the rows.
        symmetric: mean of both directions; False: rows against columns only.
        block_rows: rows compared at a time.

    Returns:
        A scalar ≥ 0; rows and columns without a positive do not count.

    Raises:
        ConfigError: the shapes do not agree.
        AlignmentError: an embedding or the scale is not finite.
    """
    column_ids = row_ids if column_ids is None else column_ids
    rows, columns, scale = _checked(rows, columns, scale, row_ids, column_ids)
    if not len(rows) or not len(columns):
        return 0.0 * (rows.sum() + columns.sum()) * scale  # nothing to compare; with a graph
    known, row_group = torch.unique(row_ids, return_inverse=True)  # (U,), (B,)
    place = torch.searchsorted(known, column_ids).clamp_max(len(known) - 1)
    column_group = torch.where(known[place] == column_ids, place, len(known))  # (M,), U: no match
    row_count, row_sum = _group_sums(rows, row_group, len(known))
    column_count, column_sum = _group_sums(columns, column_group, len(known))
    matched = column_count > 0  # (U,)
    valid_rows, valid_columns = matched[row_group], column_group < len(known)
    row_lse, column_lse = _LogSumExp.apply(rows, columns, scale, symmetric, block_rows)
    cosines = (row_sum * column_sum).sum(1)  # (U,) over all pairs of a group
    loss = _direction(row_lse, valid_rows, scale * cosines, row_count * matched, column_count)
    if symmetric:
        other = _direction(column_lse, valid_columns, scale * cosines, column_count, row_count)
        loss = (loss + other) / 2
    require_finite('loss', loss.detach())
    return loss


def streaming_sigmoid(
    rows: torch.Tensor,
    columns: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    row_ids: torch.Tensor,
    column_ids: torch.Tensor | None = None,
    *,
    block_rows: int = BLOCK_ROWS,
) -> torch.Tensor:
    """`sigmoid_loss` of `scale · rows @ columns.T + bias`, positives being equal ids.

    As `streaming_info_nce`; `bias` is a scalar tensor and gets its gradient too.
    """
    column_ids = row_ids if column_ids is None else column_ids
    rows, columns, scale = _checked(rows, columns, scale, row_ids, column_ids)
    bias = _scalar('bias', bias, rows)
    if not len(rows) or not len(columns):
        return 0.0 * (rows.sum() + columns.sum()) * scale * bias
    total = _SigmoidTotal.apply(rows, columns, scale, bias, row_ids, column_ids, block_rows)
    loss = total / len(rows)
    require_finite('loss', loss.detach())
    return loss


def _checked(
    rows: torch.Tensor,
    columns: torch.Tensor,
    scale: torch.Tensor,
    row_ids: torch.Tensor,
    column_ids: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, columns and scale in one precise type, or an error that says what is wrong."""
    if rows.ndim != 2 or columns.ndim != 2 or rows.shape[1] != columns.shape[1]:
        raise ConfigError(
            f'rows (B, D) and columns (M, D) are needed, got {tuple(rows.shape)} and '
            f'{tuple(columns.shape)}'
        )
    for name, ids, of in (('row_ids', row_ids, rows), ('column_ids', column_ids, columns)):
        if ids.shape != of.shape[:1] or ids.is_floating_point():
            raise ConfigError(
                f'{name} must be {len(of)} integers, got {ids.dtype} of shape {tuple(ids.shape)}'
            )
    dtype = torch.promote_types(precise(rows[:0]).dtype, columns.dtype)
    rows, columns = rows.to(dtype), columns.to(dtype)
    require_finite('rows', rows.detach())
    require_finite('columns', columns.detach())
    return rows, columns, _scalar('scale', scale, rows)


def _scalar(name: str, value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if value.ndim:
        raise ConfigError(f'{name} must be a scalar tensor, got shape {tuple(value.shape)}')
    require_finite(name, value.detach())
    return value.to(like.dtype)


def _group_sums(
    rows: torch.Tensor, group: torch.Tensor, groups: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows per group (U,) and their sum (U, D); group U is left out."""
    count = torch.bincount(group, minlength=groups + 1)[:groups].to(rows.dtype)
    total = rows.new_zeros(groups + 1, rows.shape[1]).index_add(0, group, rows)
    return count, total[:groups]


def _direction(
    lse: torch.Tensor,
    valid: torch.Tensor,
    positive: torch.Tensor,
    count: torch.Tensor,
    positives: torch.Tensor,
) -> torch.Tensor:
    """Mean over valid anchors of lse − mean positive logit − ln |P|.

    lse, valid: (A,) of every anchor. Per group (U,): `positive`, the sum of the logits of its
    pairs; `count`, its valid anchors; `positives`, |P| of each of them.
    """
    number = positives.clamp_min(1)
    targets = positive / number + count * number.log()
    targets = targets.masked_fill((count == 0) | (positives == 0), 0.0)
    return (lse.masked_fill(~valid, 0.0).sum() - targets.sum()) / valid.sum().clamp_min(1)


def _blocks(count: int, block_rows: int) -> list[slice]:
    return [slice(i, min(i + block_rows, count)) for i in range(0, count, max(1, block_rows))]


class _LogSumExp(torch.autograd.Function):
    """Row-wise (B,) and column-wise (M,) log Σ exp of `scale · rows @ columns.T`.

    Rows of length 1 have logits of at most `scale`, so exp(logit − shift) with one shift for all
    serves both directions. `_shift` leaves as much room below as float has above: up to a scale
    of about 70 no term can underflow, and above it a sum can only if *all* its cosines are
    strongly negative. That is looked for, and then (or if the rows are longer) every row and
    column gets a maximum of its own, at the price of more passes over the block.

    Products go through `out=`, which autocast leaves in full precision.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        rows: torch.Tensor,
        columns: torch.Tensor,
        scale: torch.Tensor,
        symmetric: bool,
        block_rows: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        buffer = rows.new_empty(min(block_rows, len(rows)), len(columns))
        shift = _shift(float(scale), max(rows.shape[0], columns.shape[0]), rows.dtype)
        row_sum, column_sum = rows.new_empty(len(rows)), rows.new_zeros(len(columns))
        for block in _blocks(len(rows), block_rows):
            terms = _exp_logits(rows[block], columns, scale, shift, buffer)
            torch.sum(terms, dim=1, out=row_sum[block])
            if symmetric:
                column_sum += terms.sum(0)
        if not symmetric:
            column_sum.fill_(1.0)  # nobody looks at it
        if _trustworthy(row_sum, len(columns)) and _trustworthy(column_sum, len(rows)):
            row_lse, column_lse = row_sum.log_() + shift, column_sum.log_() + shift
        else:
            shift = None
            row_lse, column_lse = row_sum, column_sum.fill_(float('-inf'))
            for block in _blocks(len(rows), block_rows):
                logits = _logits(rows[block], columns, scale, buffer)
                row_lse[block] = logits.logsumexp(1)
                if symmetric:
                    torch.logaddexp(column_lse, logits.logsumexp(0), out=column_lse)
        ctx.save_for_backward(rows, columns, scale, row_lse, column_lse)
        ctx.shift, ctx.symmetric, ctx.block_rows = shift, symmetric, block_rows
        return row_lse, column_lse

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, row_grad: torch.Tensor, column_grad: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        rows, columns, scale, row_lse, column_lse = ctx.saved_tensors
        for_rows, for_columns, for_scale = ctx.needs_input_grad[:3]
        buffer = rows.new_empty(min(ctx.block_rows, len(rows)), len(columns))
        weight = torch.empty_like(buffer)
        rows_grad = torch.empty_like(rows)
        columns_grad = torch.zeros_like(columns) if for_columns else None
        if ctx.shift is not None:  # exp(logit − shift) · these is the gradient of the logit
            row_factor = row_grad * torch.exp(ctx.shift - row_lse)
            column_factor = column_grad * torch.exp(ctx.shift - column_lse)
        for block in _blocks(len(rows), ctx.block_rows):
            part = weight[: block.stop - block.start]
            if ctx.shift is None:
                logits = _logits(rows[block], columns, scale, buffer)
                grad = (logits - row_lse[block, None]).exp_().mul_(row_grad[block, None])
                if ctx.symmetric:
                    grad += logits.sub_(column_lse).exp_().mul_(column_grad)
            else:
                grad = _exp_logits(rows[block], columns, scale, ctx.shift, buffer)
                if ctx.symmetric:
                    grad *= torch.add(row_factor[block, None], column_factor, out=part)
                else:
                    grad *= row_factor[block, None]
            torch.mm(grad, columns, out=rows_grad[block])
            if for_columns:
                torch.addmm(columns_grad, grad.T, rows[block], out=columns_grad)
        scale_grad = (rows_grad * rows).sum() if for_scale else None
        if for_columns:
            columns_grad *= scale
        return rows_grad.mul_(scale) if for_rows else None, columns_grad, scale_grad, None, None


def _shift(scale: float, count: int, dtype: torch.dtype) -> float:
    """What to subtract from logits ≤ scale, so that a sum of `count` exps just cannot overflow."""
    room = 0.9 * math.log(torch.finfo(dtype).max) - math.log(count)
    return max(0.0, scale - room)


def _trustworthy(sums: torch.Tensor, terms: int) -> bool:
    """Whether no sum overflowed, and what underflowed in any is below its last digit."""
    finfo = torch.finfo(sums.dtype)
    least = terms * finfo.tiny / finfo.eps
    return bool((sums.isfinite() & (sums > least)).all())


def _logits(
    rows: torch.Tensor, columns: torch.Tensor, scale: torch.Tensor, buffer: torch.Tensor
) -> torch.Tensor:
    return torch.mm(rows * scale, columns.T, out=buffer[: len(rows)])


def _exp_logits(
    rows: torch.Tensor,
    columns: torch.Tensor,
    scale: torch.Tensor,
    shift: float,
    buffer: torch.Tensor,
) -> torch.Tensor:
    logits = _logits(rows, columns, scale, buffer)
    if shift:
        logits -= shift
    return logits.exp_()


class _SigmoidTotal(torch.autograd.Function):
    """−Σ_ij log σ(z_ij (scale · rows_i · columns_j + bias)), z = ±1 for equal or other ids."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        rows: torch.Tensor,
        columns: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        row_ids: torch.Tensor,
        column_ids: torch.Tensor,
        block_rows: int,
    ) -> torch.Tensor:
        buffer = rows.new_empty(min(block_rows, len(rows)), len(columns))
        total = rows.new_zeros(())
        for block in _blocks(len(rows), block_rows):
            logits = _logits(rows[block], columns, scale, buffer).add_(bias)
            same = row_ids[block, None] == column_ids
            total -= F.logsigmoid(torch.where(same, logits, -logits)).sum()
        ctx.save_for_backward(rows, columns, scale, bias, row_ids, column_ids)
        ctx.block_rows = block_rows
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, columns, scale, bias, row_ids, column_ids = ctx.saved_tensors
        buffer = rows.new_empty(min(ctx.block_rows, len(rows)), len(columns))
        rows_grad, columns_grad = torch.empty_like(rows), torch.zeros_like(columns)
        bias_grad = torch.zeros_like(bias)
        for block in _blocks(len(rows), ctx.block_rows):
            logits = _logits(rows[block], columns, scale, buffer).add_(bias)
            same = row_ids[block, None] == column_ids
            # −z · σ(−z · logit): what is still missing for a positive, what is left of a negative
            missing = torch.where(same, -torch.sigmoid(-logits), torch.sigmoid(logits))
            bias_grad += missing.sum()
            torch.mm(missing, columns, out=rows_grad[block])
            torch.addmm(columns_grad, missing.T, rows[block], out=columns_grad)
        scale_grad = (rows_grad * rows).sum() * grad
        slope = scale * grad
        return (
            rows_grad.mul_(slope), columns_grad.mul_(slope), scale_grad, bias_grad * grad,
            None, None, None,
        )  # fmt: skip
