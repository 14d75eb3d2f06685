"""Towers made of a pretrained model: its features, projected to the width of ours.

They return what the towers that train from scratch return, so that nothing else can tell them
apart. Building one loads nothing; `load` copies the pretrained weights in, once, when training
begins. A checkpoint holds all weights, so that loading it needs neither hub nor folder.

Shapes: B batch, N image tokens, L words, T tokens of a sentence with its frame, E the model's
width, D ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import copy
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
import torch
from torch import nn
import torch.nn.functional as F
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from vla_alignment_ros.encoders.families import build, Family, LANGUAGE, VISION
from vla_alignment_ros.encoders.language import LanguageFeatures, MASK_ID, PAD_ID, UNKNOWN_ID
from vla_alignment_ros.encoders.pretrained import LanguageSpec, locate, Tuning, VisionSpec
from vla_alignment_ros.encoders.vision import CameraTower, VisionFeatures
from vla_alignment_ros.errors import ConfigError

# what the families call the linear layers of attention
_ATTENTION = {'q_proj', 'k_proj', 'v_proj', 'out_proj', 'o_proj', 'query', 'key', 'value',
              'q', 'k', 'v', 'o'}  # fmt: skip


class Backbone(nn.Module):
    """A pretrained model, and which of its weights train.

    Args:
        family: how to build it.
        config: plain values of its architecture.
        tuning: see `Tuning`; frozen weights get no gradient, and stay in eval mode.

    Raises:
        ConfigError: the config is broken.
    """

    def __init__(self, family: Family, config: dict[str, Any], tuning: Tuning) -> None:
        super().__init__()
        self.family, self.tuning = family, tuning
        self.model = build(family, config)
        if tuning.mode == 'lora':
            _adapt(self.model, tuning)
        for name, parameter in self.model.named_parameters():
            adapter = '.lora_' in name
            parameter.requires_grad_(tuning.mode == 'tuned' or adapter)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        """As of every module, but frozen weights stay in eval mode."""
        return super().train(mode and self.tuning.mode != 'frozen')

    @torch.no_grad()
    def load(self, name: str) -> None:
        """Copy the pretrained weights in.

        Args:
            name: `hf:…`, see `pretrained.locate`.

        Raises:
            ConfigError: they are not there, damaged, incomplete, or of another model.
        """
        loaded = self._read(name, locate(name)).state_dict()
        for ours, tensor in self.model.state_dict().items():
            if '.lora_' not in ours:
                tensor.copy_(loaded[ours.replace('.base_layer.', '.')])

    def _read(self, name: str, folder: Path) -> PreTrainedModel:
        try:
            with _quiet():
                model, report = self.family.model.from_pretrained(
                    str(folder),
                    config=copy.deepcopy(self.model.config),  # it is changed
                    use_safetensors=True,
                    local_files_only=True,
                    dtype=torch.float32,
                    output_loading_info=True,
                    **self.family.arguments,
                )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ConfigError(f'{name}: cannot read the weights in {folder}: {error}') from error
        if report['missing_keys']:
            absent = sorted(report['missing_keys'])
            raise ConfigError(
                f'{name}: {folder} lacks {len(absent)} weights, such as {absent[0]}; '
                f'download it again'
            )
        return model


class PretrainedVision(CameraTower):
    """One pretrained vision transformer shared by all cameras, with an embedding per camera.

    Every image is seen whole: it is resized to the model's square, or, by a model that takes any
    grid of patches, to the grid of its own shape.

    Args:
        spec: of `pretrained.describe_vision`, or of a checkpoint.
        cameras: camera name -> (height, width) in pixels.
        width: D.
        tuning: what trains.

    Raises:
        ConfigError: see `Backbone`.
    """

    def __init__(
        self, spec: VisionSpec, cameras: dict[str, tuple[int, int]], width: int, tuning: Tuning
    ) -> None:
        super().__init__()
        self.spec, self.family = spec, VISION[spec.model_type]
        self.backbone = Backbone(self.family, spec.config, tuning)
        config = self.backbone.model.config
        self.patch = config.patch_size
        self.lead = self.family.lead + getattr(config, 'num_register_tokens', 0)
        inner = config.hidden_size
        self.project = nn.Sequential(nn.LayerNorm(inner), nn.Linear(inner, width))
        self._arrange({name: self._grid(*size) for name, size in cameras.items()}, width)
        for name in ('mean', 'std'):
            values = torch.tensor(getattr(spec, name), dtype=torch.float32).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def load(self, name: str) -> None:
        """Copy the pretrained weights in. Raises ConfigError."""
        self.backbone.load(name)

    def forward(self, images: dict[str, torch.Tensor]) -> VisionFeatures:
        """images: camera name -> (B, height, width, 3) RGB of 0…255."""
        pixels = [
            self._pixels(images[camera.name], camera.rows, camera.columns)
            for camera in self.layout
        ]
        if len({image.shape for image in pixels}) == 1:
            patches = self._patches(torch.cat(pixels)).split([len(image) for image in pixels])
        else:
            patches = [self._patches(image) for image in pixels]
        return self._features([self.project(each) for each in patches])

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches that an image becomes."""
        side = self.spec.size // self.patch
        if not self.family.packed:
            return side, side
        aspect = height / width
        rows = min(max(1, round(side * aspect**0.5)), side * side)
        return rows, max(1, min(round(rows / aspect), side * side // rows))

    def _pixels(self, image: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """(B, h, w, 3) of 0…255 → (B, 3, rows · patch, columns · patch), normalised."""
        pixels = image.permute(0, 3, 1, 2).to(self.mean.dtype) / 255
        size = (rows * self.patch, columns * self.patch)
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(
                pixels, size, mode=self.spec.resample, align_corners=False, antialias=True
            ).clamp(0, 1)  # bicubic overshoots
        return (pixels - self.mean) / self.std

    def _patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) → (B, rows · columns, E), row by row from the top left."""
        if self.family.packed:
            return self._packed(pixels)
        inputs = {'pixel_values': pixels}
        if 'dinov2' not in self.spec.model_type:  # which always does
            inputs['interpolate_pos_encoding'] = True
        return self.backbone.model(**inputs).last_hidden_state[:, self.lead :]

    def _packed(self, pixels: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = pixels.shape
        rows, columns, p = height // self.patch, width // self.patch, self.patch
        packed = pixels.view(batch, channels, rows, p, columns, p)
        packed = packed.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)
        return self.backbone.model(
            pixel_values=packed,
            pixel_attention_mask=torch.ones(packed.shape[:2], device=pixels.device).long(),
            spatial_shapes=torch.tensor([[rows, columns]]).expand(batch, 2),
        ).last_hidden_state


class PretrainedLanguage(nn.Module):
    """A pretrained language model: contextual tokens, words on their own, and the sentence.

    Args:
        spec: of `pretrained.describe_language`, or of a checkpoint.
        width: D.
        tuning: what trains.

    Raises:
        ConfigError: see `Backbone`.
    """

    def __init__(self, spec: LanguageSpec, width: int, tuning: Tuning) -> None:
        super().__init__()
        self.spec, self.family = spec, LANGUAGE[spec.model_type]
        self.backbone = Backbone(self.family, spec.config, tuning)
        config = self.backbone.model.config
        inner = config.hidden_size
        pooled = getattr(config, 'projection_size', inner) if self.family.padded else inner
        self.project, self.sentence = _projection(inner, width), _projection(pooled, width)
        self.word = nn.Sequential(nn.LayerNorm(inner), nn.Linear(inner, width))
        # what the model sees in place of a word that it is not shown
        self.register_buffer('nothing', torch.zeros(inner))
        taken = {spec.pad, *spec.prefix, *spec.suffix}
        self._filler = next(i for i in range(len(taken) + 1) if i not in taken)

    @torch.no_grad()
    def load(self, name: str) -> None:
        """Copy the pretrained weights in. Raises ConfigError."""
        self.backbone.load(name)
        table = self._table().weight
        own = self.spec.nothing
        self.nothing.copy_(table.mean(0) if own is None else table[own])

    def forward(
        self, ids: torch.Tensor, withheld: torch.Tensor | None = None
    ) -> LanguageFeatures:
        """Read sentences.

        Args:
            ids: (B, L) int64, 0 where padded. A sentence without words pools to zero.
            withheld: (B, L) in 0…1, how much of each word is replaced by nothing.
        """
        mask = ids != PAD_ID  # (B, L)
        framed, seen = self._frame(ids, mask)  # (B, T)
        embedded = self._table()(framed)  # (B, T, E)
        first = len(self.spec.prefix)
        last = first + ids.shape[1]
        words = embedded[:, first:last]
        unread = ((ids == UNKNOWN_ID) | (ids == MASK_ID)).unsqueeze(-1)  # (B, L, 1)
        words = torch.where(unread, self.nothing.to(words.dtype), words)
        shown = words
        if withheld is not None:
            hidden = (withheld * mask).unsqueeze(-1).to(words.dtype)
            shown = torch.lerp(words, self.nothing.to(words.dtype).expand_as(words), hidden)
        embedded = torch.cat([embedded[:, :first], shown, embedded[:, last:]], dim=1)
        states, pooled = self._read(framed, seen, embedded)
        some = mask.any(dim=1, keepdim=True)  # (B, 1)
        return LanguageFeatures(
            tokens=self.project(states[:, first:last]),
            words=self.word(words),
            ids=ids,
            mask=mask,
            pooled=self.sentence(pooled) * some,
        )

    def _table(self) -> nn.Module:
        return self.backbone.model.get_input_embeddings()

    def _frame(
        self, ids: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Word ids → the model's own ids with their frame (B, T), and which it attends to."""
        spec = self.spec
        own = torch.where(ids <= MASK_ID, self._filler, ids - spec.shift)
        own = torch.where(mask, own, spec.pad)
        before = own.new_tensor(spec.prefix).expand(len(own), -1)
        length = own.shape[1] + len(spec.prefix) + len(spec.suffix)
        if self.family.padded:
            length = max(length, spec.config['max_position_embeddings'])
        after = length - own.shape[1] - len(spec.prefix)
        framed = torch.cat([before, own, own.new_full((len(own), after), spec.pad)], dim=1)
        end = mask.sum(1, keepdim=True) + len(spec.prefix)  # (B, 1)
        if spec.suffix:
            suffix = own.new_tensor(spec.suffix)
            places = end + torch.arange(len(suffix), device=own.device)
            framed = framed.scatter(1, places, suffix.expand(len(own), -1))
        # a sentence of nothing at all would be a softmax over nothing: let it see one pad
        visible = (end + len(spec.suffix)).clamp_min(1)
        return framed, torch.arange(length, device=own.device) < visible

    def _read(
        self, framed: torch.Tensor, seen: torch.Tensor, embedded: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Contextual states (B, T, E) and the sentence (B, E) of ids whose embeddings are given.

        The model gets the ids too: it takes positions and the end of a sentence from them.
        """
        attention = {} if self.family.padded else {'attention_mask': seen.long()}
        handle = self._table().register_forward_hook(lambda *_: embedded)
        try:
            output = self.backbone.model(input_ids=framed, **attention)
        finally:
            handle.remove()
        states = output.last_hidden_state
        if self.spec.pooling == 'model':
            return states, output.pooler_output
        if self.spec.pooling == 'first':
            return states, states[:, 0]
        weight = seen.unsqueeze(-1).to(states.dtype)
        return states, (states * weight).sum(1) / weight.sum(1)


def _projection(inner: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(inner), nn.Linear(inner, width), nn.LayerNorm(width))


def _adapt(model: PreTrainedModel, tuning: Tuning) -> None:
    """Put low-rank adapters beside every linear layer of attention."""
    from peft import inject_adapter_in_model, LoraConfig  # optional: `Tuning` has looked for it

    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition('.')[2] in _ATTENTION
    ]
    # no dropout: a run that is resumed must repeat itself
    config = LoraConfig(
        r=tuning.rank, lora_alpha=tuning.alpha, lora_dropout=0.0, target_modules=targets
    )
    inject_adapter_in_model(config, model)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's progress bars and its table of the other tower's weights."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
