"""Whether the words of recorded episodes fit what was done, as a trained policy sees it.

Two scores of an episode and a sentence. The scene score is the one of the policy's gate: is what
the sentence names there at all? The action score is the one of its verifier, the cosine of
fused(scene, sentence) and the actions that were demonstrated, in the mean over moments spread
over the episode: was it this that was done here? An object that is there but was not meant has a
high scene score; only the actions give it away.

Which action score is too low is told by the others: labels are mostly right, so median and
median deviation of a folder hold, whatever the checkpoint and the robot, with a third of wrong
ones among them.

A sentence that fits better is looked for among those of the other episodes.

Shapes: R moments, M sentences, D width, H horizon.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vla_alignment_ros.data.episode import index_episode, keyframe_rows, observations
from vla_alignment_ros.data.quality import EpisodeQuality, Finding, Severity
from vla_alignment_ros.data.quality_folder import FEWEST
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.encoders.language import spoken_words, tokenize, UNKNOWN_ID
from vla_alignment_ros.errors import DatasetError
from vla_alignment_ros.fields import differences
from vla_alignment_ros.observation import normalize_instruction, Observation, ObservationAssembler
from vla_alignment_ros.policy.hindsight import FAR_M
from vla_alignment_ros.policy.model import Scene
from vla_alignment_ros.policy.policy import Policy

MOMENTS = 12  # of an episode that are looked at
BEGINNING = 3  # of them, in which the scene is judged: later the hand covers what is named
DEVIATIONS = 6.0  # from the median of the folder: a score that is lower does not belong to it
LEAST_DEVIATION = 0.01  # of a cosine: scores that are closer together are one
LEAD = 0.05  # by which another sentence has to be better, to be suggested
CLEAR_LEAD = 0.15  # the same, where there are too few episodes to tell what is usual
MOST_SENTENCES = 256  # that are tried for one episode: those of most episodes
ACTION, SCENE, MISS = 'action_score', 'scene_score', 'aim_miss_m'  # measures


@dataclass(frozen=True)
class Fit:
    """How an episode and its sentence fit."""

    action: float  # cosine
    scene: float  # probability that what is named is there
    miss_m: float  # horizontally, from where the words point to where the hand went; nan: unknown
    unknown: tuple[str, ...]  # words that the model does not know


@dataclass(frozen=True)
class _Moments:
    """Some moments of an episode, read with its own words."""

    scene: Scene
    encoded: torch.Tensor  # (R, 1, D) of the actions that followed
    texts: tuple[str, ...]  # (R,)
    first: int  # how many of them belong to the beginning
    hand: np.ndarray  # (R, 3) m; (R, 0) where it is not known
    keyframe: np.ndarray  # the same of the place where the gripper changes first


class LabelJudge:
    """One policy's opinion of recorded episodes. One episode is in memory at a time."""

    def __init__(self, policy: Policy, moments: int = MOMENTS) -> None:
        self._policy = policy
        self._model = policy.checkpoint.model
        self._moments = moments
        self._assemblers: dict[str, ObservationAssembler] = {}

    @property
    def go(self) -> float:
        """Scene score above which the gate lets the arm begin."""
        return self._policy.calibration.go

    def strange(self, embodiment: Embodiment) -> list[str]:
        """What the model would see otherwise than it was trained; not topics and limits."""
        return differences(_as_seen(self._policy.embodiment), _as_seen(embodiment))

    @torch.inference_mode()
    def fit(self, path: Path, embodiment: Embodiment | None = None) -> Fit:
        """How an episode fits its own words.

        Args:
            path: the episode.
            embodiment: instead of the one that it names.

        Raises:
            DatasetError: it cannot be read.
        """
        moments = self._read(path, embodiment)
        c = self._policy.calibration
        raw = self._model.alignment.vision_language(moments.scene.vision, moments.scene.language)
        scene = torch.sigmoid(c.slope * raw.float() + c.offset)[: moments.first]
        words = spoken_words(self._policy.checkpoint.tokenizer, moments.texts[0])
        ids = tokenize(self._policy.checkpoint.tokenizer, moments.texts[:1])[0]
        unknown = [w for w, places in words if (ids[places] == UNKNOWN_ID).any()]
        return Fit(
            self._action_score(moments.scene.fused, moments),
            float(scene.median()),
            self._miss(moments),
            tuple(unknown),
        )

    @torch.inference_mode()
    def action_scores(
        self, path: Path, sentences: Sequence[str], embodiment: Embodiment | None = None
    ) -> np.ndarray:
        """How well the actions of an episode fit other sentences, (M,) cosines; see `fit`."""
        moments = self._read(path, embodiment)
        device = self._policy.device
        heard = self._model.listen(
            tokenize(self._policy.checkpoint.tokenizer, sentences).to(device)
        )
        rows = len(moments.texts)
        scores = []
        for number in range(len(sentences)):
            one = heard.rows(torch.full((rows,), number, device=device))
            scores.append(self._action_score(self._model.reread(moments.scene, one), moments))
        return np.array(scores)

    def _action_score(self, fused: torch.Tensor, moments: _Moments) -> float:
        score = self._model.alignment.vision_language_action(fused, moments.encoded)  # (R, 1)
        return float(score.float().mean())

    def _miss(self, moments: _Moments) -> float:
        """How far the words point from where the hand went, while it still had a way to go."""
        if not moments.hand.shape[1]:
            return float('nan')
        way = np.linalg.norm(moments.hand - moments.keyframe, axis=1)  # (R,)
        far = way > FAR_M
        far[moments.first :] = False
        if not far.any():
            return float('nan')
        aim = self._model.normalizer.denormalize_keyframe(moments.scene.keyframe.float())
        miss = np.linalg.norm((aim.cpu().numpy() - moments.keyframe)[:, :2], axis=1)
        return float(np.median(miss[far]))

    def _read(self, path: Path, embodiment: Embodiment | None) -> _Moments:
        index = index_episode(path, embodiment)
        assembler = self._assembler(index.embodiment)
        spread = np.linspace(0, len(index) - 1, min(self._moments, len(index)))
        keyframe = int(keyframe_rows(index)[0])
        rows = np.unique([*spread.round().astype(int), keyframe])
        some = index.rows(rows)
        seen: list[Observation | None] = [None] * len(some)
        for row, observation in observations(some, assembler):
            seen[row] = observation
        if any(observation is None for observation in seen):
            raise DatasetError(f'episode {path} changed while it was read')
        device = self._policy.device
        images = {
            c.name: torch.from_numpy(np.stack([o.images[c.name] for o in seen])).to(device)
            for c in index.embodiment.cameras
        }
        state = np.stack([o.state for o in seen])
        texts = tuple(o.instruction for o in seen)
        ids = tokenize(self._policy.checkpoint.tokenizer, texts).to(device)
        read = self._model.read(
            images, torch.from_numpy(state).to(device), self._model.listen(ids)
        )
        position = list(self._model.config.position_index)
        return _Moments(
            read,
            self._encode(some.actions, some.chunk_start, some.chunk_stop),
            texts,
            min(BEGINNING, len(rows)),
            state[:, position],
            state[np.searchsorted(rows, keyframe), position],
        )

    def _encode(self, actions: np.ndarray, start: np.ndarray, stop: np.ndarray) -> torch.Tensor:
        """The chunks [start, stop) of actions (A, 7) as the verifier sees them, (R, 1, D)."""
        horizon, device = self._model.config.horizon, self._policy.device
        steps = start[:, None] + np.arange(horizon)  # (R, H)
        mask = torch.from_numpy(steps < stop[:, None]).to(device)
        chunks = torch.from_numpy(actions[np.minimum(steps, stop[:, None] - 1)]).to(device)
        return self._model.action(self._model.normalizer.action(chunks), mask).unsqueeze(1)

    def _assembler(self, embodiment: Embodiment) -> ObservationAssembler:
        key = embodiment.digest()
        if key not in self._assemblers:
            self._assemblers[key] = ObservationAssembler(embodiment)
        return self._assemblers[key]


