"""What a batch of demonstrations asks of the network: of each row first, then of all together.

`read_rows` makes what belongs to one row and needs the towers: the features that the alignment
compares, and cost and weight of every loss that is a mean over rows. `compare` makes the losses
from all rows: the alignment, which contrasts them, and the means. Between the two, rows can be put
together that were read one part after the other or in several processes (`training.step`), and
the losses are those of one large batch.

Shapes: B batch, N image tokens, L words, H horizon, D width, as in `model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TYPE_CHECKING

import torch

from vla_alignment_ros.alignment.base import AlignmentInputs, AlignmentOutput, Labels
from vla_alignment_ros.alignment.heads import precise
from vla_alignment_ros.alignment.labels import cell_labels
from vla_alignment_ros.encoders.language import LanguageFeatures
from vla_alignment_ros.encoders.vision import running_norms, VisionFeatures
from vla_alignment_ros.policy import hindsight
from vla_alignment_ros.policy.hindsight import Term

if TYPE_CHECKING:
    from vla_alignment_ros.policy.model import VlaModel

# what a batch knows about its rows that the alignment wants to know too
ABOUT = ('group', 'referent', 'approach', 'present', 'task', 'named', 'holds')
_VISION = ('tokens', 'pooled')
_LANGUAGE = ('tokens', 'words', 'ids', 'mask', 'pooled')


@dataclass(frozen=True)
class Rows:
    """What was read: the terms of the losses, and the features that the alignment compares.

    Without alignment losses there are no features.
    """

    terms: dict[str, Term]
    vision: VisionFeatures | None = None
    language: LanguageFeatures | None = None
    recoloured: VisionFeatures | None = None  # of the rows' copies in other colours, (R, …)
    vectors: dict[str, torch.Tensor] | None = None  # fused, fused_swapped, action: (B, D)

    def flat(self) -> dict[str, torch.Tensor]:
        """All of it as named tensors (B, …)."""
        found = {}
        for name, term in self.terms.items():
            found |= {f'cost.{name}': term.cost, f'weight.{name}': term.weight}
        if self.vectors is not None:
            found |= {f'vision.{name}': getattr(self.vision, name) for name in _VISION}
            found |= {f'language.{name}': getattr(self.language, name) for name in _LANGUAGE}
            found |= {f'vector.{name}': value for name, value in self.vectors.items()}
        if self.recoloured is not None:
            found |= {f'recoloured.{name}': getattr(self.recoloured, name) for name in _VISION}
        return found

    @classmethod
    def of(cls, flat: Mapping[str, torch.Tensor], model: VlaModel) -> Rows:
        """From what `flat` gave; the rows may have been put together meanwhile."""
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for name, value in flat.items():
            kind, _, rest = name.partition('.')
            parts.setdefault(kind, {})[rest] = value
        terms = {name: Term(cost, parts['weight'][name]) for name, cost in parts['cost'].items()}
        if 'vector' not in parts:
            return cls(terms)
        tower = model.vision
        seen = {
            kind: VisionFeatures(
                **parts[kind], coordinates=tower.coordinates, layout=tower.layout
            )
            for kind in ('vision', 'recoloured')
            if kind in parts
        }
        return cls(
            terms, language=LanguageFeatures(**parts['language']), vectors=parts['vector'], **seen
        )


def draw(
    model: VlaModel, batch: Mapping[str, Any], generator: torch.Generator | None
) -> dict[str, Any]:
    """The batch with all that chance decides in it: nothing after this draws a number.

    Adds the noise (B, H, 7) and time (B,) of the action head, and `swapped_from` (B,), the row
    whose sentence each scene is read with too, `swapped` (B,), that sentence.
    """
    noise, time = model.head.draw(batch['action'], generator)
    row = batch['sentence']
    order = torch.randperm(len(row), generator=generator, device=row.device)
    drawn = {'noise': noise, 'time': time, 'swapped_from': order, 'swapped': row[order]}
    return {**batch, **drawn}


def read_rows(model: VlaModel, drawn: Mapping[str, Any], align: bool) -> Rows:
    """Read the rows of a batch (or of a part of it) that `draw` gave; `align`: features too."""
    instruction = model.listen(drawn['ids'])
    own = instruction.rows(drawn['sentence'])
    scene = model.read(drawn['images'], drawn['state'], own)
    actions, mask = model.normalizer.action(drawn['action']), drawn['action_mask']
    context = (scene.context, scene.padding, scene.condition)
    error = model.head.errors(actions, drawn['noise'], drawn['time'], *context)  # (B, H)
    terms = {'action': Term(error, mask.float())}
    if model.config.position_index:
        terms |= hindsight.keyframe_terms(model, scene, drawn)
    if not align:
        return Rows(terms)
    if model.config.position_index and model.config.projections:
        terms |= hindsight.grounding_terms(model, scene, drawn)
    vectors = {
        'fused': scene.fused,
        'fused_swapped': model.reread(scene, instruction.rows(drawn['swapped'])),
        'action': model.action(actions.to(scene.fused.dtype), mask),
    }
    copies = None
    if 'recoloured' in drawn:
        with running_norms(model.vision):
            copies = model.vision(drawn['recoloured'])
    return Rows(terms, scene.vision, scene.language, copies, vectors)


def facts(model: VlaModel, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """What the alignment is told about the rows, as arguments of `AlignmentInputs`."""
    cells = cell_labels(drawn['labels'], model.vision.layout)
    told = {key: drawn[key] for key in (*ABOUT, 'swapped_from', 'images')}
    told['labels'] = None
    if cells is not None:
        told['labels'] = Labels(cells, *(drawn[key] for key in ('names', 'untold', 'colours')))
    if 'recoloured' in drawn:
        told['recoloured_cells'] = cell_labels(drawn['recoloured_labels'], model.vision.layout)
    return told


def compare(
    model: VlaModel, rows: Rows, told: Mapping[str, Any], weights: Mapping[str, float]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Named, weighted losses and detached diagnostics of all rows that were put together.

    Args:
        model: whose alignment compares them.
        rows: as read.
        told: what `facts` gave, of the same rows.
        weights: `keyframe` and `alignment`.
    """
    losses = {'action': rows.terms['action'].mean()}
    diagnostics: dict[str, torch.Tensor] = {}
    if 'keyframe' in rows.terms:
        loss, diagnostics = hindsight.keyframe_loss(rows.terms)
        losses['keyframe'] = weights['keyframe'] * loss
    if rows.vectors is not None:
        inputs = AlignmentInputs(
            vision=rows.vision,
            language=rows.language,
            recoloured=rows.recoloured,
            **rows.vectors,
            **told,
        )
        output = _aligned(model, inputs)
        for name, value in output.losses.items():
            losses[f'align_{name}'] = weights['alignment'] * value
        diagnostics.update(output.diagnostics)
        if model.config.position_index and model.config.projections:
            losses['align_hindsight'], found = hindsight.grounding_loss(rows.terms)
            diagnostics.update(found)
    return losses, diagnostics


def _aligned(model: VlaModel, inputs: AlignmentInputs) -> AlignmentOutput:
    """The alignment's losses, in full precision also where the towers computed in half of it.

    Similarities are told apart by their third digit, and a temperature multiplies the error.
    """
    kind = inputs.group.device.type
    if torch.is_autocast_enabled(kind):
        # what a strategy reads for itself costs as much as the towers: still in half
        keys = inputs.keys or model.alignment.keys(inputs.images, inputs.language.ids)
        inputs = _in_full(replace(inputs, keys=keys))
    with torch.autocast(kind, enabled=False):
        return model.alignment(inputs)


def _in_full(value: Any) -> Any:
    """Every floating-point tensor in it in a precise type; the rest as it is."""
    if isinstance(value, torch.Tensor):
        return precise(value) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {name: _in_full(item) for name, item in value.items()}
    if is_dataclass(value):
        names = [field.name for field in fields(value) if field.init]
        return replace(value, **{name: _in_full(getattr(value, name)) for name in names})
    return value
