"""A row and a run: their form in JSON, on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import json
import math
import os
from pathlib import Path
import platform
from typing import Any

from vla_alignment_ros.errors import ConfigError, VlaError

RUN_KEY = 'run'  # beside the rows: where, when and how they were measured


class BenchError(VlaError):
    """A row cannot be measured; the message says what to do about it."""


@dataclass(frozen=True)
class BenchSettings:
    """What every row is given."""

    checkpoint: Path
    folder: Path  # scratch, removed at the end
    quick: bool = False  # a few turns on tiny inputs: for looking whether it works
    threads: int = 1  # of torch
    device: str = 'cpu'  # or 'cuda'; on 'cpu' nothing sees a GPU

    def size(self, full: int, quick: int) -> int:
        """A number of turns, ticks or messages."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Row:
    """One comparison. `ours`, `baseline` and `figures` carry `unit` unless their name says so."""

    key: str
    title: str
    unit: str
    ours: float
    baseline: float
    goal: float  # of the ratio
    ours_is: str
    baseline_is: str
    higher_is_better: bool = False
    figures: dict[str, float] = field(default_factory=dict)
    note: str = ''

    @property
    def ratio(self) -> float:
        return self.ours / self.baseline

    @property
    def met(self) -> bool:
        return self.ratio >= self.goal if self.higher_is_better else self.ratio <= self.goal

    @property
    def limit(self) -> str:
        """The goal with its direction, as '≤ 1.15'."""
        return f'{"≥" if self.higher_is_better else "≤"} {self.goal:g}'

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        for name in ('ours', 'baseline', 'ratio'):
            if not math.isfinite(getattr(self, name)):
                raise BenchError(f'{self.key}: {name} is {getattr(self, name)}')
        return {
            'title': self.title,
            'ours': _short(self.ours),
            'baseline': _short(self.baseline),
            'ratio': _short(self.ratio),
            'goal': self.goal,
            'better': 'higher' if self.higher_is_better else 'lower',
            'met': self.met,
            'unit': self.unit,
            'ours_is': self.ours_is,
            'baseline_is': self.baseline_is,
            'figures': {name: _short(value) for name, value in self.figures.items()},
            'note': self.note,
        }

    @classmethod
    def from_dict(cls, key: str, data: dict[str, Any]) -> Row:
        """What `to_dict` gave."""
        names = ('title', 'unit', 'ours', 'baseline', 'goal', 'ours_is', 'baseline_is')
        plain = {name: data[name] for name in names}
        higher = data['better'] == 'higher'
        return cls(
            key=key, higher_is_better=higher, figures=data['figures'], note=data['note'], **plain
        )


def _short(value: float) -> float:
    """Five significant digits: more than any of this repeats to."""
    return float(f'{value:.5g}')


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    import torch

    about: dict[str, Any] = {
        'cpu': _cpu_name(),
        'cores': len(os.sched_getaffinity(0)),
        'memory_gib': round(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30, 1),
        'system': f'{platform.system()} {platform.machine()}',
        'python': platform.python_version(),
        'torch': torch.__version__,
        'load_1min': round(os.getloadavg()[0], 2),
    }
    if torch.cuda.is_available():
        about['gpu'] = torch.cuda.get_device_name()
    return about


def _cpu_name() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        lines = []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def write(path: Path, rows: Sequence[Row], run: dict[str, Any]) -> None:
    """Rows by key, and `run`; replaced in one step."""
    data = {row.key: row.to_dict() for row in rows} | {RUN_KEY: run}
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    temporary.write_text(text + '\n', encoding='utf-8')
    os.replace(temporary, path)


def read(path: Path) -> tuple[list[Row], dict[str, Any]]:
    """What `write` wrote. `ConfigError` where there is none, or it is something else."""
    try:
        data = json.loads(path.read_text(encoding='utf-8'))
        run = data.pop(RUN_KEY)
        return [Row.from_dict(key, value) for key, value in data.items()], run
    except OSError as error:
        raise ConfigError(f'no results in {path} yet: run `make bench` first') from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f'{path} does not hold results ({error!r}): run `make bench`') from error


