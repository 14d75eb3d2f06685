"""Every setting of a training run, in one frozen dataclass; YAML files and flags fill it."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vla_alignment_ros.errors import ConfigError


@dataclass(frozen=True)
class DataConfig:
    """Which samples."""

    val_fraction: float = 0.05
    """Share of the episodes kept from training, chosen by a seeded hash of their names."""
    split_seed: int = 0
    """Seed of that choice."""
    horizon: int = 8
    """Actions per chunk (H)."""
    workers: int = 1
    """Processes that build the cache."""


@dataclass(frozen=True)
class ArchitectureConfig:
    """The size of the network."""

    width: int = 128
    """Token width (D)."""
    heads: int = 4
    """Attention heads."""
    vision: str = 'resnet_micro'
    """Preset of the vision tower."""
    language_layers: int = 2
    """Layers of the language tower."""
    decoder_layers: int = 2
    """Layers of the action head."""
    pointers: int = 5
    """Language-conditioned pointers per camera, at least 2; the first is the alignment's."""
    withhold: bool = True
    """Show the action head no word that names the thing: it has to follow the pointers. Only
    for strategies that can tell which words do, as `grounded`."""


@dataclass(frozen=True)
class AlignmentConfig:
    """How vision, language and action are aligned."""

    strategy: str = 'vla+grounded'
    """Names in the registry, joined by '+'; the scores are those of the last one."""
    weight: float = 0.3
    """Weight of the contrastive losses together; 0 trains the same network without them and
    without the hindsight grounding, which otherwise has a weight of its own."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Strategy -> arguments of its constructor."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up and cosine decay."""

    steps: int = 20000
    """Optimiser steps."""
    batch: int = 64
    """Samples per step and process."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    warmup_steps: int = 300
    """Steps of linear warm-up."""
    final_fraction: float = 0.02
    """Learning rate at the end, as a share of the peak."""
    weight_decay: float = 0.03
    """Decoupled; not on biases, norms, embeddings and logit scales."""
    clip_norm: float = 1.0
    """Gradient norm is clipped to this."""
    ema: float = 0.998
    """Decay of the averaged weights that are evaluated and saved."""
    approach_share: float = 0.5
    """Share of each batch from the first half of the way to the first keyframe, where only the
    words tell where to go."""
    keyframe_weight: float = 1.0
    """Weight of the keyframe loss."""
    word_dropout: float = 0.03
    """Share of words replaced by the unknown word."""
    light_jitter: float = 0.15
    """Spread of random brightness and contrast."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    seed: int = 0
    """Decides weights, order, noise: the same seed gives the same checkpoint."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ArchitectureConfig = field(default_factory=ArchitectureConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    save_every: int = 1000
    """Steps between saved training states."""
    log_every: int = 20
    """Steps between log entries."""
    validate_every: int = 1000
    """Steps between validations; each also writes the checkpoint so far."""
    threads: int = 0
    """Torch threads per process; 0 measures one against all and keeps the faster."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for YAML and JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainConfig:
        """From a mapping; unknown keys are refused with the allowed ones listed."""
        return _build(cls, data, 'training config')

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """From a YAML file that gives any subset of the settings."""
        try:
            data = yaml.safe_load(path.read_text(encoding='utf-8'))
        except OSError as error:
            raise ConfigError(f'cannot read {path}: {error}') from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f'{path} is not valid YAML: {error}') from error
        try:
            return cls.from_dict(data or {})
        except ConfigError as error:
            raise ConfigError(f'{path}: {error}') from error


_PARTS = {
    'data': DataConfig,
    'model': ArchitectureConfig,
    'alignment': AlignmentConfig,
    'optimizer': OptimizerConfig,
}


def _build(cls: type, data: Any, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise ConfigError(f'{where} must be a mapping, got {type(data).__name__}')
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(str(key) for key in data if key not in fields)
    if unknown:
        raise ConfigError(
            f'unknown key {", ".join(unknown)} in {where}; allowed: {", ".join(fields)}'
        )
    values = {}
    for key, value in data.items():
        if cls is TrainConfig and key in _PARTS:
            values[key] = _build(_PARTS[key], value, key)
            continue
        default = fields[key].default
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if default is not dataclasses.MISSING and type(value) is not type(default):
            raise ConfigError(
                f'{where}.{key} must be {type(default).__name__}, got {value!r}'
            )
        values[key] = value
    return cls(**values)
