"""Every alignment strategy on the same data with the same budget: `python -m bench.compare`.

Demonstrations are recorded once. Each run (strategy × seed) is trained, its alignment measured and
its policy run in closed loop, in a folder of its own; what is there is not made again, so a run
that was stopped goes on. The figures of a finished run are kept in docs/results/compare, and with
them the run need not be made again on another machine either. After each run
docs/alignment_comparison.md is written: mean and spread over the seeds that are there;
closed-loop episodes of all seeds are counted together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import json
from pathlib import Path
import statistics
import sys
from typing import Any

from rich.console import Console
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
import tyro
import yaml

from vla_alignment_ros.cli.stages import run_stages, Stage
from vla_alignment_ros.errors import ConfigError, VlaError
from vla_alignment_ros.evaluation.stats import wilson_interval

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'config' / 'train'
SPEED = 'speed/samples_per_cpu_s'
NOISE = 0.3  # share of wrong sentences in the second table
NOISY = ('clip', 'align')


@dataclass(frozen=True)
class Options:
    """Train and measure every strategy alike, and write the table."""

    out: Path = Path('runs/compare')
    """Folder for demonstrations and runs."""
    strategies: str = 'clip,siglip,align,hierarchical,dynamic,vla,grounded,tabletop'
    """Names of files in config/train, separated by commas."""
    demonstrations: int = 600
    """Episodes that the expert demonstrates."""
    steps: int = 400
    """Optimiser steps of each run, 64 samples each."""
    seeds: int = 3
    """Runs of each strategy."""
    scenes: int = 100
    """Scenes of each split on which the alignment is measured."""
    episodes: int = 20
    """Closed-loop episodes of each split and run."""
    scene_seed: int = 2000
    """Number of the first scene; the shipped checkpoint is reported on others."""
    results: Path = ROOT / 'docs' / 'results' / 'compare'
    """Folder that keeps the figures of finished runs; those that are there are not made again."""
    page: Path = ROOT / 'docs' / 'alignment_comparison.md'
    """The table."""
    threads: int = 1
    """Torch threads."""
    table_only: bool = False
    """Write the table of the runs that are there, and make none."""


@dataclass(frozen=True)
class Run:
    """One training run of a strategy, with or without wrong sentences."""

    strategy: str
    seed: int
    mislabel: float = 0.0

    @property
    def name(self) -> str:
        noise = f'_noise{round(100 * self.mislabel)}' if self.mislabel else ''
        return f'{self.strategy}{noise}_seed{self.seed}'


def planned(options: Options) -> list[Run]:
    """All runs, seed by seed, so that a table can be written before the last seed is there.

    Raises ConfigError for a strategy without a file.
    """
    names = [name.strip() for name in options.strategies.split(',') if name.strip()]
    for name in names:
        if not (CONFIGS / f'{name}.yaml').is_file():
            known = ', '.join(sorted(path.stem for path in CONFIGS.glob('*.yaml')))
            raise ConfigError(f'no config/train/{name}.yaml; there are {known}')
    runs = []
    for seed in range(options.seeds):
        runs += [Run(name, seed) for name in names]
        runs += [Run(name, seed, NOISE) for name in NOISY if name in names]
    return runs


def stages(run: Run, options: Options) -> list[Stage]:
    """Training, alignment and closed loop of one run."""
    folder = options.out / run.name
    config = CONFIGS / f'{run.strategy}.yaml'
    python = (sys.executable, '-m')
    checkpoint = str(folder / 'training' / 'checkpoint')
    # wrong sentences would be given away by what recorders noted about the scene
    noise = ('--data.mislabel', str(run.mislabel), '--data.no-labels') if run.mislabel else ()
    return [
        Stage(
            'training',
            (
                *python, 'vla_alignment_ros.cli.vla_train',
                '--data', str(options.out / 'demonstrations'), '--out', str(folder / 'training'),
                '--config', str(config), '--seed', str(run.seed), '--threads',
                str(options.threads), '--optimizer.steps', str(options.steps),
                '--validate-every', str(options.steps), *noise, '--resume',
            ),
            {'config': config.read_text(encoding='utf-8'), 'steps': options.steps,
             'demonstrations': options.demonstrations, 'mislabel': run.mislabel},
        ),
        Stage(
            'alignment',
            (
                *python, 'vla_alignment_ros.cli.vla_evaluate', '--checkpoint', checkpoint,
                '--alignment', '--episodes', str(options.scenes), '--seed',
                str(options.scene_seed), '--json', str(folder / 'alignment.json'),
            ),
            {'scenes': options.scenes, 'scene_seed': options.scene_seed},
        ),
        Stage(
            'closed_loop',
            (
                *python, 'vla_alignment_ros.cli.vla_evaluate', '--checkpoint', checkpoint,
                '--splits', 'seen,unseen_objects', '--episodes', str(options.episodes), '--seed',
                str(options.scene_seed), '--json', str(folder / 'closed_loop.json'),
                '--in-process',
            ),
            {'episodes': options.episodes},
        ),
    ]  # fmt: skip


# -- what is kept ---------------------------------------------------------------------------------


def settings(run: Run, options: Options) -> dict[str, Any]:
    """Everything that the figures of a run depend on."""
    return {
        'strategy': run.strategy,
        'config': yaml.safe_load((CONFIGS / f'{run.strategy}.yaml').read_text(encoding='utf-8')),
        'seed': run.seed,
        'mislabel': run.mislabel,
        **{
            name: getattr(options, name)
            for name in ('demonstrations', 'steps', 'scenes', 'episodes', 'scene_seed')
        },
    }


def kept(run: Run, options: Options) -> dict[str, Any] | None:
    """The figures of a finished run; None if it is not there.

    Raises ConfigError where what is there was made with other settings.
    """
    path = options.results / f'{run.name}.json'
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding='utf-8'))
    wanted = json.loads(json.dumps(settings(run, options)))
    if differing := [key for key in wanted if found['settings'].get(key) != wanted[key]]:
        raise ConfigError(
            f'{path} was made with other settings ({", ".join(differing)}); delete it to make it '
            f'anew, or give another --results'
        )
    return found['figures']


def keep(run: Run, options: Options) -> None:
    """Write what a finished run came to, whole or not at all."""
    options.results.mkdir(parents=True, exist_ok=True)
    content = {'settings': settings(run, options), 'figures': figures(options.out / run.name)}
    path = options.results / f'{run.name}.json'
    temporary = path.with_suffix('.tmp')
    temporary.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')
    temporary.replace(path)


# -- figures --------------------------------------------------------------------------------------


def figures(folder: Path) -> dict[str, Any]:
    """What one run came to."""
    alignment = json.loads((folder / 'alignment.json').read_text(encoding='utf-8'))
    loop = json.loads((folder / 'closed_loop.json').read_text(encoding='utf-8'))['splits']
    camera = next(iter(alignment['grounding']['seen']))
    pointing = {
        split: alignment['grounding'][split][camera]['sentence']['strict']
        for split in ('seen', 'unseen_objects')
    }
    classified = alignment['zero_shot']['regions']
    ranked = alignment['retrieval']['seen']['by_score']['scene_to_sentence']
    with safe_open(
        str(folder / 'training' / 'checkpoint' / 'model.safetensors'), framework='np'
    ) as file:
        parameters = sum(file.get_tensor(name).size for name in file.keys())
    return {
        'retrieval': ranked['recall_at_1'],
        'zero_shot': classified['unseen_objects']['pair_never_trained']['accuracy'],
        'pointing_seen': pointing['seen']['rate'],
        'pointing_unseen': pointing['unseen_objects']['rate'],
        'auroc_seen': alignment['matching']['seen']['auroc_same_scene'],
        'auroc_unseen': alignment['matching']['unseen_objects']['auroc_same_scene'],
        'swap': alignment['action_swap']['seen']['relative_change'],
        'seen': loop['seen'],
        'unseen': loop['unseen_objects'],
        'parameters': parameters,
        'speed': _speed(folder / 'training' / 'tensorboard'),
    }


def _speed(folder: Path) -> float | None:
    """Median training rate, samples per CPU second; None if the run was too short to log any."""
    events = EventAccumulator(str(folder), size_guidance={'scalars': 0})
    events.Reload()
    if SPEED not in events.Tags()['scalars']:
        return None
    return statistics.median(event.value for event in events.Scalars(SPEED))


def _spread(values: Sequence[float | None], scale: float = 100.0, digits: int = 0) -> str:
    known = [scale * value for value in values if value is not None]
    if not known:
        return '–'
    spread = f' ± {statistics.stdev(known):.{digits}f}' if len(known) > 1 else ''
    return f'{statistics.mean(known):.{digits}f}{spread}'


def _success(results: Sequence[dict[str, Any]]) -> str:
    count = sum(result['episodes'] for result in results)
    hits = round(sum(result['episodes'] * result['success_rate'] for result in results))
    low, high = wilson_interval(hits, count)
    return f'{100 * hits / count:.0f} [{100 * low:.0f}–{100 * high:.0f}]'


COLUMNS: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    'runs': lambda f: str(len(f)),
    'R@1 %': lambda f: _spread([x['retrieval'] for x in f]),
    'zero-shot, pairs never trained %': lambda f: _spread([x['zero_shot'] for x in f]),
    'pointing seen %': lambda f: _spread([x['pointing_seen'] for x in f]),
    'pointing unseen %': lambda f: _spread([x['pointing_unseen'] for x in f]),
    'AUROC seen': lambda f: _spread([x['auroc_seen'] for x in f], 1, 3),
    'AUROC unseen': lambda f: _spread([x['auroc_unseen'] for x in f], 1, 3),
    'swap sensitivity': lambda f: _spread([x['swap'] for x in f], 1, 2),
    'success seen %': lambda f: _success([x['seen'] for x in f]),
    'success unseen %': lambda f: _success([x['unseen'] for x in f]),
    'parameters, M': lambda f: f'{f[0]["parameters"] / 1e6:.2f}',
    'training samples per CPU second': lambda f: _spread([x['speed'] for x in f], 1),
}


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: strategy → figures of its runs."""
    lines = ['| strategy | ' + ' | '.join(COLUMNS) + ' |', '|---' * (len(COLUMNS) + 1) + '|']
    for name, runs in found.items():
        lines.append(f'| `{name}` | ' + ' | '.join(of(runs) for of in COLUMNS.values()) + ' |')
    return '\n'.join(lines)


