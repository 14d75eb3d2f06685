"""The policy as everything else sees it: an observation in, a scored decision out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
import time

import numpy as np
import torch
import torch.nn.functional as F

from vla_alignment_ros.control.codecs import gripper_index
from vla_alignment_ros.control.continuation import Continuation
from vla_alignment_ros.embodiment import ACTION_DIM, Embodiment
from vla_alignment_ros.encoders.language import spoken_words, tokenize
from vla_alignment_ros.encoders.vision import CameraTokens
from vla_alignment_ros.errors import CheckpointError, ConfigError, ControlError
from vla_alignment_ros.observation import ActionChunk, Observation
from vla_alignment_ros.policy.checkpoint import Calibration, Checkpoint, load_checkpoint
from vla_alignment_ros.policy.model import Instruction, Scene

INSTRUCTION_CACHE = 64  # sentences whose embedding is kept


@dataclass(frozen=True)
class Grounding(Mapping[str, dict[str, np.ndarray]]):
    """Where the words point; as a mapping, each word ('3:red') to a heat-map per camera.

    A heat-map (rows, columns) is a share of a softmax over the cells of all cameras.
    """

    words: dict[str, dict[str, np.ndarray]]
    sentence: dict[str, np.ndarray]  # camera → heat-map of the sentence as a whole
    naming: dict[str, float]  # word → how much it helps to name the thing, 0…1

    def __getitem__(self, word: str) -> dict[str, np.ndarray]:
        return self.words[word]

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True)
class Decision:
    """What the policy answers to one observation, and how much it believes it.

    `vl_score` is the calibrated probability (0…1) that the sentence fits the scene;
    `action_score` the verifier's cosine of the chosen chunk, `margin` its lead over the mean of
    the other candidates.
    """

    chunk: ActionChunk
    vl_score: float
    action_score: float
    margin: float
    latency_s: float
    candidate_scores: tuple[float, ...] = ()
    keyframe: np.ndarray | None = None  # (3,) m, base_link: where the hand goes next
    grounding: Grounding | None = None  # where asked for


def pick_device(device: str = 'auto') -> torch.device:
    """'auto' is the GPU where there is one; a device that is not there is a `ConfigError`."""
    if device == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f'unknown device {device!r}; use auto, cpu or cuda[:N]') from error
    if chosen.type == 'cuda' and not torch.cuda.is_available():
        raise ConfigError(f'device {device!r} asked for, but torch sees no GPU; use auto or cpu')
    return chosen


class Policy:
    """A checkpoint that acts. One instance serves one robot; not thread-safe."""

    def __init__(
        self, checkpoint: Checkpoint, device: str = 'auto', flow_steps: int = 4
    ) -> None:
        self.device = pick_device(device)
        self.checkpoint = checkpoint
        self.embodiment: Embodiment = checkpoint.embodiment
        self.calibration: Calibration = checkpoint.calibration
        self.flow_steps = flow_steps
        self._gripper = gripper_index(self.embodiment)
        self._model = checkpoint.model.to(self.device).eval()
        self._sentences: OrderedDict[str, Instruction] = OrderedDict()

    @classmethod
    def load(cls, folder: str | Path, device: str = 'auto', flow_steps: int = 4) -> Policy:
        """From a checkpoint folder. Raises `CheckpointError` or `ConfigError`."""
        return cls(load_checkpoint(folder), device, flow_steps)

    @property
    def horizon(self) -> int:
        """H, steps per chunk."""
        return self._model.config.horizon

    def reset(self) -> None:
        """Forget what belongs to an episode (the sentence cache stays: it depends on words)."""

    def warm_up(self, steps: int = 3) -> float:
        """Run on empty images so that the first real step is not slow; median latency in s.

        Raises CheckpointError where the model's answer is not finite.
        """
        e = self.embodiment
        images = {c.name: np.zeros((c.height, c.width, 3), np.uint8) for c in e.cameras}
        state = np.zeros(self._model.config.state_dim, np.float32)
        blank = Observation(0, images, state, 'warm up')
        decisions = [self.step(blank) for _ in range(max(1, steps))]
        for one in decisions:
            if not (np.isfinite(one.chunk.actions).all() and np.isfinite(one.vl_score)):
                raise CheckpointError('the model answers with values that are not finite')
        return float(np.median([one.latency_s for one in decisions]))

    @torch.inference_mode()
    def encode_instruction(self, instruction: str) -> Instruction:
        """The sentence as read, cached: the words change far more rarely than the images."""
        cached = self._sentences.get(instruction)
        if cached is not None:
            self._sentences.move_to_end(instruction)
            return cached
        ids = tokenize(self.checkpoint.tokenizer, [instruction]).to(self.device)
        read = self._model.listen(ids)
        self._sentences[instruction] = read
        if len(self._sentences) > INSTRUCTION_CACHE:
            self._sentences.popitem(last=False)
        return read

    @torch.inference_mode()
    def step(
        self,
        observation: Observation,
        candidates: int = 1,
        seed: int | None = None,
        grounding: bool = False,
        plan: Continuation | None = None,
    ) -> Decision:
        """Decide on one observation.

        Args:
            observation: as the assembler gives it.
            candidates: K chunks to draw; the verifier's best is chosen. The first one starts
                from the noise's mean, so K = 1 is the deterministic policy.
            seed: of the other candidates' noise; None draws fresh noise.
            grounding: also say where the words point.
            plan: what is planned from the observation's stamp on; every candidate goes on from
                it, its frozen rows are kept to the bit (see `policy.head`).
        """
        start = time.perf_counter()
        scene = self._read(observation)
        noise = self._noise(candidates, seed)
        over = None
        if plan is not None:
            planned, weights = plan.over(self.horizon, self._gripper)
            over = (torch.from_numpy(planned).to(self.device),
                    torch.from_numpy(weights).to(self.device))  # fmt: skip
        chunks = self._model.candidates(scene, noise, self.flow_steps, over)  # (K, H, 7)
        scores = self._model.verify(scene, chunks).float()  # (K,)
        best = int(scores.argmax()) if candidates > 1 else 0
        vl_score = self._vl_score(scene)
        others = (scores.sum() - scores[best]) / max(1, candidates - 1)
        keyframe = None
        if self._model.config.position_index:
            keyframe = self._model.normalizer.denormalize_keyframe(scene.keyframe.float())[0]
            keyframe = keyframe.cpu().numpy()
        heat = self._grounding(scene, observation.instruction) if grounding else None
        actions = chunks[best].cpu().numpy().astype(np.float32)
        frozen = None
        if plan is not None:
            frozen = min(plan.frozen, self.horizon)
            actions[:frozen] = plan.actions[:frozen]  # units there and back cost a rounding
        return Decision(
            ActionChunk(
                observation.ts_ns,
                actions,
                self.embodiment.rate_hz,
                observation.instruction,
                frozen,
            ),
            vl_score,
            float(scores[best]),
            float(scores[best] - others) if candidates > 1 else 0.0,
            time.perf_counter() - start,
            tuple(scores.tolist()),
            keyframe,
            heat,
        )

    @torch.inference_mode()
    def judge(
        self,
        observation: Observation,
        actions: np.ndarray,
        candidates: int = 1,
        seed: int | None = None,
    ) -> Decision:
        """How well actions that somebody else proposes do what was said, here.

        Args:
            observation: as the assembler gives it.
            actions: (T, 7) in physical units per control step; the first one is for the step
                that begins at the observation's stamp. What is beyond H steps is cut; of fewer,
                those that are there count alone.
            candidates: K chunks of our own to compare with, over the same steps.
            seed: of their noise.

        Returns:
            A decision whose chunk is what was judged, (min(T, H), 7). Its margin is the lead over
            the mean of our own candidates, whose scores are `candidate_scores`.

        Raises:
            ControlError: not T ≥ 1 rows of seven finite numbers.
        """
        start = time.perf_counter()
        with np.errstate(over='ignore'):  # what is too large for float32 is not finite below
            given = np.asarray(actions).astype(np.float32)
        if given.ndim != 2 or given.shape[1] != ACTION_DIM or not len(given):
            raise ControlError(f'actions to judge have shape (T, {ACTION_DIM}), got {given.shape}')
        given = given[: self.horizon]
        if not np.isfinite(given).all():
            raise ControlError('actions to judge must be finite')
        steps = len(given)
        chunk = torch.zeros(1, self.horizon, ACTION_DIM, device=self.device)
        chunk[0, :steps] = torch.from_numpy(given.copy()).to(self.device)
        scene = self._read(observation)
        own = self._model.candidates(scene, self._noise(candidates, seed), self.flow_steps)
        chunks = torch.cat([chunk, own])  # (1 + K, H, 7)
        counts = torch.arange(self.horizon, device=self.device) < steps  # (H,)
        scores = self._model.verify(scene, chunks, counts.expand(len(chunks), -1)).float()
        return Decision(
            ActionChunk(
                observation.ts_ns, given, self.embodiment.rate_hz, observation.instruction
            ),
            self._vl_score(scene),
            float(scores[0]),
            float(scores[0] - scores[1:].mean()),
            time.perf_counter() - start,
            tuple(scores[1:].tolist()),
        )

    def _vl_score(self, scene: Scene) -> float:
        """Calibrated probability that sentence and scene fit."""
        alignment = self._model.alignment
        raw = alignment.score_from_regions(scene.fits, scene.vision, scene.language).float()
        return float(torch.sigmoid(self.calibration.slope * raw + self.calibration.offset)[0])

    def _read(self, observation: Observation) -> Scene:
        images = {
            # a copy: views of message bytes are read-only, and torch wants memory it may own
            name: torch.from_numpy(np.array(image)).to(self.device).unsqueeze(0)
            for name, image in observation.images.items()
        }
        state = torch.from_numpy(observation.state).to(self.device).unsqueeze(0)
        return self._model.read(images, state, self.encode_instruction(observation.instruction))

    def _noise(self, candidates: int, seed: int | None) -> torch.Tensor:
        if candidates < 1:
            raise ConfigError(f'candidates must be at least 1, got {candidates}')
        generator = torch.Generator()
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        # drawn on the CPU: the same seed gives the same candidates on every device
        noise = torch.randn((candidates, self.horizon, 7), generator=generator)
        noise[0] = 0.0
        return noise.to(self.device)

    def _grounding(self, scene: Scene, instruction: str) -> Grounding:
        alignment, layout = self._model.alignment, scene.vision.layout
        logits = alignment.word_regions(scene.vision, scene.language)
        heat = F.softmax(logits[0].float(), dim=-1).cpu().numpy()  # (L, N)
        whole = F.softmax(scene.fits[0].float(), dim=-1).cpu().numpy()  # (N,)
        naming = alignment.referring(scene.language)[0].float().cpu().numpy()  # (L,)
        words = {
            f'{index}:{word}': places
            for index, (word, places) in enumerate(
                spoken_words(self.checkpoint.tokenizer, instruction)
            )
        }
        return Grounding(
            {word: _by_camera(heat[places].mean(0), layout) for word, places in words.items()},
            _by_camera(whole, layout),
            {word: float(naming[places].mean()) for word, places in words.items()},
        )


def _by_camera(cells: np.ndarray, layout: Sequence[CameraTokens]) -> dict[str, np.ndarray]:
    """(N,) of all cameras → (rows, columns) of each."""
    return {c.name: cells[c.slice].reshape(c.rows, c.columns) for c in layout}
