"""The folder of a training job: what was asked for, kept beside what comes of it.

    run_000007_20261123T101500Z/
      job.json  episodes.txt  config.yaml     what is trained, on what, how: fixed when it begins
      train.log  progress.json  state.safetensors  tensorboard/  checkpoint/   of `vla_train`
      verdict.json                            of `acceptance`

The list of episodes is fixed, so that recording may go on meanwhile, and a run that was stopped
goes on with what it began with.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
import json
from pathlib import Path
import re

from vla_alignment_ros.data.bag import find_episodes
from vla_alignment_ros.errors import BagError, ConfigError
from vla_alignment_ros.fields import build
from vla_alignment_ros.resources import package_path, shipped_yaml
from vla_alignment_ros.training.config import TrainConfig
from vla_alignment_ros.training.progress import PROGRESS_FILE, STATE_FILE
from vla_alignment_ros.training.verdict import VERDICT_FILE

JOB_FILE, EPISODES_FILE, CONFIG_FILE = 'job.json', 'episodes.txt', 'config.yaml'
LOG_FILE = 'train.log'
_NAME = re.compile(r'run_(\d{6,})_\d{8}T\d{6}Z')


@dataclass(frozen=True)
class Task:
    """What is to be trained: all that decides the weights."""

    data: str  # folder of episodes
    config: str  # name of a file in config/train, or a YAML file
    steps: int = 0  # optimiser steps; 0: as the config says
    seed: int = 0
    from_checkpoint: str = ''  # folder of the weights it begins with; '' from zero
    correction_weight: float = 1.0  # see `DataConfig.correction_weight`
    threads: int = 0  # torch threads per process; 0: measured


@dataclass(frozen=True)
class Run:
    """A job's folder and what is trained there."""

    folder: Path  # absolute
    task: Task
    steps: int  # in all
    episodes: int  # listed, failed ones included

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def episode_list(self) -> Path:
        return self.folder / EPISODES_FILE

    @property
    def log(self) -> Path:
        return self.folder / LOG_FILE

    def arguments(self) -> list[str]:
        """What to give to `vla_train`; it goes on where it was."""
        task, folder = self.task, self.folder
        start = ['--from-checkpoint', task.from_checkpoint] if task.from_checkpoint else []
        return [
            '--data', str(self.episode_list), '--out', str(folder), '--resume',
            '--config', str(folder / CONFIG_FILE), '--optimizer.steps', str(self.steps),
            '--seed', str(task.seed), '--threads', str(task.threads),
            '--data.correction-weight', str(task.correction_weight), *start,
        ]  # fmt: skip

    def unfinished(self) -> bool:
        """Whether there is something to go on with: saved, and not trained and judged yet."""
        return (self.folder / STATE_FILE).is_file() and not (self.folder / VERDICT_FILE).is_file()

    def clear(self) -> None:
        """Remove what an earlier attempt said, and what a killed one left half written."""
        stale = [self.folder / PROGRESS_FILE, self.folder / VERDICT_FILE]
        for path in (*stale, *self.folder.glob(f'.{STATE_FILE}.*')):
            with suppress(OSError):  # it is replaced anyway
                path.unlink(missing_ok=True)


def new_run(root: Path, task: Task) -> Run:
    """Make the folder of a new run.

    Raises:
        ConfigError: there is no such config, no episode, or no room.
        BagError: no such folder of episodes.
    """
    text, config = _config(task.config)
    episodes = [path.resolve() for path in find_episodes(Path(task.data).expanduser())]
    if not episodes:
        raise BagError(f'no episode in {task.data}: record some first')
    steps = task.steps or config.optimizer.steps
    try:
        root.mkdir(parents=True, exist_ok=True)
        run = Run(_claim(root.resolve()), task, steps, len(episodes))
        _write(run.folder / CONFIG_FILE, text)
        _write(run.episode_list, ''.join(f'{path}\n' for path in episodes))
        facts = {'task': asdict(task), 'steps': run.steps, 'episodes': run.episodes}
        _write(run.folder / JOB_FILE, json.dumps(facts, indent=1) + '\n')
    except OSError as error:
        raise ConfigError(f'cannot begin a run in {root}: {error}') from error
    return run


def newest_run(root: Path) -> Run | None:
    """The run that was begun last; None where there is none.

    Raises:
        ConfigError: what it was asked for cannot be read.
    """
    found = sorted(path for path in root.glob('run_*') if _NAME.fullmatch(path.name))
    if not found:
        return None
    file = found[-1].resolve() / JOB_FILE
    try:
        data = json.loads(file.read_text(encoding='utf-8'))
        task = build(Task, data['task'], str(file), ConfigError, lambda field, value: value)
        return Run(file.parent, task, int(data['steps']), int(data['episodes']))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f'{file} is damaged ({error}): begin a new run') from error


def _config(name: str) -> tuple[str, TrainConfig]:
    """Text and settings of a training config, by the name of a shipped one or as a file."""
    path = Path(name).expanduser()
    if re.fullmatch(r'[A-Za-z0-9_-]+', name):
        folder = package_path('config', 'train')
        path = shipped_yaml(folder, name, 'training config named', ConfigError)
    elif path.suffix not in ('.yaml', '.yml'):
        raise ConfigError(f'training config {name!r} is neither a name nor a YAML file')
    config = TrainConfig.load(path)
    return path.read_text(encoding='utf-8'), config


def _claim(root: Path) -> Path:
    """A new folder, numbered after all that were ever begun here."""
    numbers = [_NAME.fullmatch(path.name) for path in root.iterdir()]
    number = 1 + max((int(found[1]) for found in numbers if found), default=-1)
    utc = datetime.now(timezone.utc).strftime('%Y%m%dT%H%M%SZ')
    while True:
        folder = root / f'run_{number:06d}_{utc}'
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
        number += 1


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding='utf-8')
