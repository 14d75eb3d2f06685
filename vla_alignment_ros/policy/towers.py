"""Which towers a model has: from scratch, or pretrained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer
from torch import nn

from vla_alignment_ros.encoders.language import LanguageTower, shift
from vla_alignment_ros.encoders.pretrained import (
    describe_language,
    describe_vision,
    is_pretrained,
    LanguageSpec,
    Tuning,
    VisionSpec,
)
from vla_alignment_ros.encoders.pretrained_towers import PretrainedLanguage, PretrainedVision
from vla_alignment_ros.encoders.vision import CameraTower, VisionTower
from vla_alignment_ros.errors import ConfigError

WORDS = 'words'  # the language tower from scratch


@dataclass(frozen=True)
class TowerConfig:
    """What decides the shapes of the towers' weights; part of `ModelConfig`.

    `pretrained` holds what describes the pretrained towers, 'vision' and 'language', so that
    they can be built where the models they came from are not.
    """

    width: int = 128
    heads: int = 4
    vision: str = 'resnet_micro'
    vision_mode: str = 'frozen'
    vision_size: int = 0
    language: str = WORDS
    language_mode: str = 'frozen'
    language_layers: int = 2
    lora_rank: int = 8
    lora_alpha: float = 16.0
    pretrained: dict[str, dict[str, Any]] = field(default_factory=dict)

    def tuning(self, mode: str) -> Tuning:
        """How a pretrained tower of this mode trains. Raises ConfigError."""
        return Tuning(mode, self.lora_rank, self.lora_alpha)


def describe_towers(config: Any) -> tuple[dict[str, dict[str, Any]], Tokenizer | None]:
    """What `TowerConfig.pretrained` has to hold, and the tokenizer of a pretrained language tower.

    Args:
        config: settings named as those of `TowerConfig`.

    Raises:
        ConfigError: a pretrained model is not on this machine, or cannot be such a tower.
    """
    pretrained, tokenizer = {}, None
    if is_pretrained(config.vision):
        Tuning(config.vision_mode, config.lora_rank, config.lora_alpha)
        pretrained['vision'] = describe_vision(config.vision, config.vision_size).to_dict()
    if is_pretrained(config.language):
        Tuning(config.language_mode, config.lora_rank, config.lora_alpha)
        spec, tokenizer = describe_language(config.language)
        pretrained['language'] = spec.to_dict()
    return pretrained, tokenizer


def vision_tower(config: TowerConfig, cameras: dict[str, tuple[int, int]]) -> CameraTower:
    """The vision tower, with random weights. Raises ConfigError."""
    if not is_pretrained(config.vision):
        return VisionTower(config.vision, cameras, config.width)
    spec = VisionSpec.from_dict(_described(config, 'vision'))
    return PretrainedVision(spec, cameras, config.width, config.tuning(config.vision_mode))


def language_tower(config: TowerConfig, vocabulary: int) -> LanguageTower | PretrainedLanguage:
    """The language tower, with random weights; `vocabulary` counts the tokenizer's words.

    Raises ConfigError.
    """
    if is_pretrained(config.language):
        spec = LanguageSpec.from_dict(_described(config, 'language'))
        if vocabulary > spec.config['vocab_size']:
            raise ConfigError(
                f'{vocabulary} words are more than the {spec.config["vocab_size"]} of the tower'
            )
        return PretrainedLanguage(spec, config.width, config.tuning(config.language_mode))
    if config.language != WORDS:
        raise ConfigError(
            f'unknown language tower {config.language!r}; use {WORDS!r}, or hf:NAME for a '
            f'pretrained model'
        )
    return LanguageTower(vocabulary, config.width, config.language_layers, config.heads)


def load_pretrained(config: TowerConfig, vision: nn.Module, language: nn.Module) -> None:
    """Copy the weights of the pretrained models into the towers. Raises ConfigError."""
    for name, tower in ((config.vision, vision), (config.language, language)):
        if is_pretrained(name):
            tower.load(name)


def check_tokenizer(config: TowerConfig, vocabulary: int, tokenizer: Tokenizer) -> None:
    """That a tokenizer gives the ids that the model was trained with. Raises ConfigError."""
    if tokenizer.get_vocab_size() != vocabulary:
        raise ConfigError(
            f'tokenizer has {tokenizer.get_vocab_size()} words, the model {vocabulary}'
        )
    if not is_pretrained(config.language) and max(tokenizer.get_vocab().values()) >= vocabulary:
        raise ConfigError(f'tokenizer gives ids beyond the {vocabulary} words of the model')
    above = config.pretrained['language']['shift'] if is_pretrained(config.language) else 0
    if shift(tokenizer) != above:
        raise ConfigError('tokenizer and model are not of the same kind')


def _described(config: TowerConfig, kind: str) -> dict[str, Any]:
    if kind not in config.pretrained:
        raise ConfigError(f'the pretrained {kind} tower is not described')
    return config.pretrained[kind]