def page(options: Options, runs: Sequence[Run], command: str) -> str:
    """The whole document, from the runs that are finished."""
    found: dict[float, dict[str, list[dict[str, Any]]]] = {0.0: {}, NOISE: {}}
    for run in runs:
        if (of := kept(run, options)) is not None:
            found[run.mislabel].setdefault(run.strategy, []).append(of)
    count = sum(len(of) for table in found.values() for of in table.values())
    left = f'\n**{count} of {len(runs)} runs are there yet.**\n' if count < len(runs) else ''
    return f"""# Alignment strategies compared
{left}
Every strategy with the same towers, {options.demonstrations} demonstrations, {options.steps} steps
of 64 samples and up to {options.seeds} seeds; mean ± standard deviation over those that
are there (column *runs*). The alignment is measured on {options.scenes} scenes of each split, the
closed loop on {options.episodes} episodes of each split and seed (counted together, with the 95 %
Wilson interval), both from scene {options.scene_seed} on. This budget is small: the figures rank
the strategies, they are not what a strategy can reach. What each figure means:
[alignment_metrics.md](alignment_metrics.md); when to choose which: [alignment.md](alignment.md).

`tabletop` is `vla+grounded`, which the shipped checkpoint is trained with. `grounded` and
`tabletop` use the labels of pixels; all others are told what is in a scene, and learn from the
demonstrations where to look.

{table(found[0.0])}

## With {round(100 * NOISE)} % wrong sentences

That share of the demonstrations was given the sentence of another one, and nothing that was noted
about scenes was used, since it would give the wrong ones away.

{table(found[NOISE])}

Made with

```bash
{command}
```
"""