def _as_seen(embodiment: Embodiment) -> dict:
    """What of an embodiment makes the numbers that a model sees."""
    whole = embodiment.to_dict()
    action = {k: whole['action'][k] for k in ('space', 'frame', 'names', 'units')}
    cameras = [{k: c[k] for k in ('name', 'width', 'height')} for c in whole['cameras']]
    parts = ('joint_names', 'gripper', 'rate_hz', 'urdf', 'base_link', 'ee_link')
    return {'action': action, 'cameras': cameras, **{k: whole[k] for k in parts}}


# -- episodes -----------------------------------------------------------------------------------


def judged(episode: EpisodeQuality, judge: LabelJudge) -> EpisodeQuality:
    """An episode with its scores as measures; whether they are too low the folder says.

    Of an episode that no samples can be made of there are none.
    """
    if not episode.usable or episode.embodiment is None:
        return episode
    strange = judge.strange(episode.embodiment)
    if strange:
        text = f'recorded with another robot than the checkpoint was trained for: {strange[0]}'
        text += f' and {len(strange) - 1} more' if len(strange) > 1 else ''
        return episode.plus(Finding('unscored', Severity.WARNING, text))
    if any(f.kind == 'image' and f.severity == Severity.ERROR for f in episode.findings):
        text = 'a camera shows nothing: whether the words fit was not judged'
        return episode.plus(Finding('unscored', Severity.INFO, text))
    try:
        fit = judge.fit(episode.path, episode.embodiment)
    except DatasetError as error:
        return episode.plus(Finding('message', Severity.ERROR, str(error)))
    found = episode.plus(**{ACTION: fit.action, SCENE: fit.scene, MISS: fit.miss_m})
    if fit.unknown:
        words = ', '.join(f'“{word}”' for word in fit.unknown)
        text = f'the model was never told {words}'
        found = found.plus(Finding('unscored', Severity.INFO, text))
    return found


