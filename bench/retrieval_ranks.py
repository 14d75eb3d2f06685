"""P8: retrieval ranks of many embeddings in both directions, against the way of open_clip."""

from __future__ import annotations

import json
from pathlib import Path
import subprocess
import sys

import numpy as np
import torch

from bench.rank_embeddings import COUNTED, counted, OURS, ours, pairs, sorted_rows
from bench.results import BenchError, BenchSettings, Row
from bench.timing import seconds, take_turns

COUNT, SORTED = 50_000, 500
MIB = 2**20
ROOT = Path(__file__).resolve().parents[1]


def run(settings: BenchSettings) -> Row:
    """Time in this process, taking turns; memory in a fresh process each."""
    torch.set_num_threads(settings.threads)
    count, some = settings.size(COUNT, 2000), settings.size(SORTED, 50)
    scenes, sentences = pairs(count)
    _agree(scenes[: min(count, 3000)], sentences[: min(count, 3000)])
    samples = take_turns(
        {
            'ours': seconds(lambda: ours(scenes, sentences)),
            'counted': seconds(lambda: counted(scenes, sentences)),
            'sorted': seconds(lambda: sorted_rows(scenes, sentences, some)),
        },
        rounds=settings.size(2, 1),
        warm_up=0,
    )
    measured = ((OURS, count // 4), (OURS, count), (COUNTED, count))
    memory = {(how, n): _added_mib(how, n) for how, n in measured}
    return Row(
        key='P8',
        title=f'retrieval ranks, {count} scenes and sentences',
        unit='s',
        ours=samples['ours'].p50,
        baseline=samples['counted'].p50,
        goal=0.6,
        ours_is='`retrieve_embeddings`: R@k, mean and median rank of both directions, right pairs '
        'by ids, mean positive similarity',
        baseline_is='the ranks of both directions alone, right pairs by position, as '
        "open_clip's metrics count them, restated in plain torch",
        figures={
            'baseline by sorting rows (from some of them)': samples['sorted'].p50 * count / some,
            'added memory, MiB': memory[OURS, count],
            'added memory for a quarter, MiB': memory[OURS, count // 4],
            'baseline: added memory, MiB': memory[COUNTED, count],
        },
    )


def _agree(scenes: torch.Tensor, sentences: torch.Tensor) -> None:
    """A figure is worth nothing if the two do not count the same ranks."""
    found, reference = ours(scenes, sentences), counted(scenes, sentences)
    for direction, ranks in zip((found.scene_to_sentence, found.sentence_to_scene), reference):
        mean = float(np.mean(ranks.numpy())) + 1
        if abs(direction.mean_rank - mean) > 1e-3 * mean:
            raise BenchError(f'P8: mean rank {direction.mean_rank} against {mean}')


def _added_mib(how: str, count: int) -> float:
    command = [sys.executable, '-m', 'bench.rank_embeddings', how, str(count)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if result.returncode:
        raise BenchError(f'ranking {count} rows failed:\n{result.stderr[-2000:]}')
    return max(json.loads(result.stdout)['added'], 1) / MIB
