"""Losses and gradients of one training step: of one batch, of its parts, of all processes.

Memory is bounded by encoding a batch in parts (`gradcache`), time by sharing it out over processes
(`alignment.distributed`). Both meet a contrast at the same place: rows are read apart, and
compared together. So what was read (`policy.objective.Rows`) is put together, of parts first and
then of processes, and the losses, those that are means over rows included, are those of one batch
that holds all rows. Gradients are too, up to rounding, except for what batch norms do: they see
the rows of one part of one process. Their running statistics move twice per part, and are averaged
over processes.

Every process computes the losses of the joint batch, so what the alignment costs is not shared
out; the towers, which cost most, are. Its memory and time grow with the joint batch too: every
process holds all image tokens of it. DistributedDataParallel is not used. It would exchange
gradients while they are computed, between the exchanges of the joint batch, and would know nothing
of parts; one exchange afterwards does for all cases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from vla_alignment_ros.alignment.distributed import (
    average_gradients,
    average_statistics,
    gather,
    largest,
    world,
)
from vla_alignment_ros.alignment.heads import precise
from vla_alignment_ros.alignment.labels import present_in_batch
from vla_alignment_ros.encoders.language import PAD_ID
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.policy.model import VlaModel
from vla_alignment_ros.policy.objective import compare, draw, facts, read_rows, Rows
from vla_alignment_ros.training.gradcache import grad_cache_step

# entries of a batch that have no row per sample
_OF_ALL = ('ids', 'names', 'untold', 'colours', 'present')
_COPIES = ('recoloured', 'recoloured_labels')  # entries that have a row for some samples
_TOLD = ('group', 'referent', 'approach', 'task', 'named', 'holds', 'swapped_from')

Values = dict[str, torch.Tensor]


def require_parts(batch: int, parts: int) -> None:
    """Raise `ConfigError` unless a batch can be cut into that many equal parts."""
    if parts < 1 or batch % parts:
        raise ConfigError(
            f'optimizer.batch {batch} cannot be cut into optimizer.parts {parts} equal parts: '
            f'choose parts that divide the batch'
        )


def _require_copies(batch: Mapping[str, Any], parts: int) -> int:
    """How many copies in other colours each part gets; `ConfigError` where that is no number."""
    if 'recoloured' not in batch:
        return 0
    copies = len(next(iter(batch['recoloured'].values())))
    if copies % parts:
        raise ConfigError(
            f'optimizer.recolour makes {copies} copies, which cannot be cut into optimizer.parts '
            f'{parts} equal parts: choose a share that gives a multiple'
        )
    return copies // parts


def learn(
    model: VlaModel,
    batch: Mapping[str, Any],
    weights: Mapping[str, float],
    generator: torch.Generator | None = None,
    parts: int = 1,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    backward: Callable[[torch.Tensor], None] = torch.Tensor.backward,
) -> tuple[Values, Values, torch.Tensor]:
    """Add the gradients of a step to `.grad`, exchanged between processes.

    Args:
        model: in the mode it trains in.
        batch: of this process, as `VlaModel.forward` takes it.
        weights: of `VlaModel.forward`.
        generator: of the step's noise.
        parts: how many the batch is encoded in. 1: at once, with one pass instead of two.
        autocast: context that networks run in.
        backward: takes the place of `Tensor.backward`.

    Returns:
        Losses and diagnostics of the joint batch, and the sum of the losses, all detached.

    Raises:
        ConfigError: the batch cannot be cut into so many parts.
        AlignmentError: the processes hold different numbers of rows.
    """
    require_parts(len(batch['sentence']), parts)
    losses: Values = {}
    diagnostics: Values = {}

    def total(found: tuple[Values, Values]) -> torch.Tensor:
        losses.update({name: value.detach() for name, value in found[0].items()})
        diagnostics.update(found[1])
        return torch.stack([precise(value) for value in found[0].values()]).sum()

    _, processes = world()
    if processes == parts == 1:
        with autocast():
            found = model(batch, weights, generator)
        value = total(found)
        backward(value)
        return losses, diagnostics, value.detach()

    drawn = draw(model, _widened(batch), generator)
    pieces = cut(drawn, parts)
    align = weights['alignment'] > 0
    told = _joint_facts(model, drawn, pieces, autocast) if align else {}

    def encode(piece: Mapping[str, Any]) -> Values:
        with autocast():
            return read_rows(model, piece, align).flat()

    def loss(flat: Values) -> torch.Tensor:
        rows = Rows.of(_gathered(flat), model)
        with autocast():
            return total(compare(model, rows, told, weights))

    if parts == 1:
        value = loss(encode(pieces[0]))
        backward(value)
    else:
        value = grad_cache_step(encode, loss, pieces, backward=backward)
    average_gradients(model.parameters())
    average_statistics(model)
    return losses, diagnostics, value.detach()


def cut(drawn: Mapping[str, Any], parts: int) -> list[dict[str, Any]]:
    """What `objective.draw` gave, in equal parts; each reads only the sentences that it needs."""
    size, copies = len(drawn['sentence']) // parts, _require_copies(drawn, parts)
    pieces = []
    for part in range(parts):
        own = slice(part * size, (part + 1) * size)
        some = slice(part * copies, (part + 1) * copies)
        piece = {
            name: value
            if name in _OF_ALL
            else _rows(value, some if name in _COPIES else own)
            for name, value in drawn.items()
        }
        both = torch.stack([piece['sentence'], piece['swapped']])  # (2, b)
        used, place = torch.unique(both, return_inverse=True)
        piece |= {'ids': drawn['ids'][used], 'sentence': place[0], 'swapped': place[1]}
        pieces.append(piece)
    return pieces


def _rows(value: Any, part: slice) -> Any:
    if isinstance(value, Mapping):
        return {name: tensor[part] for name, tensor in value.items()}
    return value[part]


def _gathered(tensors: Values) -> Values:
    """The rows of all processes."""
    return dict(zip(tensors, gather(*tensors.values()))) if tensors else {}


def _widened(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with its sentences padded to the longest of all processes."""
    ids = batch['ids']
    missing = largest(ids.shape[1], ids.device) - ids.shape[1]
    return {**batch, 'ids': F.pad(ids, (0, missing), value=PAD_ID)}