def with_labels_checked(
    episodes: Sequence[EpisodeQuality],
    judge: LabelJudge,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[EpisodeQuality]:
    """The same episodes, with a finding where the words do not fit.

    Args:
        episodes: that `judged` has seen; those without scores stay as they are.
        judge: the same.
        progress: told how many of the suspicious ones have been compared with other sentences.
    """
    scored = [e for e in episodes if ACTION in e.measures]
    if not scored:
        return list(episodes)
    usual = Usual.of(np.array([e.measures[ACTION] for e in scored]))
    suspects = [e for e in scored if usual.is_low(e.measures[ACTION])
                or e.measures[SCENE] < judge.go]  # fmt: skip
    said = Counter(normalize_instruction(e.instruction) for e in scored)
    sentences = [text for text, _ in said.most_common(MOST_SENTENCES + 1) if text]
    found: dict[Path, Finding] = {}
    for number, episode in enumerate(suspects):
        finding = _compare(episode, sentences, usual, judge)
        if finding is not None:
            found[episode.path] = finding
        progress(number + 1, len(suspects))
    return [e.plus(found[e.path]) if e.path in found else e for e in episodes]


@dataclass(frozen=True)
class Usual:
    """Action scores of right labels, by the others in the folder; without enough, nothing."""

    median: float
    low: float  # what is below does not belong to them; nan: not known

    @classmethod
    def of(cls, scores: np.ndarray) -> Usual:
        """From the scores (N,) of a folder in which most labels are right."""
        median = float(np.median(scores))
        if len(scores) < FEWEST:
            return cls(median, float('nan'))
        deviation = 1.4826 * float(np.median(np.abs(scores - median)))  # σ, were they normal
        return cls(median, median - DEVIATIONS * max(deviation, LEAST_DEVIATION))

    def is_low(self, score: float) -> bool:
        """Whether a score has to be looked into; all have, where nothing is known."""
        return not score >= self.low


def _compare(
    episode: EpisodeQuality, sentences: Sequence[str], usual: Usual, judge: LabelJudge
) -> Finding | None:
    """What is wrong with the words of a suspicious episode; None: nothing, after all."""
    label = normalize_instruction(episode.instruction)
    score, scene, miss = (episode.measures[name] for name in (ACTION, SCENE, MISS))
    others = [text for text in sentences if text != label][:MOST_SENTENCES]
    best, best_score = '', float('-inf')
    if others:
        scores = judge.action_scores(episode.path, others, episode.embodiment)
        best, best_score = others[int(scores.argmax())], float(scores.max())
    known = np.isfinite(usual.low)
    lead = best_score - score
    better = lead > (LEAD if known else CLEAR_LEAD)
    absent, low = scene < judge.go, known and score < usual.low
    if not (absent or low or better):
        return None
    reasons = []
    if absent:
        reasons.append(
            f'the scene does not seem to hold what it names ({scene:.2f}, the gate opens at '
            f'{judge.go:.2f})'
        )
    if low:
        reasons.append(
            f'what is done does not fit ({score:.2f}; the others about {usual.median:.2f})'
        )
    if np.isfinite(miss) and miss > 0.05:
        reasons.append(f'the words point {100 * miss:.0f} cm from where the hand goes')
    suggestion = None
    if better and not (known and best_score < usual.low):
        suggestion = best
        reasons.append(f'“{best}” fits better ({best_score:.2f}, its own {score:.2f})')
    elif others:
        reasons.append('no sentence of the other episodes fits well')
    sure = absent or suggestion is not None
    return Finding(
        'label',
        Severity.ERROR if sure else Severity.WARNING,
        f'“{label}”: ' + '; '.join(reasons),
        suggestion=suggestion,
    )
