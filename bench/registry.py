"""The rows, in the order they are measured; a new one is a line here."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from bench.results import BenchError, BenchSettings, Row

ROWS = {
    'P1': 'bench.answer_latency',
    'P1T': 'bench.answer_tail',
    'P2': 'bench.image_decode',
    'P3': 'bench.sentence_cache',
    'P4': 'bench.recorder_cost',
    'P5': 'bench.recorder_speed',
    'P6': 'bench.overload',
    'P8': 'bench.retrieval_ranks',
    'P7': 'bench.contrastive_time',
    'P7M': 'bench.contrastive_memory',
    'P9': 'bench.training_feed',
    'P10': 'bench.bag_memory',
    'P11': 'bench.bag_feed',
    'P12': 'bench.joint_batch',
    'P13': 'bench.negative_mining',
    'P14': 'bench.candidates',
    'P15': 'bench.tick_lateness',
    'P16': 'bench.idle_cost',
    'P17': 'bench.recorder_loss',
}

GPU_ROWS = {  # what a GPU changes, and what it is worth
    'G1': 'bench.gpu_decision',
    'G2': 'bench.gpu_training',
    **{key: ROWS[key] for key in ('P1', 'P3', 'P7', 'P7M', 'P9', 'P14')},
}


def rows_on(device: str) -> dict[str, str]:
    """Key and module of every row that is measured on 'cpu' or 'cuda'."""
    return ROWS if device == 'cpu' else GPU_ROWS


def choose(names: str, device: str = 'cpu') -> list[str]:
    """The row keys of 'P2,P3'; all for an empty text. `BenchError` for an unknown one."""
    there = rows_on(device)
    wanted = [name.strip().upper() for name in names.split(',') if name.strip()]
    unknown = [name for name in wanted if name not in there]
    if unknown:
        raise BenchError(
            f'no row {", ".join(unknown)} on {device}; there are {", ".join(there)}'
        )
    return [name for name in there if not wanted or name in wanted]


def runner(key: str) -> Callable[[BenchSettings], Row]:
    """The function that measures a row; its module is imported only now."""
    return import_module((ROWS | GPU_ROWS)[key]).run
