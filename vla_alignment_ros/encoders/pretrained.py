"""From the name of a pretrained model to what a checkpoint keeps of it: plain values.

A model is named as `hf:NAME`: a local folder, or a model of the Hugging Face hub, at a revision
if `@REVISION` follows. Nothing is ever downloaded: a hub model has to lie in the hub's cache.
Weights are read from safetensors files, never from pickles, and no code is run that lies beside
them.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import is_peft_available

from vla_alignment_ros.encoders.families import half, LANGUAGE, VISION
from vla_alignment_ros.encoders.language import RESERVED, shift
from vla_alignment_ros.errors import ConfigError

PREFIX = 'hf:'
MODES = ('frozen', 'tuned', 'lora')
MAX_PIECES = 48  # of a sentence: words, or parts of words
_RESAMPLE = {2: 'bilinear', 3: 'bicubic'}  # the numbers are PIL's
_CONFIG, _PROCESSOR = 'config.json', 'preprocessor_config.json'


@dataclass(frozen=True)
class Tuning:
    """What training does with a pretrained tower.

    `frozen`: nothing; `tuned`: trains all of it; `lora`: trains low-rank adapters of `rank`,
    scaled by alpha / rank, on its attention (Hu et al. 2021, arXiv:2106.09685).
    """

    mode: str = 'frozen'
    rank: int = 8
    alpha: float = 16.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f'unknown mode {self.mode!r} of a tower; known: {", ".join(MODES)}')
        if self.mode == 'lora' and (self.rank < 1 or self.alpha <= 0):
            raise ConfigError(
                f'lora_rank must be at least 1 and lora_alpha above 0, got {self.rank} and '
                f'{self.alpha}'
            )
        if self.mode == 'lora' and not is_peft_available():
            raise ConfigError(
                "a tower with mode 'lora' needs peft: pip install 'vla_alignment_ros[hf]'"
            )


class _Spec:
    """Plain values that stand in a checkpoint's config."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Any:
        """From JSON. Raises ConfigError."""
        try:
            return cls(**data)
        except (TypeError, ValueError) as error:
            raise ConfigError(f'a pretrained tower is described wrongly: {error}') from error


@dataclass(frozen=True)
class VisionSpec(_Spec):
    """A vision tower: its architecture, and how the pixels of 0…1 become its input."""

    model_type: str
    config: dict[str, Any]
    mean: list[float]  # (3,)
    std: list[float]  # (3,)
    size: int  # pixels of the sides of the square that an image becomes (packed: its area)
    resample: str  # 'bilinear' or 'bicubic'

    def __post_init__(self) -> None:
        if self.model_type not in VISION:
            raise ConfigError(
                f'model type {self.model_type!r} is no vision tower; known: {", ".join(VISION)}'
            )
        numbers = all(len(v) == 3 and all(_is_number(x) for x in v) for v in (self.mean, self.std))
        if not numbers or not all(x > 0 for x in self.std):
            raise ConfigError(f'mean {self.mean} and std {self.std} are no colours')
        if self.resample not in _RESAMPLE.values():
            raise ConfigError(f'cannot resample by {self.resample!r}; known: bilinear, bicubic')
        patch = self.config.get('patch_size')
        if type(patch) is not int or type(self.size) is not int or not 1 <= patch <= self.size:
            raise ConfigError(f'images of {self.size} px cannot have patches of {patch} px')


