"""A checkpoint is a folder: `model.safetensors`, `config.json`, `tokenizer.json`. Never pickle.

`config.json` holds all that is needed to run and to trust the weights: embodiment, model config,
data statistics, gate thresholds, horizon, training command, git revision and metrics. Saving is
atomic (a temporary folder renamed into place); loading checks every name and shape first and says
what is wrong, so a bad checkpoint never half-loads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import dataclasses
from dataclasses import dataclass, field
import json
import math
import os
from pathlib import Path
import shutil
import tempfile
from typing import Any

from safetensors import safe_open, SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
import torch

from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import CheckpointError, ConfigError, EmbodimentError
from vla_alignment_ros.fields import is_number
from vla_alignment_ros.observation import state_names
from vla_alignment_ros.policy.model import ModelConfig, VlaModel
from vla_alignment_ros.policy.normalizer import DataStatistics
from vla_alignment_ros.policy.towers import check_tokenizer

FORMAT = 1
WEIGHTS, CONFIG, TOKENIZER = 'model.safetensors', 'config.json', 'tokenizer.json'
MAX_WEIGHT_BYTES = 8 << 30
FLOATS = ('F64', 'F32', 'F16', 'BF16')  # as safetensors names them
MAX_CONFIG_BYTES = 16 << 20
MAX_TOKENIZER_BYTES = 64 << 20
AGAIN = 'take the folder again from where it was trained'
# what a config that makes no sense can raise while a model is built from it
_NONSENSE = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True)
class Calibration:
    """Raw vision–language score → probability of a match, and where the gate opens and closes.

    probability = sigmoid(slope · score + offset) (Platt scaling), fitted on matched against
    mismatched sentences of the validation episodes; `go`/`hold` are probabilities.
    """

    slope: float = 1.0
    offset: float = 0.0
    go: float = 0.0
    hold: float = 0.0

    def __post_init__(self) -> None:
        values = dataclasses.asdict(self)
        if not all(is_number(value) and math.isfinite(value) for value in values.values()):
            raise ConfigError(f'a calibration needs finite numbers, got {values}')
        if not 0.0 <= self.hold <= self.go <= 1.0:
            raise ConfigError(f'a calibration needs 0 ≤ hold ≤ go ≤ 1, got {values}')

    @property
    def fitted(self) -> bool:
        """False for the default, which leaves the gate open."""
        return self != Calibration()


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the model in eval mode, and everything it was trained with."""

    model: VlaModel
    tokenizer: Tokenizer
    embodiment: Embodiment
    statistics: DataStatistics
    calibration: Calibration
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(checkpoint: Checkpoint, folder: str | Path) -> Path:
    """Write the folder whole or not at all; an existing one is replaced at the last moment.

    Raises CheckpointError where it cannot be written.
    """
    config = {
        'format': FORMAT,
        'embodiment': checkpoint.embodiment.to_dict(),
        'model': dataclasses.asdict(checkpoint.model.config),
        'statistics': dataclasses.asdict(checkpoint.statistics),
        'calibration': dataclasses.asdict(checkpoint.calibration),
        'training': checkpoint.training,
        'metrics': checkpoint.metrics,
    }
    folder = Path(folder)
    state = checkpoint.model.state_dict()
    weights = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    try:
        with _whole_or_not(folder) as temporary:
            save_file(weights, str(temporary / WEIGHTS))
            _write_config(config, temporary)
            checkpoint.tokenizer.save(str(temporary / TOKENIZER))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f'cannot write {folder}: {error}') from error
    return folder


def save_recalibrated(
    source: str | Path, folder: str | Path, calibration: Calibration, note: dict[str, Any]
) -> Path:
    """A copy of a checkpoint folder with another calibration; whole or not at all.

    Weights and tokenizer are copied byte by byte. `folder` may be `source` itself. The note, of
    where the calibration comes from, is kept as `training.calibrated`.

    Raises:
        CheckpointError: the source cannot be read, or the copy cannot be written.
    """
    source, folder = Path(source), Path(folder)
    config = _read_config(source)
    config['calibration'] = dataclasses.asdict(calibration)
    config['training'] = {**config['training'], 'calibrated': note}
    try:
        with _whole_or_not(folder) as temporary:
            for name in (WEIGHTS, TOKENIZER):
                shutil.copyfile(source / name, temporary / name)
            _write_config(config, temporary)
    except OSError as error:
        raise CheckpointError(f'cannot write {folder}: {error}') from error
    return folder


