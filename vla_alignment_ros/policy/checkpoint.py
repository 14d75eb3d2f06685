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
import os
from pathlib import Path
import shutil
import tempfile
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
import torch

from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import CheckpointError, ConfigError, EmbodimentError
from vla_alignment_ros.policy.model import ModelConfig, VlaModel
from vla_alignment_ros.policy.normalizer import DataStatistics
from vla_alignment_ros.policy.towers import check_tokenizer

FORMAT = 1
WEIGHTS, CONFIG, TOKENIZER = 'model.safetensors', 'config.json', 'tokenizer.json'
MAX_WEIGHT_BYTES = 8 << 30


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
    """Write the folder whole or not at all; an existing one is replaced at the last moment."""
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
    with _whole_or_not(folder) as temporary:
        state = checkpoint.model.state_dict()
        weights = {name: t.detach().cpu().contiguous() for name, t in state.items()}
        save_file(weights, str(temporary / WEIGHTS))
        _write_config(config, temporary)
        checkpoint.tokenizer.save(str(temporary / TOKENIZER))
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
    config['training'] = {**config.get('training', {}), 'calibrated': note}
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
        model = VlaModel(ModelConfig.from_dict(config['model']), statistics)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f'{folder / CONFIG} is incomplete: {error!r}') from error
    except (ConfigError, EmbodimentError) as error:
        raise CheckpointError(f'{folder / CONFIG}: {error}') from error
    model.load_state_dict(_weights(folder / WEIGHTS, model))
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # the tokenizers library raises a bare Exception
        raise CheckpointError(f'{folder / TOKENIZER} is not a tokenizer: {error}') from error
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
        config.get('training', {}),
        config.get('metrics', {}),
    )


def _read_config(folder: Path) -> dict[str, Any]:
    """The config of a folder that has all files. Raises CheckpointError."""
    if not folder.is_dir():
        raise CheckpointError(f'checkpoint folder not found: {folder}')
    missing = [name for name in (WEIGHTS, CONFIG, TOKENIZER) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f'checkpoint {folder} lacks {", ".join(missing)}')
    try:
        config = json.loads((folder / CONFIG).read_text(encoding='utf-8'))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f'{folder / CONFIG} is not valid JSON: {error}') from error
    version = config.get('format') if isinstance(config, dict) else None
    if version != FORMAT:
        raise CheckpointError(
            f'{folder / CONFIG} has format {version!r}; this version reads format {FORMAT}'
        )
    return config


def _weights(path: Path, model: VlaModel) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file that fit the model name by name and shape by shape."""
    if path.stat().st_size > MAX_WEIGHT_BYTES:
        raise CheckpointError(f'{path} is larger than {MAX_WEIGHT_BYTES >> 30} GiB')
    try:
        weights = load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f'{path} is not a safetensors file: {error}') from error
    expected = model.state_dict()
    absent = sorted(set(expected) - set(weights))
    extra = sorted(set(weights) - set(expected))
    wrong = [
        f'{name} is {tuple(weights[name].shape)}, needs {tuple(tensor.shape)}'
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    problems = [f'{kind}: {", ".join(names[:5])}{" …" if len(names) > 5 else ""}'
                for kind, names in (('missing', absent), ('unknown', extra), ('shape', wrong))
                if names]  # fmt: skip
    if problems:
        raise CheckpointError(f'{path} does not fit its config ({"; ".join(problems)})')
    bad = [name for name, t in weights.items() if t.is_floating_point() and not t.isfinite().all()]
    if bad:
        raise CheckpointError(f'{path} holds values that are not finite: {", ".join(bad[:5])}')
    return weights
