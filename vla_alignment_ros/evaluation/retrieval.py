"""Retrieval between scenes and sentences, streamed: which sentence fits, and which scene.

A scene may have several right sentences and a sentence several right scenes, so what is right is
said by ids and not by position. Ranks are counted, never sorted, and every tie goes against us:
embeddings that are all alike get the worst rank there is, not the best.

Shapes: V scenes, T sentences, E embedding width, G ids per row. The V × T matrix never exists;
memory is that of one block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
import math

import numpy as np
import torch
import torch.nn.functional as F

RECALL_AT = (1, 5, 10)
ROWS, COLUMNS = 512, 2048  # of a block: it stays in a core's cache while it is counted
ROUNDING = 16  # units in the last place within which two similarities count as equal
NO_ID = -1

# (R,) and (C,) indices of scenes and sentences → their similarities (R, C), higher fits better
BlockSimilarity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Direction:
    """How well queries find what is right for them; nan where no query has anything right."""

    queries: int  # that have at least one right item in the gallery; the others are left out
    left_out: int
    gallery: int
    recall: dict[int, float]  # k → share of queries with something right among the first k
    mean_rank: float  # 1 is best
    median_rank: float
    chance: float  # R@1 of drawing blindly

    def to_dict(self) -> dict[str, object]:
        """Plain values, None for what is not defined."""
        return {
            'queries': self.queries,
            'left_out': self.left_out,
            'gallery': self.gallery,
            **{f'recall_at_{k}': known(value) for k, value in self.recall.items()},
            'mean_rank': known(self.mean_rank),
            'median_rank': known(self.median_rank),
            'chance_recall_at_1': known(self.chance),
        }


@dataclass(frozen=True)
class Retrieval:
    """Both directions, and how similar right pairs are on average."""

    scene_to_sentence: Direction
    sentence_to_scene: Direction
    pairs: int  # right (scene, sentence) pairs
    positive_similarity: float  # their mean

    def to_dict(self) -> dict[str, object]:
        """Plain values, None for what is not defined."""
        return {
            'scene_to_sentence': self.scene_to_sentence.to_dict(),
            'sentence_to_scene': self.sentence_to_scene.to_dict(),
            'right_pairs': self.pairs,
            'mean_positive_similarity': known(self.positive_similarity),
        }


def known(value: float, digits: int = 6) -> float | None:
    """A rounded number for JSON, None for nan and infinities."""
    return round(float(value), digits) if math.isfinite(value) else None


def retrieve_embeddings(
    scenes: torch.Tensor,
    sentences: torch.Tensor,
    scene_ids: torch.Tensor,
    sentence_ids: torch.Tensor,
    rows: int = ROWS,
    columns: int = COLUMNS,
) -> Retrieval:
    """Retrieval by cosine of embeddings (V, E) and (T, E), normalised here; see `retrieve`."""
    held: list[torch.Tensor] = [sentence_ids[:0], sentences[:0]]

    def block(r: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        if held[0] is not c:  # the same columns come with many rows: normalise them once
            held[:] = c, _unit(_take(sentences, c))
        return _unit(_take(scenes, r)) @ held[1].T

    return retrieve(block, scene_ids, sentence_ids, rows, columns)


@torch.no_grad()
def retrieve(
    similarity: BlockSimilarity,
    scene_ids: torch.Tensor,
    sentence_ids: torch.Tensor,
    rows: int = ROWS,
    columns: int = COLUMNS,
) -> Retrieval:
    """Rank every sentence for every scene and the other way round.

    The rank of a query is 1 + the number of wrong items whose similarity is at least that of the
    best right one (equal within rounding is equal; what is not a number counts against us).

    Args:
        similarity: the similarities of a block; called about once per block.
        scene_ids, sentence_ids: (V,) or (V, G), (T,) or (T, G) int64; `NO_ID` fills up. A pair is
            right if its rows share an id.
        rows, columns: scenes and sentences of a block.
    """
    ids = tuple(x.unsqueeze(1) if x.ndim == 1 else x for x in (scene_ids, sentence_ids))
    # rows with equal ids side by side: most blocks then hold no right pair at all
    order = tuple(torch.argsort(x[:, 0], stable=True) for x in ids)
    device = order[0].device
    count = tuple(len(x) for x in order)
    best = [torch.full((n,), -math.inf, device=device) for n in count]
    right = [torch.zeros(n, dtype=torch.int64, device=device) for n in count]
    total = 0.0
    for r, c in _blocks(order, (rows, columns)):
        mask = _right(ids[0][r], ids[1][c])
        if mask is None:
            continue
        block = similarity(r, c)
        best = [b.to(block.dtype) for b in best]
        positive = block.masked_fill(~mask, -math.inf)
        for axis, index in ((0, r), (1, c)):
            best[axis][index] = torch.maximum(best[axis][index], positive.amax(1 - axis))
            right[axis][index] += mask.sum(1 - axis)
        total += float(block[mask].sum(dtype=torch.float64))
    eps = torch.finfo(best[0].dtype).eps
    floor = [b - ROUNDING * eps * b.abs().clamp_min(1.0) for b in best]
    below = [torch.zeros(n, dtype=torch.int64, device=device) for n in count]
    scratch: torch.Tensor | None = None
    for r, c in _blocks(order, (rows, columns)):
        block = similarity(r, c)
        mask = _right(ids[0][r], ids[1][c])
        if mask is not None:
            block = block.masked_fill(mask, -math.inf)
        # 0 and 1 as floats, and a product with ones: many times faster than summing booleans
        if scratch is None or scratch.shape != block.shape:
            scratch = torch.empty_like(block)
            ones = scratch.new_ones(block.shape[0]), scratch.new_ones(block.shape[1])
        torch.lt(block, floor[0][r].unsqueeze(1), out=scratch)
        below[0][r] += (scratch @ ones[1]).long()
        torch.lt(block, floor[1][c], out=scratch)
        below[1][c] += (ones[0] @ scratch).long()
    directions = [
        _direction(below[axis], right[axis], count[1 - axis]) for axis in (0, 1)
    ]
    pairs = int(right[0].sum())
    return Retrieval(*directions, pairs, total / pairs if pairs else math.nan)


def top(
    similarity: torch.Tensor, right: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The first k items of every query, for looking at: indices, similarities, whether right.

    similarity (Q, G), right (Q, G) bool → three (Q, min(k, G)). A wrong item stands before a
    right one of equal similarity, as in the ranks.
    """
    k = min(k, similarity.shape[1])
    wrong_first = torch.argsort(right.to(torch.uint8), dim=1, stable=True)
    ordered = similarity.gather(1, wrong_first)
    place = torch.argsort(ordered, dim=1, descending=True, stable=True)[:, :k]
    index = wrong_first.gather(1, place)
    return index, similarity.gather(1, index), right.gather(1, index)