@dataclass(frozen=True)
class LanguageSpec(_Spec):
    """A language tower: its architecture, and how a row of words becomes its input.

    All ids are the tokenizer's own; `shift` is how far the ids of words lie above them.
    """

    model_type: str
    config: dict[str, Any]
    prefix: list[int]  # before the words of every sentence
    suffix: list[int]  # after them
    pad: int
    nothing: int | None  # stands for a word that is not shown; None: the mean of all words
    shift: int
    longest: int  # words of a sentence
    pooling: str  # 'model', 'mean' or 'first'

    def __post_init__(self) -> None:
        if self.model_type not in LANGUAGE:
            raise ConfigError(
                f'model type {self.model_type!r} is no language tower; '
                f'known: {", ".join(LANGUAGE)}'
            )
        if self.pooling not in ('model', 'mean', 'first'):
            raise ConfigError(f'unknown pooling {self.pooling!r}')
        vocabulary = self.config.get('vocab_size')
        own = [*self.prefix, *self.suffix, self.pad]
        own += [] if self.nothing is None else [self.nothing]
        if type(vocabulary) is not int or not all(0 <= i < vocabulary for i in own):
            raise ConfigError(f'special words {own} are not among {vocabulary} words')
        if self.shift not in (0, RESERVED) or not 1 <= self.longest <= MAX_PIECES:
            raise ConfigError(f'shift {self.shift} or longest {self.longest} is out of range')


def is_pretrained(name: str) -> bool:
    """Whether a tower's name asks for a pretrained model."""
    return name.startswith(PREFIX)


def locate(name: str) -> Path:
    """The folder with a model's files; the network is not asked.

    Args:
        name: with `hf:` before it.

    Raises:
        ConfigError: it is nowhere, or has no safetensors weights; says what to do.
    """
    bare = name.removeprefix(PREFIX)
    folder = Path(bare).expanduser()
    if not folder.is_dir():
        folder = _cached(bare)
    if not (folder / _CONFIG).is_file():
        raise ConfigError(f'{name}: {folder} has no {_CONFIG}, so it is no pretrained model')
    if not any(folder.glob('*.safetensors')):
        found = sorted(p.name for p in folder.glob('*') if p.suffix in ('.bin', '.h5', '.msgpack'))
        others = f' ({", ".join(found)} may run code when loaded and are not read)'
        raise ConfigError(
            f'{name}: no safetensors weights in {folder}{others if found else ""}; name a '
            f'revision that has them as {PREFIX}NAME@REVISION, or convert them where you trust '
            f'them, with from_pretrained(...).save_pretrained(FOLDER) of transformers'
        )
    return folder


def _cached(name: str) -> Path:
    repository, _, revision = name.partition('@')
    try:
        return Path(
            snapshot_download(repository, revision=revision or None, local_files_only=True)
        )
    except (HFValidationError, LocalEntryNotFoundError, OSError) as error:
        command = f'hf download {repository}' + (f' --revision {revision}' if revision else '')
        raise ConfigError(
            f'pretrained model {name!r} is neither a folder nor in the cache of the hub. '
            f'Download it with `{command}`, or copy its files to a folder and name that: '
            f'{PREFIX}PATH/TO/FOLDER'
        ) from error


def describe_vision(name: str, size: int = 0) -> VisionSpec:
    """What a checkpoint keeps of a vision tower.

    Args:
        name: `hf:…`, see `locate`.
        size: pixels of the sides of the square that an image becomes, or, for a model that
            keeps the aspect ratio, of a square of the same area; 0: what its processor says.

    Raises:
        ConfigError: there is no such model, or it cannot be a vision tower.
    """
    folder = locate(name)
    try:
        model_type, config = half(_read(folder / _CONFIG), 'vision')
        patch = config.get('patch_size')
        processor = _processor(folder)
        family = VISION[model_type]
        if not size and family.packed and type(patch) is int:
            patches = processor.get('max_num_patches') or config['num_patches']
            size = patch * int(patches**0.5)
        spec = VisionSpec(
            model_type=model_type,
            config=config,
            mean=list(processor.get('image_mean') or family.norm[0]),
            std=list(processor.get('image_std') or family.norm[1]),
            size=size or _side(processor) or config.get('image_size'),
            resample=_RESAMPLE.get(processor.get('resample'), 'bicubic'),
        )
    except (ConfigError, TypeError) as error:
        raise ConfigError(f'{name}: {error}') from error
    return spec


