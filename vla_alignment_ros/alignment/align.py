"""ALIGN with momentum: a dual encoder that learns from noisy pairs and remembers earlier batches.

The dual encoder and the noisy pairs are ALIGN's (Jia et al. 2021, arXiv:2102.05918). Two things
make it work with small batches and wrong labels:

* a queue: slow copies of towers and heads embed each batch, and the newest embeddings are kept as
  keys for later batches (MoCo, He et al. 2020, arXiv:1911.05722). The queue knows what its
  sentences name, so an entry that names the same is a positive and no negative.
* soft targets: what the slow copies think fits is mixed into the targets, more and more while
  training goes on (ALBEF, Li et al. 2021, arXiv:2107.07651). A wrong label then disagrees with
  the targets, and is not learned by heart.

Anchors are this batch's embeddings, with gradient; keys are the slow copies' embeddings of this
batch and of the queue, without. Copies and queue serve training alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
import torch.nn.functional as F

from vla_alignment_ros.alignment.approach import approach_margin, approach_weighted
from vla_alignment_ros.alignment.bank import MemoryBank
from vla_alignment_ros.alignment.base import AlignmentInputs, AlignmentOutput
from vla_alignment_ros.alignment.dual_encoder import DualEncoder
from vla_alignment_ros.alignment.heads import precise, projection_head
from vla_alignment_ros.alignment.losses import LogitScale, multi_positive_info_nce, same_group
from vla_alignment_ros.alignment.momentum import MomentumCopies
from vla_alignment_ros.errors import ConfigError


class MomentumAlignment(DualEncoder):
    """See the module's docstring.

    Args:
        width: D of the towers.
        embed: E of the shared space.
        momentum: of the slow copies, per step.
        queue: pairs remembered (Q); 0 compares with this batch alone.
        soft: share of the soft targets once they are ramped up (ALBEF's α).
        ramp_steps: steps in which that share grows from 0.

    Raises:
        ConfigError: a setting is out of range; training before `bind`.
    """

    training_only = ('slow.', 'queue.')

    def __init__(
        self,
        width: int,
        embed: int = 64,
        momentum: float = 0.995,
        queue: int = 2048,
        soft: float = 0.4,
        ramp_steps: int = 1000,
    ) -> None:
        super().__init__(projection_head(width, embed), projection_head(width, embed))
        if not 0 <= momentum < 1 or not 0 <= soft < 1:
            raise ConfigError(f'momentum and soft must be in [0, 1), got {momentum} and {soft}')
        if queue < 0 or ramp_steps < 1:
            raise ConfigError(
                f'queue must be at least 0 and ramp_steps at least 1, got {queue}, {ramp_steps}'
            )
        self.scale = LogitScale()
        self.momentum, self.soft, self.ramp_steps = momentum, soft, ramp_steps
        self.queue_size, self.embed_width = queue, embed
        self.slow: MomentumCopies | None = None
        self.queue: MemoryBank | None = None
        self._towers: tuple[nn.Module, ...] = ()  # a tuple: their weights are not ours
        self._seen: list[tuple[torch.Tensor, ...]] = []  # waits for the end of the step

    def bind(self, vision: nn.Module, language: nn.Module) -> None:
        self._towers = (vision, language)
        self.slow = MomentumCopies(self._originals(), self.momentum)
        if self.queue_size:
            self.queue = MemoryBank(self.queue_size, self.embed_width)
        self.to(self.scale.log_scale.device)

    def _originals(self) -> dict[str, nn.Module]:
        vision, language = self._towers
        return {
            'vision': vision,
            'language': language,
            'vision_head': self.vision,
            'language_head': self.language,
        }

    # -- losses ---------------------------------------------------------------------------------

    def forward(self, inputs: AlignmentInputs) -> AlignmentOutput:
        if self.slow is None:
            raise ConfigError('align trains with copies of the towers: call bind with them first')
        pooled = self.embed(inputs.vision, inputs.language)
        keys = inputs.keys or self.keys(inputs.images, inputs.language.ids)
        scenes, sentences = keys['vision'], keys['language']  # (B, E) each
        if self.training:
            self._seen.append((inputs.referent, scenes, sentences))
        old_scenes, old_sentences, old_ids = self._remembered(inputs)
        named = same_group(inputs.referent, old_ids)  # (B, Q): what row and entry name is one
        # a scene fits an old sentence if a sentence of this batch that names the same is known
        # to fit it; which other things an old scene shows is not known
        fits = (inputs.present.float() @ named.float()) > 0  # (B, Q)

        def of_rows(rows: torch.Tensor) -> torch.Tensor:
            present = inputs.present[rows][:, rows]
            to_sentences = self._soft_contrast(
                pooled['vision'][rows],
                scenes[rows],
                torch.cat([sentences[rows], old_sentences]),
                torch.cat([present, fits[rows]], dim=1),
            )
            to_scenes = self._soft_contrast(
                pooled['language'][rows],
                sentences[rows],
                torch.cat([scenes[rows], old_scenes]),
                torch.cat([present.T, named[rows]], dim=1),
            )
            return (to_sentences + to_scenes) / 2

        diagnostics = {
            'vl_margin': approach_margin(pooled['vision'] @ pooled['language'].T, inputs),
            'scale': self.scale().detach(),
            'soft': self._soft_share(),
        }
        return AlignmentOutput(approach_weighted(inputs, of_rows), diagnostics)

    @torch.no_grad()
    def keys(
        self, images: Mapping[str, torch.Tensor], ids: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Scenes and sentences as the slow copies embed them: (B, E) each."""
        if not len(ids):  # towers need not know what to do with nothing
            none = self.scale.log_scale.new_zeros(0, self.embed_width)
            return {'vision': none, 'language': none}
        slow = self.slow.copies
        scenes = slow['vision_head'](slow['vision'](images).pooled)
        sentences = slow['language_head'](slow['language'](ids).pooled)
        return {
            'vision': F.normalize(scenes, dim=-1),
            'language': F.normalize(sentences, dim=-1),
        }

    def _remembered(self, inputs: AlignmentInputs) -> tuple[torch.Tensor, ...]:
        """Filled rows of the queue: scenes (Q, E), sentences (Q, E), what they name (Q,)."""
        if self.queue is None:
            none = self.scale.log_scale.new_zeros(0, self.embed_width)
            return none, none, inputs.referent[:0]
        return self.queue.rows('vision'), self.queue.rows('language'), self.queue.ids

    def _soft_share(self) -> torch.Tensor:
        """The share of the soft targets by now: a linear ramp."""
        return self.soft * (self.slow.steps / self.ramp_steps).clamp_max(1.0)

    def _soft_contrast(
        self,
        anchors: torch.Tensor,
        slow_anchors: torch.Tensor,
        keys: torch.Tensor,
        positives: torch.Tensor,
    ) -> torch.Tensor:
        """Anchors (R, E) against keys (K, E): labels (R, K), and what the slow copies think."""
        scale = self.scale()
        logits = precise(scale * anchors @ keys.T)  # (R, K)
        labelled = multi_positive_info_nce(logits, positives)
        with torch.no_grad():
            target = precise(scale * slow_anchors @ keys.T).softmax(-1)
        divergence = F.kl_div(logits.log_softmax(-1), target, reduction='sum')
        share = self._soft_share()
        return (1 - share) * labelled + share * divergence / max(len(anchors), 1)

    def after_step(self) -> None:
        self.scale.clamp_()
        if self.slow is not None:
            self.slow.follow(self._originals())
        for referent, scenes, sentences in self._seen:
            if self.queue is not None:
                self.queue.enqueue(referent, vision=scenes, language=sentences)
        self._seen.clear()
