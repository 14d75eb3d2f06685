"""Command line: `python -m bench` measures, `python -m bench --table` writes the page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
import os
from pathlib import Path
import shlex
import sys
import tempfile
import time
from typing import Any, Literal

import tyro

from bench.registry import choose, rows_on, runner
from bench.results import (
    BenchError,
    BenchSettings,
    machine,
    page,
    read,
    Row,
    terminal_table,
    write,
)
from vla_alignment_ros.errors import VlaError

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'bench' / 'results.json'
GPU_RESULTS = ROOT / 'bench' / 'results_gpu.json'
PAGE = ROOT / 'docs' / 'performance.md'
NEEDS_CHECKPOINT = ('G1', 'P1', 'P1T', 'P3', 'P6', 'P14', 'P15', 'P16', 'P17')


@dataclass(frozen=True)
class Options:
    """Measures what the package costs against peers and limits, and prints a table."""

    rows: str = ''
    """Only these rows, as P2,P3; all by default."""
    checkpoint: Path = Path('checkpoints/tabletop')
    """Checkpoint folder that is measured."""
    quick: bool = False
    """A few turns on tiny inputs: shows that it works, the figures mean nothing."""
    threads: int = 1
    """Torch threads."""
    device: Literal['cpu', 'cuda'] = 'cpu'
    """'cuda': the rows that a GPU changes, on the GPU; 'cpu': all rows, and none sees a GPU."""
    out: Path | None = None
    """Results file; by default bench/results.json (results_gpu.json on a GPU), and only after a
    whole run."""
    table: bool = False
    """Measure nothing: write docs/performance.md from bench/results.json."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one line where the user can mend something."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = tyro.cli(Options, args=arguments, prog='python -m bench')
    try:
        if options.table:
            return _write_page(options.out or RESULTS)
        with _device(options.device):
            return _run(options, _command(arguments))
    except VlaError as error:
        print(f'bench: {error}', file=sys.stderr)
        return 2


@contextmanager
def _device(name: str) -> Iterator[None]:
    """This process and its children see the GPU, or none of them does."""
    if name == 'cuda':
        import torch

        if not torch.cuda.is_available():
            raise BenchError('torch sees no GPU: leave out --device cuda')
        yield
        return
    seen = os.environ.get('CUDA_VISIBLE_DEVICES')
    os.environ['CUDA_VISIBLE_DEVICES'] = ''
    try:
        yield
    finally:
        if seen is None:
            del os.environ['CUDA_VISIBLE_DEVICES']
        else:
            os.environ['CUDA_VISIBLE_DEVICES'] = seen


def _command(arguments: list[str]) -> str:
    """As it can be typed again; where the results went is left out."""
    kept = list(arguments)
    if '--out' in kept:
        place = kept.index('--out')
        del kept[place : place + 2]
    return shlex.join(['python', '-m', 'bench', *kept])


def _write_page(results: Path) -> int:
    PAGE.parent.mkdir(exist_ok=True)
    gpu = read(GPU_RESULTS) if GPU_RESULTS.exists() else None
    PAGE.write_text(page(*read(results), gpu), encoding='utf-8')
    print(f'wrote {PAGE.relative_to(ROOT)}')
    return 0


def _run(options: Options, command: str) -> int:
    keys = choose(options.rows, options.device)
    about = {
        'command': command,
        'date': datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
        'quick': options.quick,
        'threads': options.threads,
        'machine': machine(),
    }
    if set(keys) & set(NEEDS_CHECKPOINT):
        about['checkpoint'] = _about_checkpoint(options.checkpoint)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix='vla_bench_') as folder:
        for key in keys:
            print(f'{key} … ', end='', flush=True, file=sys.stderr)
            start = time.monotonic()
            scratch = Path(folder) / key
            scratch.mkdir()
            settings = BenchSettings(
                options.checkpoint, scratch, options.quick, options.threads, options.device
            )
            row = runner(key)(settings)
            rows.append(row)
            took_s = time.monotonic() - start
            print(f'{row.ratio:.3f} (goal {row.limit}), {took_s:.0f} s', file=sys.stderr)
    about['load_1min_after'] = round(os.getloadavg()[0], 2)
    print(terminal_table(rows))
    whole = keys == list(rows_on(options.device)) and not options.quick
    published = RESULTS if options.device == 'cpu' else GPU_RESULTS
    path = options.out or (published if whole else None)
    if path is not None:
        write(path, rows, about)
        print(f'wrote {path}')
    return 0


def _about_checkpoint(folder: Path) -> dict[str, Any]:
    """Read before anything is measured: nobody should wait for a row that cannot be."""
    from vla_alignment_ros.policy.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(folder)
    return {
        'embodiment': checkpoint.embodiment.name,
        'parameters': sum(p.numel() for p in checkpoint.model.parameters()),
        'training_steps': checkpoint.training.get('steps'),
    }


if __name__ == '__main__':
    sys.exit(main())
