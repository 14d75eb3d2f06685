"""Every setting of a training run, in one frozen dataclass; YAML files and flags fill it."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.fields import build


@dataclass(frozen=True)
class DataConfig:
    """Which samples."""

    val_fraction: float = 0.05
    """Share of the episodes kept from training, chosen by a seeded hash of their names."""
    split_seed: int = 0
    """Seed of that choice."""
    horizon: int = 8
    """Actions per chunk (H)."""
    balance: str = 'none'
    """'task' or 'instruction': draw each of them equally often, however often it was recorded
    (repeating the rare ones); 'none': every sample once per epoch."""
    correction_weight: float = 1.0
    """How often a sample is drawn in which a person had taken over from the policy, against any
    other; with another weight than 1 samples repeat within an epoch."""
    labels: bool = True
    """Use what recorders noted about pixels and scenes; false trains as if nobody had."""
    mislabel: float = 0.0
    """Share of the training episodes that are given a wrong sentence, to test robustness."""
    workers: int = 0
    """Processes that build the cache; 0: as many as cores and recordings are worth."""


@dataclass(frozen=True)
class ArchitectureConfig:
    """The size of the network."""

    width: int = 128
    """Token width (D)."""
    heads: int = 4
    """Attention heads."""
    vision: str = 'resnet_micro'
    """Vision tower: a preset that trains from scratch, or hf: and the hub name or folder of a
    pretrained CLIP, SigLIP, SigLIP 2 or DINOv2."""
    vision_mode: str = 'frozen'
    """What trains of a pretrained vision tower: 'frozen' nothing, 'lora' adapters, 'tuned' all."""
    vision_size: int = 0
    """Pixels of the sides of the square that a pretrained tower is shown; 0: what it is made for.
    Fewer are faster and see less."""
    language: str = 'words'
    """Language tower: 'words' trains from scratch on the words of the episodes; or hf: and the
    hub name or folder of a pretrained CLIP, SigLIP or BERT-like sentence encoder."""
    language_mode: str = 'frozen'
    """What trains of a pretrained language tower, as of the vision tower."""
    language_layers: int = 2
    """Layers of the language tower from scratch."""
    lora_rank: int = 8
    """Rank of the adapters of mode 'lora'."""
    lora_alpha: float = 16.0
    """The adapters are scaled by this over their rank."""
    decoder_layers: int = 2
    """Layers of the action head."""
    pointers: int = 5
    """Language-conditioned pointers per camera, at least 2; the first is the alignment's."""
    withhold: bool = True
    """Show the action head no word that names the thing: it has to follow the pointers. Only
    for strategies that can tell which words do, as `grounded`."""


@dataclass(frozen=True)
class HardNegativesConfig:
    """Hard negatives from earlier batches, for whatever strategy gives the scores."""

    weight: float = 0.0
    """Weight of their loss among the contrastive losses; 0 mines nothing."""
    start_step: int = 500
    """Optimiser steps before the first are mined: with untrained embeddings they are noise."""
    negatives: int = 4
    """Negatives per scene and per sentence."""
    margin: float = 0.2
    """A negative this much less similar than the match costs nothing (cosine)."""
    bank: int = 2048
    """Pairs of earlier batches that they are looked for in."""


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
    hard_negatives: HardNegativesConfig = field(default_factory=HardNegativesConfig)
    """Negatives mined from earlier batches, on top of any strategy."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up and cosine decay."""

    steps: int = 20000
    """Optimiser steps."""
    batch: int = 64
    """Samples per step and process."""
    parts: int = 1
    """Parts that a batch is encoded in, one after the other (GradCache): memory is that of one
    part, the contrast that of the whole batch, at the price of a second forward pass. Has to
    divide `batch`."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    tuned_share: float = 0.05
    """Learning rate of the weights of a tuned pretrained tower, as a share of all others'."""
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
    recolour: float = 0.0
    """Share of each batch that also comes as copies with other hues: where pixels are labelled,
    they teach the words that say no colour. For things whose name holds in any colour."""


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
    precision: str = 'auto'
    """What the networks compute in: 'float32', 'bfloat16' (weights and losses stay float32), or
    'auto': bfloat16 on a GPU that is made for it, else float32."""
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
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f'{path} is not valid YAML: {error}') from error
        try:
            return cls.from_dict(data or {})
        except ConfigError as error:
            raise ConfigError(f'{path}: {error}') from error


_PARTS = {
    TrainConfig: {
        'data': DataConfig,
        'model': ArchitectureConfig,
        'alignment': AlignmentConfig,
        'optimizer': OptimizerConfig,
    },
    AlignmentConfig: {'hard_negatives': HardNegativesConfig},
}


def _build(cls: type, data: Any, where: str) -> Any:
    def value(field: dataclasses.Field[Any], given: Any) -> Any:
        part = _PARTS.get(cls, {}).get(field.name)
        if part is not None:
            inside = field.name if cls is TrainConfig else f'{where}.{field.name}'
            return _build(part, given, inside)
        default = field.default
        if isinstance(default, float) and isinstance(given, int) and not isinstance(given, bool):
            given = float(given)
        if default is not dataclasses.MISSING and type(given) is not type(default):
            raise ConfigError(
                f'{where}.{field.name} must be {type(default).__name__}, got {given!r}'
            )
        return given

    return build(cls, data, where, ConfigError, value)
