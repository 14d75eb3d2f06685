"""Which pretrained models can be towers, and what is particular to each family.

A model is built from this table alone, from plain values and never from code beside the weights,
so that a folder or a checkpoint cannot name a class of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
    Siglip2Config,
    Siglip2TextConfig,
    Siglip2TextModel,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipConfig,
    SiglipTextConfig,
    SiglipTextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from vla_alignment_ros.errors import ConfigError

_CLIP_NORM = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF_NORM = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_IMAGENET_NORM = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# a run that is resumed must repeat itself, and dropout's random numbers are not saved
_DROPOUT = ('dropout', 'drop_path_rate', 'hidden_dropout_prob', 'attention_probs_dropout_prob',
            'attention_dropout')  # fmt: skip
_TOKEN_IDS = {'pad_token_id', 'bos_token_id', 'eos_token_id'}


@dataclass(frozen=True)
class Family:
    """How one type of model is built.

    `config` and `model` are the library's classes, `fixed` what we set in every config,
    `arguments` what the model's constructor gets beside it, `attention` the implementation.
    """

    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    attention: str = 'sdpa'


@dataclass(frozen=True)
class VisionFamily(Family):
    """`norm`: mean and std where no processor says them; `lead`: tokens before the patches.

    A `packed` model takes patches of any grid (NaFlex) in place of a square image.
    """

    norm: tuple[tuple[float, ...], tuple[float, ...]] = _HALF_NORM
    lead: int = 0
    packed: bool = False


@dataclass(frozen=True)
class LanguageFamily(Family):
    """`pooling`: 'model' is the model's own sentence vector, 'mean' the mean over its tokens.

    `padded`: the model was trained on sentences padded to full length, and reads the pads.
    `offset`: positions that the model's position table spends before the first token, beside
    the id of its pad.
    """

    pooling: str = 'model'
    padded: bool = False
    offset: bool = False


_NO_POOLER = {'add_pooling_layer': False}
_NO_HEAD = {'vision_use_head': False}  # we pool tokens ourselves

VISION: dict[str, VisionFamily] = {
    'clip_vision_model': VisionFamily(CLIPVisionConfig, CLIPVisionModel, norm=_CLIP_NORM, lead=1),
    'siglip_vision_model': VisionFamily(SiglipVisionConfig, SiglipVisionModel, fixed=_NO_HEAD),
    'siglip2_vision_model': VisionFamily(
        Siglip2VisionConfig, Siglip2VisionModel, fixed=_NO_HEAD, packed=True
    ),
    'dinov2': VisionFamily(Dinov2Config, Dinov2Model, norm=_IMAGENET_NORM, lead=1),
    'dinov2_with_registers': VisionFamily(
        Dinov2WithRegistersConfig, Dinov2WithRegistersModel, norm=_IMAGENET_NORM, lead=1
    ),
}
LANGUAGE: dict[str, LanguageFamily] = {
    'clip_text_model': LanguageFamily(CLIPTextConfig, CLIPTextModel),
    'siglip_text_model': LanguageFamily(SiglipTextConfig, SiglipTextModel, padded=True),
    'siglip2_text_model': LanguageFamily(Siglip2TextConfig, Siglip2TextModel, padded=True),
    'bert': LanguageFamily(BertConfig, BertModel, arguments=_NO_POOLER, pooling='mean'),
    'roberta': LanguageFamily(
        RobertaConfig, RobertaModel, arguments=_NO_POOLER, pooling='mean', offset=True
    ),
    'xlm-roberta': LanguageFamily(
        XLMRobertaConfig, XLMRobertaModel, arguments=_NO_POOLER, pooling='mean', offset=True
    ),
    'mpnet': LanguageFamily(
        MPNetConfig, MPNetModel, arguments=_NO_POOLER, attention='eager', pooling='mean',
        offset=True,
    ),  # fmt: skip
}
# models with two towers: which config holds both, and under what name each of them lies
PAIRS: dict[str, type[PreTrainedConfig]] = {
    'clip': CLIPConfig,
    'siglip': SiglipConfig,
    'siglip2': Siglip2Config,
}


def half(data: Mapping[str, Any], kind: str) -> tuple[str, dict[str, Any]]:
    """Model type and plain values of the tower of a kind that a model's `config.json` describes.

    Args:
        data: what the file holds.
        kind: 'vision' or 'language'.

    Raises:
        ConfigError: not a type of model that this kind of tower can be.
    """
    known = VISION if kind == 'vision' else LANGUAGE
    model_type = data.get('model_type')
    if model_type in PAIRS:
        try:
            pair = PAIRS[model_type].from_dict(dict(data))
        except (StrictDataclassError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise ConfigError(f'its {model_type} config is broken: {error}') from error
        config = pair.vision_config if kind == 'vision' else pair.text_config
        model_type, data = config.model_type, config.to_dict()
    if model_type not in known:
        raise ConfigError(
            f'model type {model_type!r} is no {kind} tower; possible: '
            f'{", ".join([*PAIRS, *known])}'
        )
    return model_type, _values(known[model_type], data)


def build(family: Family, values: Mapping[str, Any]) -> PreTrainedModel:
    """The architecture with random weights, on plain values. Raises ConfigError."""
    try:
        # said here, because a config may name an implementation that has to be downloaded
        values = _values(family, values)
        config = family.config(**values, attn_implementation=family.attention)
        return family.model(config, **family.arguments)
    except (StrictDataclassError, TypeError, ValueError, KeyError, AttributeError,
            RuntimeError, ArithmeticError) as error:  # fmt: skip
        raise ConfigError(f'{family.config.__name__} is broken: {error}') from error


def _values(family: Family, data: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an architecture: what the config class knows and every model does not."""
    generic = set(PreTrainedConfig().to_dict()) | {'model_type'}
    known = {name for name in family.config().to_dict() if not name.startswith('_')}
    known = (known - generic) | (_TOKEN_IDS & known)
    values = {**data, **dict.fromkeys(_DROPOUT, 0.0), **family.fixed}
    return {name: values[name] for name in sorted(known) if name in values}
