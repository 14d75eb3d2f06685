"""Dynamic alignment: a mixture of projections, chosen for each scene and each sentence.

Different tasks can ask for different things in the same picture, so one projection is not enough.
Each side has a few experts, linear maps D → E, and a router that weighs the best few of them:

* a scene is routed by its own pooled features;
* a sentence is routed by its own pooled features and by its task. At run time nobody says which
  task a sentence is, so a classifier on the pooled sentence gives a distribution over tasks, and
  the router reads the mean task embedding under it. Training uses the same guess, taught by what
  the recorder noted where it did.

Neither side looks at the other: every scene and every sentence has one vector, whatever it is
compared with, so all scenes can be ranked for all sentences by their cosine. The experts are
linear, so image tokens projected with their scene's gate average to the scene's own vector, and
regions mean the same as the score does.
"""

from __future__ import annotations

import torch
from torch import nn
import torch.nn.functional as F

from vla_alignment_ros.alignment.approach import approach_margin, in_batch
from vla_alignment_ros.alignment.base import AlignmentInputs, AlignmentOutput
from vla_alignment_ros.alignment.dual_encoder import DualEncoder
from vla_alignment_ros.alignment.experts import ExpertProjection, Routing
from vla_alignment_ros.alignment.heads import precise, projection_head
from vla_alignment_ros.alignment.losses import LogitScale, symmetric_info_nce
from vla_alignment_ros.encoders.language import LanguageFeatures
from vla_alignment_ros.encoders.vision import VisionFeatures
from vla_alignment_ros.errors import ConfigError


class DynamicAlignment(DualEncoder):
    """See the module's docstring.

    Args:
        width: D of the towers.
        embed: E of the shared space.
        experts: X, per side.
        top_k: experts per scene and per sentence. At least 2: a single renormalised gate is
            always 1, and its router would never learn.
        tasks: kinds of task that a recorder may note, 1 … tasks; 0 leaves the task out.
        balance_weight: weight of the balance loss.
        task_weight: weight of the task classifier's loss.

    Raises:
        ConfigError: `top_k` is not in 2 … experts, or `tasks` is negative.
    """

    def __init__(
        self,
        width: int,
        embed: int = 64,
        experts: int = 4,
        top_k: int = 2,
        tasks: int = 8,
        balance_weight: float = 0.01,
        task_weight: float = 0.1,
    ) -> None:
        if not 2 <= top_k <= experts:
            raise ConfigError(f'top_k must be in 2 … {experts} (experts), got {top_k}')
        if tasks < 0:
            raise ConfigError(f'tasks must be at least 0, got {tasks}')
        context = 2 * width if tasks else width  # of the sentence's router
        super().__init__(
            ExpertProjection(width, embed, width, experts, top_k),
            ExpertProjection(width, embed, context, experts, top_k),
        )
        self.task = projection_head(width, tasks) if tasks else None
        self.task_embedding = nn.Embedding(tasks, width) if tasks else None
        self.balance_weight, self.task_weight = balance_weight, task_weight
        self.scale = LogitScale()

    # -- routing --------------------------------------------------------------------------------

    def route_scene(self, vision: VisionFeatures) -> Routing:
        """By what the scene looks like."""
        return self.vision.route(vision.pooled)

    def route_sentence(self, language: LanguageFeatures) -> Routing:
        """By what the sentence says and the task it seems to ask for."""
        context = language.pooled
        if self.task is not None:
            expected = self.task_logits(language).softmax(-1) @ self.task_embedding.weight
            context = torch.cat([context, expected], dim=-1)  # (M, 2D)
        return self.language.route(context)

    def task_logits(self, language: LanguageFeatures) -> torch.Tensor:
        """Which task a sentence asks for: (M, T), task t in column t − 1."""
        return self.task(language.pooled)

    def project_scene(self, features: torch.Tensor, vision: VisionFeatures) -> torch.Tensor:
        return self.vision(features, self.route_scene(vision).gates)

    def project_sentence(self, features: torch.Tensor, language: LanguageFeatures) -> torch.Tensor:
        return self.language(features, self.route_sentence(language).gates)

    # -- losses ---------------------------------------------------------------------------------

    def forward(self, inputs: AlignmentInputs) -> AlignmentOutput:
        similarity = self.similarity(inputs.vision, inputs.language)  # (B, B)
        losses = in_batch(similarity, inputs, self._contrast)
        diagnostics = {'vl_margin': approach_margin(similarity, inputs)}
        sides = {
            'vision': self.route_scene(inputs.vision),
            'language': self.route_sentence(inputs.language),
        }
        for side, routing in sides.items():
            losses[f'balance_{side}'] = self.balance_weight * routing.balance()
            diagnostics[f'{side}_entropy'] = routing.entropy()
            diagnostics |= {f'{side}_expert_{i}': share for i, share in enumerate(routing.use)}
        if self.task is not None:
            losses['task'], diagnostics['task_right'] = self._task_loss(inputs)
        return AlignmentOutput(losses, diagnostics)

    def _contrast(self, similarity: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
        return symmetric_info_nce(self.scale() * similarity, positives)

    def _task_loss(self, inputs: AlignmentInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy of the classifier, and its accuracy, where the task was noted."""
        logits, task = self.task_logits(inputs.language), inputs.task
        known = task > 0
        if not known.any():
            return 0.0 * logits.sum(), logits.new_zeros(())
        if int(task.max()) > logits.shape[1]:
            raise ConfigError(
                f'the data notes a task {int(task.max())}, but alignment.settings.dynamic.tasks '
                f'is {logits.shape[1]}: raise it'
            )
        logits, task = logits[known], task[known] - 1
        right = (logits.detach().argmax(1) == task).float().mean()
        return self.task_weight * F.cross_entropy(precise(logits), task), right

    def after_step(self) -> None:
        self.scale.clamp_()
