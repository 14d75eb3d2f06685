"""Embeddings of earlier batches, and the hardest negatives among them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
import torch.nn.functional as F

from vla_alignment_ros.alignment.heads import precise
from vla_alignment_ros.alignment.losses import negative_hinge, require_finite
from vla_alignment_ros.errors import ConfigError

NO_ID = -1  # of rows that were never filled; group ids are ≥ 0
GROUP = 16  # keys of which the miner first looks at the best only
QUERY_ROWS = 1024  # queries that are mined at a time
BUFFER_ENTRIES = {'cpu': 2**19, 'other': 2**24}  # numbers in a buffer: a core's cache holds few
TOPK_COLUMNS = 400  # for each entry `topk` shall find: it is slow where it sees few at a time


class MemoryBank(nn.Module):
    """A ring of the newest embeddings per modality, with the id of each pair (MoCo's queue).

    He et al. 2020, arXiv:1911.05722. All of it is in `state_dict`, so that a resumed run goes on
    with the same negatives; name it in a strategy's `training_only`. Rows are in no graph. They
    are views into the ring: enqueue after the backward pass (`after_step`), not before.

    Args:
        size: rows kept (Q).
        width: E of the embeddings.
        modalities: their names.
        notes: what else is kept of each pair: name -> one of it, for its shape and type.

    Raises:
        ConfigError: a size below 1, or no modality.
    """

    def __init__(
        self,
        size: int,
        width: int,
        modalities: Sequence[str] = ('vision', 'language'),
        notes: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        if size < 1 or width < 1 or not modalities:
            raise ConfigError(
                f'a memory bank needs a size and a width of at least 1 and a modality, '
                f'got {size}, {width} and {list(modalities)}'
            )
        kept = {name: torch.zeros(width) for name in modalities} | dict(notes or {})
        self.size, self.kept = size, tuple(kept)
        for name, one in kept.items():
            self.register_buffer(f'rows_{name}', torch.zeros(size, *one.shape, dtype=one.dtype))
        self.register_buffer('row_ids', torch.full((size,), NO_ID))
        self.register_buffer('pointer', torch.zeros((), dtype=torch.int64))  # next row to fill
        self.register_buffer('filled', torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        """How many rows are filled."""
        return int(self.filled)

    @property
    def ids(self) -> torch.Tensor:
        """(Q',) ids of the filled rows, in the order of `rows`."""
        return self.row_ids[: len(self)]

    def rows(self, name: str) -> torch.Tensor:
        """(Q', E) the filled rows of a modality, or (Q', …) of a note; others are never seen."""
        return getattr(self, f'rows_{name}')[: len(self)]

    @torch.no_grad()
    def enqueue(self, ids: torch.Tensor, **rows: torch.Tensor) -> None:
        """Add one batch of every modality and note, over the oldest rows.

        Of a batch that is larger than the bank its last rows are kept.

        With several processes enqueue the rows of the joint batch in each, so that banks stay
        alike.

        Args:
            ids: (B,) int64 ≥ 0, same id: same meaning.
            rows: modality -> (B, E), note -> (B, …).

        Raises:
            ConfigError: a modality is missing or unknown, or a shape does not fit.
            AlignmentError: an embedding is not finite.
        """
        if set(rows) != set(self.kept):
            raise ConfigError(
                f'the bank keeps {", ".join(self.kept)}, got {", ".join(rows) or "nothing"}'
            )
        for name, value in rows.items():
            expected = (len(ids), *getattr(self, f'rows_{name}').shape[1:])
            if value.shape != expected:
                raise ConfigError(f'{name} must be {expected}, got {tuple(value.shape)}')
            require_finite(name, value)
        if len(ids) and int(ids.min()) < 0:
            raise ConfigError(f'ids must be 0 or more, got {int(ids.min())}')
        kept = min(len(ids), self.size)
        start = int(self.pointer) + len(ids) - kept
        place = (start + torch.arange(kept, device=ids.device)) % self.size
        rings = {'row_ids': ids} | {f'rows_{name}': value for name, value in rows.items()}
        for name, value in rings.items():
            ring = getattr(self, name)
            ring[place] = value[len(ids) - kept :].to(ring.dtype)
        self.pointer.fill_((start + kept) % self.size)
        self.filled.fill_(min(self.size, int(self.filled) + len(ids)))


@dataclass(frozen=True)
class HardNegatives:
    """What a miner found; entries that are not valid are arbitrary."""

    index: torch.Tensor  # (B, K) int64 into the keys, most similar first
    valid: torch.Tensor  # (B, K) bool: there were that many keys with another id


class HardNegativeMiner(nn.Module):
    """The keys with another id that look most like each query.

    Args:
        negatives: K per query.
        warmup_steps: calls of `after_step` before the miner is `ready`; with untrained embeddings
            the hardest negatives are arbitrary, and often noise (FaceNet, arXiv:1503.03832).
        margin: of the hinge, in cosine.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(self, negatives: int = 8, warmup_steps: int = 0, margin: float = 0.2) -> None:
        super().__init__()
        if negatives < 1 or warmup_steps < 0:
            raise ConfigError(
                f'a miner needs at least 1 negative and 0 steps of warm-up, '
                f'got {negatives} and {warmup_steps}'
            )
        self.negatives, self.warmup_steps, self.margin = negatives, warmup_steps, margin
        self.register_buffer('steps', torch.zeros((), dtype=torch.int64))

    @property
    def ready(self) -> bool:
        """Whether the warm-up is over."""
        return int(self.steps) >= self.warmup_steps

    def after_step(self) -> None:
        """Call after each optimiser step."""
        self.steps.add_(1)

    def loss(
        self,
        queries: torch.Tensor,
        query_ids: torch.Tensor,
        positive: torch.Tensor,
        keys: torch.Tensor,
        key_ids: torch.Tensor,
        refused: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hinge against mined negatives, scored again with gradient; zero until `ready`.

        Args:
            queries: (B, E) with rows of length 1.
            query_ids: (B,).
            positive: (B,) cosine of each query with its match.
            keys: (Q, E), of a bank; may be in a graph.
            key_ids: (Q,).
            refused: see `mine`.
        """
        if not self.ready or not len(keys):
            return queries.sum() * 0.0
        found = self.mine(queries, query_ids, keys, key_ids, refused)
        chosen = keys[found.index]  # (B, K, E)
        similarity = torch.einsum('be,bke->bk', queries, chosen.to(queries.dtype))
        return negative_hinge(positive, similarity, found.valid, self.margin)

    @torch.no_grad()
    def mine(
        self,
        queries: torch.Tensor,
        query_ids: torch.Tensor,
        keys: torch.Tensor,
        key_ids: torch.Tensor,
        refused: torch.Tensor | None = None,
    ) -> HardNegatives:
        """The `negatives` most similar keys with another id: exact, not approximate.

        Memory beside the arguments: for `QUERY_ROWS` queries a few buffers of `BUFFER_ENTRIES` and
        one of `TOPK_COLUMNS` maxima per negative; it does not grow with Q.

        Args:
            queries, query_ids: (B, E), (B,).
            keys, key_ids: (Q, E), (Q,); Q may be 0.
            refused: (B, Q) bool, pairs that are no negatives although their ids differ.

        Raises:
            ConfigError: the shapes do not agree.
            AlignmentError: an embedding is not finite.
        """
        if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1]:
            raise ConfigError(
                f'queries (B, E) and keys (Q, E) are needed, got {tuple(queries.shape)} and '
                f'{tuple(keys.shape)}'
            )
        if query_ids.shape != queries.shape[:1] or key_ids.shape != keys.shape[:1]:
            raise ConfigError(
                f'one id per row is needed, got {len(query_ids)} for {len(queries)} queries and '
                f'{len(key_ids)} for {len(keys)} keys'
            )
        if refused is not None and refused.shape != (len(queries), len(keys)):
            raise ConfigError(
                f'refused must be ({len(queries)}, {len(keys)}), got {tuple(refused.shape)}'
            )
        require_finite('queries', queries)
        require_finite('keys', keys)
        count = self.negatives
        index = torch.zeros(len(queries), count, dtype=torch.int64, device=keys.device)
        valid = torch.zeros_like(index, dtype=torch.bool)
        if not len(queries) or not len(keys):
            return HardNegatives(index, valid)
        queries = precise(queries)
        # in the order of their ids what has to be masked is a rectangle per id, not a scatter
        query_ids, query_order = query_ids.sort()
        key_ids, key_order = key_ids.sort()
        queries, keys = queries[query_order], keys.to(queries.dtype)
        with torch.autocast(queries.device.type, enabled=False):
            for start in range(0, len(queries), QUERY_ROWS):
                part = slice(start, start + QUERY_ROWS)
                other = None if refused is None else refused[query_order[part]]
                found = _most_similar(
                    queries[part], query_ids[part], keys, key_ids, key_order, count, other
                )
                index[query_order[part]], valid[query_order[part]] = found
        return HardNegatives(index, valid)


def _most_similar(
    queries: torch.Tensor,
    query_ids: torch.Tensor,
    keys: torch.Tensor,
    key_ids: torch.Tensor,
    key_order: torch.Tensor,
    count: int,
    refused_keys: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`mine` for (n, E) queries; ids of both are sorted, the keys themselves are not.

    refused_keys (n, Q): in the order of the keys themselves.

    The best K entries lie in the K groups with the best maxima. A maximum over groups is a plain
    pass over memory; `topk`, which is not, sees one number per group, and then the entries of K
    groups, which are scored again.
    """
    step = _rows_that_fit(len(queries) * GROUP, -(-len(keys) // GROUP), keys.device) * GROUP
    apart = step // GROUP
    chosen = _best_groups(queries, query_ids, keys, key_ids, key_order, refused_keys, step, count)
    first = torch.div(chosen, apart, rounding_mode='floor') * step + chosen % apart
    members = torch.arange(0, step, apart, device=keys.device)
    place = (first.unsqueeze(2) + members).flatten(1)  # (n, C)
    beyond = place >= len(keys)  # the last block may not be full
    place = place.masked_fill(beyond, 0)
    refused = beyond | (key_ids[place] == query_ids.unsqueeze(1))
    candidates = key_order[place]
    if refused_keys is not None:
        refused |= refused_keys.gather(1, candidates)
    similarity = _scored_again(queries, keys, candidates).masked_fill_(refused, float('-inf'))
    values, within = similarity.topk(min(count, place.shape[1]))
    missing = (0, count - values.shape[1])
    index = F.pad(candidates.gather(1, within), missing)
    return index, F.pad(values > float('-inf'), missing)


def _rows_that_fit(width: int, rows: int, device: torch.device) -> int:
    """How many of the rows a buffer of so many columns holds, at least 1."""
    entries = BUFFER_ENTRIES['cpu' if device.type == 'cpu' else 'other']
    return max(1, min(rows, entries // width))


def _scored_again(
    queries: torch.Tensor, keys: torch.Tensor, candidates: torch.Tensor
) -> torch.Tensor:
    """(n, C) similarity of each query with its candidates (n, C) among the keys."""
    similarity = queries.new_empty(candidates.shape)
    rows = _rows_that_fit(candidates.shape[1] * keys.shape[1], len(queries), keys.device)
    buffer = queries.new_empty(rows * candidates.shape[1], keys.shape[1])
    for start in range(0, len(queries), rows):
        part = slice(start, start + rows)
        wanted = candidates[part].flatten()
        again = torch.index_select(keys, 0, wanted, out=buffer[: len(wanted)])
        again = again.view(-1, candidates.shape[1], keys.shape[1])  # (rows, C, E)
        torch.bmm(again, queries[part].unsqueeze(2), out=similarity[part].unsqueeze(2))
    return similarity


def _best_groups(
    queries: torch.Tensor,
    query_ids: torch.Tensor,
    keys: torch.Tensor,
    key_ids: torch.Tensor,
    key_order: torch.Tensor,
    refused_keys: torch.Tensor | None,
    step: int,
    count: int,
) -> torch.Tensor:
    """(n, ≤ count) the groups with the best maxima of each query, what is refused left out.

    Keys are taken `step` at a time. A group is those that lie step / GROUP apart in such a block,
    so that the maxima of many groups are taken at once, side by side. All buffers are used again
    and again: memory that was never touched costs more than what is done with it.
    """
    ids, counts = query_ids.unique_consecutive(return_counts=True)
    first_row = [0, *counts.cumsum(0).tolist()]
    left = torch.searchsorted(key_ids, ids).tolist()
    right = torch.searchsorted(key_ids, ids, right=True).tolist()
    apart, blocks = step // GROUP, -(-len(keys) // step)
    together = min(blocks, -(-TOPK_COLUMNS * count // apart))  # blocks whose maxima fill a buffer
    similarity, maxima = (queries.new_empty(len(queries), n) for n in (step, together * apart))
    some = keys.new_zeros(step, keys.shape[1])
    values, groups = [], []
    for block in range(blocks):
        start, stop = block * step, min((block + 1) * step, len(keys))
        torch.index_select(keys, 0, key_order[start:stop], out=some[: stop - start])
        torch.mm(queries, some.T, out=similarity)
        similarity[:, stop - start :] = float('-inf')
        if refused_keys is not None:
            other = refused_keys[:, key_order[start:stop]]
            similarity[:, : stop - start].masked_fill_(other, float('-inf'))
        for row in range(bisect_right(right, start), bisect_left(left, stop)):
            same = slice(max(left[row] - start, 0), right[row] - start)
            similarity[first_row[row] : first_row[row + 1], same] = float('-inf')
        begin = block % together * apart
        block_maxima = maxima[:, begin : begin + apart]
        torch.amax(similarity.view(len(queries), GROUP, apart), 1, out=block_maxima)
        if begin + apart == maxima.shape[1] or block == blocks - 1:
            filled = maxima[:, : begin + apart]
            best = filled.topk(min(count, filled.shape[1]), sorted=False)
            values.append(best.values)
            groups.append(best.indices + (block // together * together) * apart)
    best = torch.cat(values, 1)
    best = best.topk(min(count, best.shape[1]), sorted=False).indices
    return torch.cat(groups, 1).gather(1, best)
