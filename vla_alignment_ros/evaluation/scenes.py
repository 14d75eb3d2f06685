"""Scenes to judge an alignment on: what the cameras see, what is said, and what is really there.

Rendered by the simulator and taken through the same bytes as on a robot. Plain data afterwards:
the simulator is closed again when the last scene has been drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.observation import normalize_instruction, Observation, ObservationAssembler
from vla_alignment_ros.sim.phrases import load_splits
from vla_alignment_ros.sim.spec import EpisodeSpec
from vla_alignment_ros.sim.stream import instruction_message, observation_messages
from vla_alignment_ros.sim.tasks import sample_episode
from vla_alignment_ros.sim.world import SceneConfig, TabletopWorld

Pair = tuple[str, str]  # colour, shape


@dataclass(frozen=True)
class EvaluationScene:
    """The first moment of an episode, with its ground truth."""

    spec: EpisodeSpec
    observation: Observation  # says the episode's own sentence
    names: tuple[str, ...]  # what `segmentation` counts: the objects, then the trays
    segmentation: dict[str, np.ndarray]  # camera → (H, W) int32 index into `names`, −1: nothing

    @property
    def objects(self) -> tuple[Pair, ...]:
        """Colour and shape of every object on the table."""
        return tuple((item.color, item.shape) for item in self.spec.scene.objects)

    @property
    def target(self) -> Pair:
        """Colour and shape that the own sentence names."""
        color, shape = self.spec.target.split()
        return color, shape

    def saying(self, pair: Pair) -> str:
        """The own sentence, naming something else; normalised."""
        return normalize_instruction(
            self.spec.instruction.replace(self.spec.target, ' '.join(pair))
        )

    def told(self, sentence: str) -> Observation:
        """The same moment with another sentence."""
        return replace(self.observation, instruction=normalize_instruction(sentence))

    def mask(self, camera: str, *words: str) -> np.ndarray:
        """(H, W) bool: pixels of all things whose name holds every one of the words."""
        wanted = [i for i, name in enumerate(self.names) if set(words) <= set(name.split())]
        return np.isin(self.segmentation[camera], wanted)

    def another(self, rng: np.random.Generator, present: bool) -> Pair | None:
        """A thing that the own sentence does not name, on the table or missing from it.

        A missing one shares colour or shape with what is named, where it can: a sentence that is
        wrong by one word is the one worth noticing. None where there is none.
        """
        there = set(self.objects)
        if present:
            free = [pair for pair in self.objects if pair != self.target]
        else:
            free = [p for p in load_splits().pairs if p not in there and p != self.target]
            alike = [p for p in free if p[0] == self.target[0] or p[1] == self.target[1]]
            free = alike or free
        return free[int(rng.integers(len(free)))] if free else None


def generate_scenes(
    embodiment: Embodiment, split: str, count: int, seed: int = 0
) -> Iterator[EvaluationScene]:
    """Scenes number seed, seed + 1, … of a split; the same ones whenever they are asked for.

    Raises ConfigError for a count below 1 or an unknown split.
    """
    if count < 1:
        raise ConfigError(f'episodes must be at least 1, got {count}')
    load_splits().stream_seed(split, seed)  # refuses an unknown split before anything is built
    assembler = ObservationAssembler(embodiment)
    with TabletopWorld(SceneConfig(rate_hz=embodiment.rate_hz)) as world:
        for number in range(seed, seed + count):
            spec = sample_episode(number, split)
            world.reset(spec)
            raw = instruction_message(world, embodiment) | observation_messages(world, embodiment)
            segmentation = {
                c.name: world.segmentation(c.name, c.width, c.height) for c in embodiment.cameras
            }
            observation = assembler.assemble(world.time_ns, raw)
            # the messages go; their pixels are kept
            images = {name: np.array(image) for name, image in observation.images.items()}
            yield EvaluationScene(
                spec, replace(observation, images=images), world.object_names, segmentation
            )
