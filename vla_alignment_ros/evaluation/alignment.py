"""Everything `vla_evaluate --alignment` finds out about a checkpoint, in one pass over scenes.

The counterpart of the closed loop: not what the robot does, but what it takes words and pictures
to mean. No ROS; scenes are rendered here and seen through the same bytes as on a robot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
import json
from pathlib import Path

import numpy as np
import torch

from vla_alignment_ros.encoders.language import LanguageFeatures
from vla_alignment_ros.encoders.vision import VisionFeatures
from vla_alignment_ros.evaluation import grounding, reliability, retrieval, zero_shot
from vla_alignment_ros.evaluation.probe import AlignmentProbe
from vla_alignment_ros.evaluation.scenes import EvaluationScene, generate_scenes, Pair
from vla_alignment_ros.evaluation.stats import rate, wilson_interval
from vla_alignment_ros.policy.policy import Policy
from vla_alignment_ros.sim.phrases import load_splits

MATCHED_SPLITS = ('seen', 'unseen_objects')
SPLITS = (*MATCHED_SPLITS, 'absent')
FORMS = {
    'regions': 'prompts against the cells of the full picture that the object covers',
    'crop_score': 'prompts against the object alone in the picture, by the score of the gate',
    'crop_embedding': 'prompts against what the object alone adds to the pooled embedding of an '
    'empty picture',
}
Note = Callable[[str], None]  # told what is being done


@dataclass(frozen=True)
class Viewed:
    """The scenes of one split, with what the towers made of them and of their own sentences."""

    split: str
    scenes: tuple[EvaluationScene, ...]
    vision: VisionFeatures
    language: LanguageFeatures

    @property
    def sentences(self) -> list[str]:
        return [scene.observation.instruction for scene in self.scenes]

    def ids(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids of what is in each scene (B, G), and of what each sentence names (B,)."""
        number = {pair: i for i, pair in enumerate(load_splits().pairs)}
        width = max(len(scene.objects) for scene in self.scenes)
        there = torch.full((len(self.scenes), width), retrieval.NO_ID)
        for row, scene in enumerate(self.scenes):
            there[row, : len(scene.objects)] = torch.tensor([number[p] for p in scene.objects])
        named = torch.tensor([number[scene.target] for scene in self.scenes])
        return there.to(device), named.to(device)


@dataclass
class AlignmentEvaluation:
    """What was found: `figures` for the file, the rest for the pictures."""

    checkpoint: str
    seed: int
    episodes: int  # per split
    figures: dict[str, object] = field(default_factory=dict)
    viewed: dict[str, Viewed] = field(default_factory=dict)
    similarity: dict[str, np.ndarray] = field(default_factory=dict)  # split → (B, B)
    right: dict[str, np.ndarray] = field(default_factory=dict)  # split → (B, B) bool
    embeddings: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    reliability: dict[str, reliability.Reliability] = field(default_factory=dict)
    # split → form → 'colour', 'shape' or 'pair' → answers
    classified: dict[str, dict[str, dict[str, zero_shot.Classification]]] = field(
        default_factory=dict
    )

    def to_dict(self) -> dict[str, object]:
        """Return what the file holds."""
        return {
            'checkpoint': self.checkpoint,
            'seed': self.seed,
            'episodes_per_split': self.episodes,
            **self.figures,
        }


def evaluate_alignment(
    policy: Policy, checkpoint: str, episodes: int, seed: int, note: Note = lambda text: None
) -> AlignmentEvaluation:
    """Run every measure on `episodes` scenes of each split, beginning with scene number `seed`.

    Raises ConfigError for counts that make no sense.
    """
    probe = AlignmentProbe(policy)
    found = AlignmentEvaluation(checkpoint, seed, episodes)
    for split in SPLITS:
        note(f'drawing {episodes} scenes of {split}')
        scenes = tuple(generate_scenes(policy.embodiment, split, episodes, seed))
        vision = probe.look([scene.observation.images for scene in scenes])
        language = probe.hear([scene.observation.instruction for scene in scenes])
        found.viewed[split] = Viewed(split, scenes, vision, language)
    note('retrieval')
    found.figures['retrieval'] = {s: _retrieval(probe, found, s) for s in MATCHED_SPLITS}
    note('matched against absent')
    found.figures['matching'] = _matching(probe, found, seed)
    note('swapped sentences')
    found.figures['action_swap'] = {
        s: _action_swap(probe, found.viewed[s], seed) for s in MATCHED_SPLITS
    }
    for split in MATCHED_SPLITS:
        note(f'zero-shot, {split}')
        found.classified[split] = _zero_shot(probe, found.viewed[split])
    found.figures['zero_shot'] = _zero_shot_figures(found.classified)
    note('grounding')
    found.figures['grounding'] = {s: _grounding(probe, found.viewed[s]) for s in SPLITS}
    return found


