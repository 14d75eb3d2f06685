"""Embeddings to rank, two ways to rank them, and a process that says how much memory that took."""

from __future__ import annotations

import json
import sys

import torch

from bench.read_bag import memory_bytes
from vla_alignment_ros.evaluation.retrieval import Retrieval, retrieve_embeddings

WIDTH = 512
OURS, COUNTED = 'ours', 'counted'
CHUNK = 4096  # rows and columns of a block of the reference, as open_clip has it


def pairs(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scenes and sentences (N, WIDTH) of length 1; row i belongs to row i, more or less."""
    generator = torch.Generator().manual_seed(seed)
    sides = torch.empty(2, count, WIDTH)
    for start in range(0, count, 1000):  # in parts, so that making them is not the peak
        shared = torch.randn(min(1000, count - start), WIDTH, generator=generator)
        for side in sides:
            noise = torch.randn(shared.shape, generator=generator)
            part = shared + 3.0 * noise
            side[start : start + 1000] = part / part.norm(dim=1, keepdim=True)
    return sides[0], sides[1]


def ours(scenes: torch.Tensor, sentences: torch.Tensor) -> Retrieval:
    """What the evaluation does."""
    ids = torch.arange(len(scenes))
    return retrieve_embeddings(scenes, sentences, ids, ids)


@torch.no_grad()
def counted(scenes: torch.Tensor, sentences: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ranks of the diagonal in both directions (0 is best), as open_clip's metrics count them.

    Block by block: how many are more similar, and of those as similar, how many come before.
    """
    target = torch.cat(
        [(a @ b.T).diagonal() for a, b in zip(scenes.split(CHUNK), sentences.split(CHUNK))]
    )
    place = torch.arange(len(scenes))
    ranks = torch.zeros(2, len(scenes), dtype=torch.long)
    for r in place.split(CHUNK):
        for c in place.split(CHUNK):
            scores = scenes[r[0] : r[-1] + 1] @ sentences[c[0] : c[-1] + 1].T
            rows, columns = target[r][:, None], target[c][None, :]
            before = c[None, :] < r[:, None]
            ranks[0, r] += ((scores > rows) | ((scores == rows) & before)).sum(dim=1)
            before = r[:, None] < c[None, :]
            ranks[1, c] += ((scores > columns) | ((scores == columns) & before)).sum(dim=0)
    return ranks[0], ranks[1]


@torch.no_grad()
def sorted_rows(
    scenes: torch.Tensor, sentences: torch.Tensor, queries: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ranks of the first queries by sorting whole rows, both directions: the textbook way."""
    place = torch.arange(queries)[:, None]
    found = []
    for one, other in ((scenes, sentences), (sentences, scenes)):
        order = torch.argsort(one[:queries] @ other.T, dim=1, descending=True)
        found.append(torch.where(order == place)[1])
    return found[0], found[1]


def main(how: str, count: str) -> None:
    """Rank once, and print the memory that it took beyond its inputs, in bytes."""
    torch.set_num_threads(1)
    rank = {OURS: ours, COUNTED: counted}[how]
    rank(*pairs(64))  # code and buffers of the libraries are not the ranking's memory
    inputs = pairs(int(count))
    before = memory_bytes('VmRSS')
    rank(*inputs)
    print(json.dumps({'before': before, 'added': memory_bytes('VmHWM') - before}))


if __name__ == '__main__':
    main(*sys.argv[1:])