def _joint_facts(
    model: VlaModel,
    drawn: Mapping[str, Any],
    pieces: list[dict[str, Any]],
    autocast: Callable[[], AbstractContextManager],
) -> dict[str, Any]:
    """`objective.facts` of the rows of all parts and processes, with keys in place of images."""
    rank, processes = world()
    apart = [facts(model, piece) for piece in pieces]
    told = {name: torch.cat([part[name] for part in apart]) for name in _TOLD}
    told |= {'present': drawn['present'], 'labels': apart[0]['labels']}
    if told['labels'] is not None:
        cells = torch.cat([part['labels'].cells for part in apart])
        told['labels'] = replace(told['labels'], cells=cells)
    if 'recoloured_cells' in apart[0]:
        told['recoloured_cells'] = torch.cat([part['recoloured_cells'] for part in apart])
    with autocast():
        made = [
            model.alignment.keys(piece['images'], piece['ids'][piece['sentence']])
            for piece in pieces
        ]
    keys = {name: torch.cat([part[name] for part in made]) for name in made[0]}
    if processes == 1:
        return {**told, 'keys': keys}
    told['swapped_from'] = told['swapped_from'] + rank * len(told['swapped_from'])
    told |= _gathered({name: told[name] for name in _TOLD})
    told['keys'] = _gathered(keys)
    if told['labels'] is not None:
        (cells,) = gather(told['labels'].cells)
        told['labels'] = replace(told['labels'], cells=cells)
    if 'recoloured_cells' in told:
        (told['recoloured_cells'],) = gather(told['recoloured_cells'])
    # what a scene of one process holds of what another's sentence names
    told['present'] = present_in_batch(
        **{key: told[key] for key in ('group', 'referent', 'holds', 'named')}
    )
    return told