def write_figures(path: Path, found: AlignmentEvaluation) -> None:
    """Write all figures with their counts as JSON; the folder is created if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found.to_dict(), indent=2, allow_nan=False)
    path.write_text(text + '\n', encoding='utf-8')


def _retrieval(probe: AlignmentProbe, found: AlignmentEvaluation, split: str) -> dict:
    viewed = found.viewed[split]
    there, named = viewed.ids(probe.policy.device)
    by_score = retrieval.retrieve(
        lambda r, c: probe.similarity(viewed.vision, viewed.language, r, c), there, named
    )
    scenes, sentences = probe.embed(viewed.vision, viewed.language)
    by_embedding = retrieval.retrieve_embeddings(scenes, sentences, there, named)
    found.embeddings[split] = scenes.cpu().numpy(), sentences.cpu().numpy()
    similarity = probe.similarity(viewed.vision, viewed.language)
    found.similarity[split] = similarity.cpu().numpy()
    found.right[split] = (there.unsqueeze(1) == named.view(1, -1, 1)).any(2).cpu().numpy()
    return {
        'by_score': by_score.to_dict(),
        'by_pooled_embedding': by_embedding.to_dict(),
        'modality_gap': retrieval.known(retrieval.modality_gap(scenes, sentences)),
        'uniformity_scenes': retrieval.known(retrieval.uniformity(scenes)),
        'uniformity_sentences': retrieval.known(retrieval.uniformity(sentences)),
    }


def _matching(probe: AlignmentProbe, found: AlignmentEvaluation, seed: int) -> dict:
    """The own sentence against the same one naming what is missing; and the absent split."""
    figures: dict[str, object] = {}
    own = {s: probe.probability(v.vision, v.language) for s, v in found.viewed.items()}
    for split in MATCHED_SPLITS:
        viewed, rng = found.viewed[split], np.random.default_rng([seed, 1])
        wrong = [scene.saying(scene.another(rng, present=False)) for scene in viewed.scenes]
        missing = probe.probability(viewed.vision, probe.hear(wrong))
        scores = np.r_[own[split], missing]
        match = np.r_[np.ones(len(missing), bool), np.zeros(len(missing), bool)]
        plain = reliability.reliability(scores, match)
        found.reliability[split] = plain
        fall, falls = reliability.score_sensitivity(own[split], missing)
        figures[split] = {
            'matched': len(own[split]),
            'missing': len(missing),
            'auroc_same_scene': retrieval.known(reliability.auroc(own[split], missing)),
            'auroc_absent_split': retrieval.known(reliability.auroc(own[split], own['absent'])),
            'absent_split': len(own['absent']),
            'calibration': plain.to_dict(),
            'ece_equal_counts': retrieval.known(
                reliability.reliability(scores, match, adaptive=True).ece
            ),
            'score_fall': retrieval.known(fall),
            'score_falls': {
                'hits': falls,
                'count': len(missing),
                'rate': round(rate(falls, len(missing)), 6),
                'ci95': [round(b, 6) for b in wilson_interval(falls, len(missing))],
            },
        }
    return figures


def _action_swap(probe: AlignmentProbe, viewed: Viewed, seed: int) -> dict:
    """The first action, when the sentence names another thing on the same table."""
    rng, own, swapped = np.random.default_rng([seed, 2]), [], []
    for scene in viewed.scenes:
        other = scene.another(rng, present=True)
        if other is not None:
            own.append(probe.action(scene.observation))
            swapped.append(probe.action(scene.told(scene.saying(other))))
    change = reliability.action_sensitivity(np.array(own), np.array(swapped))
    return {'scenes': len(own), 'relative_change': retrieval.known(change)}


def _labels() -> dict[str, tuple[str, ...]]:
    splits = load_splits()
    pairs = tuple(' '.join(pair) for pair in splits.pairs)
    return {'colour': splits.colors, 'shape': splits.shapes, 'pair': pairs}


def _class_of(kind: str, pair: Pair) -> str:
    return {'colour': pair[0], 'shape': pair[1], 'pair': ' '.join(pair)}[kind]


def _zero_shot(
    probe: AlignmentProbe, viewed: Viewed
) -> dict[str, dict[str, zero_shot.Classification]]:
    """Form → kind → answers, over all objects that the first camera sees enough of."""
    camera = probe.policy.embodiment.cameras[0].name
    layout = next(c for c in viewed.vision.layout if c.name == camera)
    labels = _labels()
    said = {
        kind: probe.hear([prompt for name in names for prompt in zero_shot.prompts(name)])
        for kind, names in labels.items()
    }
    scores: dict[str, dict[str, list]] = {form: {k: [] for k in labels} for form in FORMS}
    truth: list[Pair] = []
    for row, scene in enumerate(viewed.scenes):
        masks = {pair: scene.mask(camera, *pair) for pair in scene.objects}
        masks = {p: m for p, m in masks.items() if m.sum() >= grounding.MIN_PIXELS}
        if not masks:
            continue
        truth += masks
        nothing = np.zeros_like(scene.segmentation[camera], bool)
        grid = [zero_shot.cover(m, layout.rows, layout.columns) for m in masks.values()]
        images = scene.observation.images
        alone = probe.look(
            [
                {n: zero_shot.isolate(i, mask) if n == camera else zero_shot.blank(i)
                 for n, i in images.items()}
                for mask in (*masks.values(), nothing)
            ]
        )  # fmt: skip
        for kind, names in labels.items():
            shape = (len(masks), len(names), len(zero_shot.TEMPLATES))
            regions = probe.region_scores(viewed.vision, row, camera, np.stack(grid), said[kind])
            scores['regions'][kind].append(regions.reshape(shape).mean(2))
            crops = probe.similarity(alone, said[kind])[:-1].cpu().numpy()
            scores['crop_score'][kind].append(crops.reshape(shape).mean(2))
            pictures, words = probe.embed(alone, said[kind])
            classes = zero_shot.ensemble(words.reshape(*shape[1:], -1))
            # the last picture is empty: in a mean over all cells, one object is a small part
            added = (pictures[:-1] - pictures[-1:]) @ classes.T
            scores['crop_embedding'][kind].append(added.cpu().numpy())
    return {
        form: {
            kind: zero_shot.classify(
                np.concatenate(rows) if rows else np.zeros((0, len(labels[kind]))),
                [labels[kind].index(_class_of(kind, pair)) for pair in truth],
                labels[kind],
            )
            for kind, rows in kinds.items()
        }
        for form, kinds in scores.items()
    }


def _zero_shot_figures(classified: dict) -> dict:
    held_out = {' '.join(pair) for pair in load_splits().held_out_pairs}
    figures: dict = {}
    for split, forms in classified.items():
        for form, kinds in forms.items():
            one = figures.setdefault(form, {}).setdefault(split, {})
            one.update({kind: answers.to_dict() for kind, answers in kinds.items()})
            pairs = kinds['pair']
            one['pair_trained'] = pairs.only(set(pairs.labels) - held_out).to_dict()
            one['pair_never_trained'] = pairs.only(held_out).to_dict()
    return figures


def _grounding(probe: AlignmentProbe, viewed: Viewed) -> dict:
    """Camera → kind of query → counts, and the scenes that they come from."""
    figures: dict[str, object] = {}
    for camera in viewed.vision.layout:
        judged = []
        for row, scene in enumerate(viewed.scenes):
            sentence, words = probe.maps(viewed.vision, viewed.language, row, camera.name)
            for query in grounding.queries(scene, scene.observation.instruction, camera.name):
                if query.word is None:
                    judged.append((query, sentence))
                elif query.word < len(words):  # a long sentence's end is not read
                    judged.append((query, words[query.word]))
        kinds = grounding.tally(judged)
        figures[camera.name] = {k: kinds[k].to_dict() for k in grounding.KINDS if k in kinds}
    return figures