def describe_language(name: str) -> tuple[LanguageSpec, Tokenizer]:
    """What a checkpoint keeps of a language tower, and the tokenizer that belongs to it.

    Raises:
        ConfigError: there is no such model, or it cannot be a language tower.
    """
    folder = locate(name)
    try:
        model_type, config = half(_read(folder / _CONFIG), 'language')
        family = LANGUAGE[model_type]
        slow = _tokenizer(folder)
        tokenizer = Tokenizer.from_str(slow.backend_tokenizer.to_str())
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if tokenizer.get_vocab_size() > config['vocab_size']:
            raise ConfigError(
                f'its tokenizer has {tokenizer.get_vocab_size()} words, '
                f'the model {config["vocab_size"]}'
            )
        prefix, suffix = _frame(tokenizer)
        if family.padded and not suffix and slow.eos_token_id is not None:
            suffix = [slow.eos_token_id]  # trained with it, whatever the tokenizer adds
        pad = slow.pad_token_id
        if pad is None:
            raise ConfigError('its tokenizer has no padding token')
        room = config['max_position_embeddings'] - len(prefix) - len(suffix)
        room -= pad + 1 if family.offset else 0
        longest = min(MAX_PIECES, room)
        tokenizer.enable_truncation(max(1, longest))
        spec = LanguageSpec(
            model_type=model_type,
            config=config,
            prefix=prefix,
            suffix=suffix,
            pad=pad,
            nothing=_nothing(slow),
            shift=shift(tokenizer),
            longest=longest,
            pooling=_pooling(folder) or family.pooling,
        )
    except (ConfigError, KeyError, TypeError) as error:
        raise ConfigError(f'{name}: {error}') from error
    return spec, tokenizer


def _read(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise ConfigError(f'cannot read {path}: {error}') from error
    if not isinstance(data, dict):
        raise ConfigError(f'{path} is not a mapping')
    return data


def _processor(folder: Path) -> Mapping[str, Any]:
    """How images are prepared; empty where nobody says it."""
    if (folder / _PROCESSOR).is_file():
        return _read(folder / _PROCESSOR)
    if (folder / 'processor_config.json').is_file():
        return _read(folder / 'processor_config.json').get('image_processor') or {}
    return {}


def _side(processor: Mapping[str, Any]) -> int | None:
    """Pixels of the square that a model is given; a processor may crop it out of the resized."""
    size = processor.get('size')
    if processor.get('do_center_crop') and processor.get('crop_size'):
        size = processor['crop_size']
    if isinstance(size, Mapping):
        size = size.get('height') or size.get('shortest_edge')
    return size


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise ConfigError(f'cannot read its tokenizer: {error}') from error
    if not tokenizer.is_fast:
        raise ConfigError('it has no fast tokenizer (tokenizer.json)')
    return tokenizer


def _frame(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before and after every sentence."""
    try:
        bare = tokenizer.encode('a', add_special_tokens=False).ids
        full = tokenizer.encode('a').ids
    except Exception as error:  # the tokenizers library raises a bare Exception
        raise ConfigError(f'its tokenizer does not work: {error}') from error
    for start in range(len(full) - len(bare) + 1):
        if bare and full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    raise ConfigError('its tokenizer has no plain frame of special tokens around a sentence')


def _nothing(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id that says "a word that is not shown": mask, or unknown if it means nothing else."""
    if tokenizer.mask_token_id is not None:
        return tokenizer.mask_token_id
    taken = {tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id}
    return None if tokenizer.unk_token_id in taken else tokenizer.unk_token_id


def _pooling(folder: Path) -> str | None:
    """What a sentence encoder was trained to pool with; None where the folder does not say."""
    path = folder / '1_Pooling' / _CONFIG
    if not path.is_file():
        return None
    settings = _read(path)
    if settings.get('pooling_mode_cls_token'):
        return 'first'
    return 'mean' if settings.get('pooling_mode_mean_tokens') else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