def main(arguments: list[str] | None = None) -> int:
    """Command line; the exit code is that of the stage that failed, or 0."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = tyro.cli(Options, args=arguments, prog='python -m bench.compare')
    console = Console()
    try:
        runs = planned(options)
        record = Stage(
            'demonstrations',
            (
                sys.executable, '-m', 'vla_alignment_ros.sim.record', '--out',
                str(options.out / 'demonstrations'), '--episodes', str(options.demonstrations),
                '--workers', '2', '--resume',
            ),
            {'demonstrations': options.demonstrations},
        )  # fmt: skip
        missing = [run for run in runs if kept(run, options) is None]
        console.print(f'{len(runs) - len(missing)} of {len(runs)} runs are there')
        if options.table_only:
            missing = []
        if missing and (code := run_stages(options.out, [record], console)):
            return code
        given = [argument for argument in arguments if argument != '--table-only']
        command = ' '.join(['python -m bench.compare', *given])
        for run in missing:
            console.rule(run.name)
            if code := run_stages(options.out / run.name, stages(run, options), console):
                return code
            keep(run, options)
            options.page.write_text(page(options, runs, command), encoding='utf-8')
        options.page.write_text(page(options, runs, command), encoding='utf-8')
        console.print(f'table: {options.page}')
    except VlaError as error:
        print(f'compare: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