def modality_gap(vision: torch.Tensor, language: torch.Tensor) -> float:
    """‖mean(v) − mean(l)‖ of normalised rows (N, E) and (M, E): Liang et al. 2022, 2203.02053."""
    centres = []
    for rows in (vision, language):
        parts = [_unit(part).double().sum(0) for part in rows.split(COLUMNS)]
        centres.append(torch.stack(parts).sum(0) / len(rows))
    return float((centres[0] - centres[1]).norm())


def uniformity(rows: torch.Tensor, chunk: int = COLUMNS) -> float:
    """Log of the mean exp(−2‖x − y‖²) over pairs of normalised rows (N, E): 0 is collapsed.

    Wang & Isola 2020, arXiv:2005.10242. Pairs of different rows, each once; nan below two rows.
    """
    count = len(rows)
    if count < 2:
        return math.nan
    total = 0.0
    for start in range(0, count, chunk):
        part = _unit(rows[start : start + chunk])
        for other in range(start, count, chunk):
            cosine = part @ _unit(rows[other : other + chunk]).T
            kernel = torch.exp(4.0 * cosine.clamp_max(1.0).double() - 4.0)
            total += float(kernel.triu(1).sum() if other == start else kernel.sum())
    return math.log(total / (count * (count - 1) / 2))


def _direction(below: torch.Tensor, right: torch.Tensor, gallery: int) -> Direction:
    answerable = right > 0
    wrong = gallery - right
    # right items were set to −∞ and so lie below; without a number to compare with, nothing does
    rank = torch.minimum(gallery - below, wrong)[answerable] + 1
    rank, blind = rank.cpu().numpy(), (right[answerable] / max(gallery, 1)).cpu().numpy()
    queries = len(rank)
    return Direction(
        queries,
        len(below) - queries,
        gallery,
        {k: float(np.mean(rank <= k)) if queries else math.nan for k in RECALL_AT},
        float(np.mean(rank)) if queries else math.nan,
        float(np.median(rank)) if queries else math.nan,
        float(np.mean(blind)) if queries else math.nan,
    )


def _blocks(
    order: tuple[torch.Tensor, torch.Tensor], size: tuple[int, int]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Index pairs of all blocks; the columns change slowly."""
    if not all(len(x) for x in order):
        return
    for columns in order[1].split(size[1]):
        for rows in order[0].split(size[0]):
            yield rows, columns


def _right(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor | None:
    """Which pairs of a block share an id: ids (R, G), (C, G') → (R, C) bool; None where none."""
    rows_used, columns_used = rows[rows != NO_ID], columns[columns != NO_ID]
    if not torch.isin(rows_used, columns_used).any():
        return None
    mask = torch.zeros(len(rows), len(columns), dtype=torch.bool, device=rows.device)
    for one in rows.T:
        for other in columns.T:
            mask |= (one.unsqueeze(1) == other) & (one != NO_ID).unsqueeze(1)
    return mask


def _take(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows of `values`; a view where the index is a run."""
    first, last = int(index[0]), int(index[-1])
    run = last - first + 1 == len(index) and bool((index[1:] > index[:-1]).all())
    return values[first : last + 1] if run else values[index]


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return F.normalize(rows, dim=-1)