def terminal_table(rows: Sequence[Row]) -> str:
    """One line a row, then its figures."""
    lines = [
        f'{"row":4} {"what":46} {"ours":>9} {"baseline":>9} {"unit":9} {"ratio":>7} '
        f'{"goal":>7}  verdict'
    ]
    for row in rows:
        verdict = 'met' if row.met else 'MISSED'
        lines.append(
            f'{row.key:4} {row.title:46} {row.ours:9.4g} {row.baseline:9.4g} {row.unit:9} '
            f'{row.ratio:7.3f} {row.limit:>7}  {verdict}'
        )
        figures = [f'{name} {value:.4g}' for name, value in row.figures.items()]
        lines += [f'       {line}' for line in figures]
        if row.note:
            lines.append(f'       {row.note}')
    return '\n'.join(lines)


def _checkpoint_line(about: dict[str, Any] | None) -> list[str]:
    if about is None:
        return []
    millions = about['parameters'] / 1e6
    return [
        f'The checkpoint is for {about["embodiment"]}, has {millions:.1f} M parameters and was '
        f'trained for {about["training_steps"]} steps.'
    ]


def _load_line(about: dict[str, Any]) -> list[str]:
    load, cores = about['load_1min'], about['cores']
    if load < 0.5 * cores:
        return []
    return [
        '',
        f'**The machine was busy with other work** ({load} runnable processes on {cores} cores '
        'before it began): milliseconds are too high, and rows that need several processes suffer '
        'most. Measure again on an idle machine.',
    ]


def page(
    rows: Sequence[Row],
    run: dict[str, Any],
    gpu: tuple[Sequence[Row], dict[str, Any]] | None = None,
) -> str:
    """The performance page in Markdown; `gpu`: rows and run of a measurement on a GPU."""
    lines = [
        '# Performance',
        '',
        '`make bench` measures this table and writes `bench/results.json`; '
        '`python -m bench --table` writes this page from it. Both sides of a row take turns in '
        'one run and the medians are compared, so trust the ratios more than the figures.',
        '',
        *_table(rows, run),
    ]
    if gpu is not None:
        lines += [
            '',
            '## On a GPU',
            '',
            '`python -m bench --device cuda` measures what a GPU changes, beside the row as '
            'above, and writes `bench/results_gpu.json`.',
            '',
            *_table(*gpu),
        ]
    lines += _details(rows, '')
    if gpu is not None:
        lines += _details(gpu[0], ' on a GPU')
    return '\n'.join(lines) + '\n'


def _table(rows: Sequence[Row], run: dict[str, Any]) -> list[str]:
    about = run['machine']
    gpu = f', {about["gpu"]}' if 'gpu' in about else ', no GPU'
    lines = [
        f'Measured {run["date"]} on {about["cores"]} cores of {about["cpu"]}{gpu}, '
        f'Python {about["python"]}, torch {about["torch"]} with {run["threads"]} thread, '
        f'load {about["load_1min"]} before it began, with `{run["command"]}`.',
        *_checkpoint_line(run.get('checkpoint')),
        *_load_line(about),
        '',
        '| row | what | ours | baseline | unit | ratio | goal | verdict |',
        '|---|---|---|---|---|---|---|---|',
    ]
    lines += [
        f'| {row.key} | {row.title} | {row.ours:.4g} | {row.baseline:.4g} | {row.unit} '
        f'| {row.ratio:.3g} | {row.limit} | {"met" if row.met else "**missed**"} |'
        for row in rows
    ]
    return lines


def _details(rows: Sequence[Row], where: str) -> list[str]:
    lines: list[str] = []
    for row in rows:
        lines += ['', f'## {row.key}{where}: {row.title}', '']
        lines += [f'Ours: {row.ours_is}. Baseline: {row.baseline_is}.']
        if row.note:
            lines += ['', row.note]
        if row.figures:
            lines += ['', '| figure | value |', '|---|---|']
            lines += [f'| {name} | {value:.4g} |' for name, value in row.figures.items()]
    return lines
