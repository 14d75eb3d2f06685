"""`vla_train`: from folders of recorded episodes to a checkpoint folder."""

from __future__ import annotations

from contextlib import suppress
import copy
from dataclasses import dataclass, field, replace
import errno
import logging
from pathlib import Path
import sys
from typing import Annotated, TYPE_CHECKING

import tyro

from vla_alignment_ros.data.lerobot.keys import LeRobotKeys
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ConfigError, VlaError
from vla_alignment_ros.training.config import TrainConfig
from vla_alignment_ros.training.progress import (
    FAILED,
    Progress,
    read_progress,
    STATE_FILE,
    write_progress,
)

if TYPE_CHECKING:  # torch and its libraries take seconds; --help must not
    from vla_alignment_ros.training.trainer import Trainer

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room on the disk, or not for this user


@dataclass(frozen=True)
class Options:
    """Train a policy on recorded episodes.

    The result is OUT/checkpoint (weights, config, tokenizer). A run that was stopped with Ctrl-C,
    or killed, goes on exactly where it was with --resume.
    """

    data: tuple[Path, ...]
    """Folders of episodes, as training_node or the simulator's recorder wrote them; text files
    that list episodes, one a line; or lerobot:FOLDER, a LeRobotDataset v3.0."""
    out: Path
    """Folder of this run."""
    config: Path | None = None
    """YAML file with settings (config/train/*.yaml); flags win over it."""
    embodiment: str | None = None
    """Name or YAML file of the embodiment to read the bags with, instead of the one inside them
    (to add a calibration, say); LeRobot folders of others have none inside."""
    lerobot_keys: Path | None = None
    """YAML file that says which feature of a LeRobot folder is which camera, joint and action,
    where the names do not tell (docs/lerobot.md)."""
    from_checkpoint: Path | None = None
    """Checkpoint folder whose weights, words and units of measure it begins with, instead of from
    zero; settings of the model have to be those it was trained with."""
    resume: bool = False
    """Go on from OUT's saved state, if there is one."""
    train: Annotated[TrainConfig, tyro.conf.arg(name='')] = field(default_factory=TrainConfig)


def main(argv: list[str] | None = None) -> int:
    """Entry point; 0 done, 2 a mendable error (one line), 130 stopped (and saved, if it ran)."""
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    logging.getLogger('httpx').setLevel(logging.WARNING)
    arguments = sys.argv[1:] if argv is None else argv
    try:
        path = _train(_parse(arguments))
    except VlaError as error:
        print(f'vla_train: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('vla_train: interrupted', file=sys.stderr)
        return 130
    if path is None:
        return 130
    print(f'checkpoint: {path}')
    return 0


def _train(options: Options) -> Path | None:
    """Train as asked; the checkpoint's folder, or None when it was stopped."""
    import torch

    from vla_alignment_ros.alignment.distributed import largest
    from vla_alignment_ros.training.state import read_meta
    from vla_alignment_ros.training.trainer import Trainer

    threads = options.train.threads
    if threads < 0:
        raise ConfigError('threads must be 0 (measure) or a number of threads')
    state = options.out / STATE_FILE
    if state.exists() and not options.resume:
        raise ConfigError(
            f'{options.out} already holds a run; add --resume to go on, or choose another --out'
        )
    if not threads and state.exists():
        threads = int(read_meta(state).get('threads', 0))  # rounding depends on it
    torch.set_num_threads(threads or 1)
    given = None if options.embodiment is None else Embodiment.load(options.embodiment)
    keys = None if options.lerobot_keys is None else LeRobotKeys.load(options.lerobot_keys)
    try:
        trainer = Trainer(
            options.train, list(options.data), options.out, given, options.from_checkpoint, keys
        )
        if not threads:
            # the same in all processes: rounding depends on it
            torch.set_num_threads(largest(measure_threads(trainer), trainer.device))
            print(f'torch threads: {torch.get_num_threads()}')
        return trainer.run(resume=options.resume)
    except OSError as error:
        if error.errno not in FULL:
            raise
        full = ConfigError(f'{options.out} cannot be written: {error.strerror}; make room')
        _note(options.out, full)
        raise full from error
    except VlaError as error:
        _note(options.out, error)
        raise


def _note(out: Path, error: VlaError) -> None:
    """Leave the reason in the run's progress file, for whoever watches it."""
    before = read_progress(out) or Progress()
    with suppress(OSError):  # no run yet, or no room: it is in the log as well
        write_progress(out, replace(before, state=FAILED, error=str(error)))


def _parse(arguments: list[str]) -> Options:
    """Flags over the YAML file named by --config over the defaults."""
    default = TrainConfig()
    for index, argument in enumerate(arguments):
        if argument == '--config' and index + 1 < len(arguments):
            default = TrainConfig.load(Path(arguments[index + 1]))
        elif argument.startswith('--config='):
            default = TrainConfig.load(Path(argument.split('=', 1)[1]))
    # flags are --optimizer.steps, not --train.optimizer.steps
    return tyro.cli(
        Options,
        args=arguments,
        prog='vla_train',
        default=Options(data=tyro.MISSING, out=tyro.MISSING, train=default),
    )


def measure_threads(trainer: Trainer) -> int:
    """Set and return the better number of torch threads for the vision tower, forth and back."""
    from vla_alignment_ros.policy.threads import fastest_threads

    images = trainer.stream.at(0)['images']
    vision = copy.deepcopy(trainer.model.vision).eval()
    return fastest_threads(lambda: vision(images).tokens.sum().backward())


if __name__ == '__main__':
    sys.exit(main())