@contextmanager
def _whole_or_not(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, which takes its place if nothing is raised."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.old.', dir=folder.parent))
            os.replace(folder, old / folder.name)
            os.replace(temporary, folder)
            shutil.rmtree(old)
        else:
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_config(config: dict[str, Any], folder: Path) -> None:
    text = json.dumps(config, indent=1, sort_keys=True)
    (folder / CONFIG).write_text(text + '\n', encoding='utf-8')


def load_checkpoint(folder: str | Path, device: str | torch.device = 'cpu') -> Checkpoint:
    """Read and verify a checkpoint folder.

    Raises:
        CheckpointError: a file is missing or broken, or names and shapes of the weights do not
            fit the config; the message names them.
    """
    folder = Path(folder)
    config = _read_config(folder)
    try:
        embodiment = Embodiment.from_dict(config['embodiment'])
        statistics = DataStatistics(**config['statistics'])
        calibration = Calibration(**config['calibration'])
        architecture = ModelConfig.from_dict(config['model'])
        _check_fit(architecture, embodiment)
        with torch.device('meta'):  # shapes without memory: the file decides how much is taken
            expected = VlaModel(architecture, statistics).state_dict()
    except _NONSENSE as error:
        raise CheckpointError(f'{folder / CONFIG} is incomplete: {error!r}; {AGAIN}') from error
    except (ConfigError, EmbodimentError) as error:
        raise CheckpointError(f'{folder / CONFIG}: {error}') from error
    weights = _weights(folder / WEIGHTS, expected)
    model = VlaModel(architecture, statistics)
    model.load_state_dict(weights)
    _check_size(folder / TOKENIZER, MAX_TOKENIZER_BYTES)
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # the tokenizers library raises a bare Exception
        raise CheckpointError(
            f'{folder / TOKENIZER} is not a tokenizer: {error}; {AGAIN}'
        ) from error
    try:
        check_tokenizer(model.config, model.config.vocabulary_size, tokenizer)
    except ConfigError as error:
        raise CheckpointError(f'{folder}: {error}') from error
    return Checkpoint(
        model.to(device).eval(),
        tokenizer,
        embodiment,
        statistics,
        calibration,
        config['training'],
        config['metrics'],
    )


def _read_config(folder: Path) -> dict[str, Any]:
    """The config of a folder that has all files. Raises CheckpointError."""
    if not folder.is_dir():
        raise CheckpointError(f'checkpoint folder not found: {folder}')
    missing = [name for name in (WEIGHTS, CONFIG, TOKENIZER) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f'checkpoint {folder} lacks {", ".join(missing)}')
    _check_size(folder / CONFIG, MAX_CONFIG_BYTES)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested without end
        raise CheckpointError(f'{folder / CONFIG} is not valid JSON: {error}; {AGAIN}') from error
    version = config.get('format') if isinstance(config, dict) else None
    if version != FORMAT:
        raise CheckpointError(
            f'{folder / CONFIG} has format {version!r}; this version reads format {FORMAT}'
        )
    for notes in ('training', 'metrics'):
        if not isinstance(config.setdefault(notes, {}), dict):
            raise CheckpointError(f'{folder / CONFIG}: {notes} must be a mapping')
    return config


def _check_size(path: Path, limit: int) -> None:
    if path.stat().st_size > limit:
        raise CheckpointError(
            f'{path} is larger than {limit >> 20} MiB: no {path.name} is; {AGAIN}'
        )


def _check_fit(architecture: ModelConfig, embodiment: Embodiment) -> None:
    """That a model sees what its robot has. Raises ConfigError."""
    cameras = {c.name: (c.height, c.width) for c in embodiment.cameras}
    if cameras != architecture.cameras:
        raise ConfigError(f'the model sees {architecture.cameras}, the embodiment has {cameras}')
    width = len(state_names(embodiment))
    if width != architecture.state_dim:
        raise ConfigError(
            f'the model reads a state of {architecture.state_dim} numbers, the embodiment '
            f'{embodiment.name!r} gives {width}'
        )


def _weights(path: Path, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file that fit the expected ones by name, shape and kind.

    The header is compared first; a tensor is only read once all of them fit.
    """
    _check_size(path, MAX_WEIGHT_BYTES)
    try:
        with safe_open(str(path), 'pt') as file:
            given = {name: file.get_slice(name) for name in file.keys()}
            shapes = {name: tuple(part.get_shape()) for name, part in given.items()}
            kinds = {name: part.get_dtype() for name, part in given.items()}
        absent = sorted(set(expected) - set(shapes))
        extra = sorted(set(shapes) - set(expected))
        known = [name for name in expected if name in shapes]
        wrong = [
            f'{name} is {shapes[name]}, needs {tuple(expected[name].shape)}'
            for name in known
            if shapes[name] != tuple(expected[name].shape)
        ]
        odd = [
            f'{name} is {kinds[name]}'
            for name in known
            if (kinds[name] in FLOATS) != expected[name].is_floating_point()
        ]
        kind = (('missing', absent), ('unknown', extra), ('shape', wrong), ('kind', odd))
        problems = [
            f'{what}: {", ".join(names[:5])}{" …" if len(names) > 5 else ""}'
            for what, names in kind
            if names
        ]
        if problems:
            raise CheckpointError(f'{path} does not fit its config ({"; ".join(problems)})')
        weights = load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f'{path} is not a safetensors file: {error}; {AGAIN}') from error
    bad = [name for name, t in weights.items() if t.is_floating_point() and not t.isfinite().all()]
    if bad:
        raise CheckpointError(
            f'{path} holds values that are not finite: {", ".join(bad[:5])}; {AGAIN}'
        )
    return weights
