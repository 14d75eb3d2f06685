"""What a policy sees and what it answers, and the one way from raw messages to an observation.

Shapes: H horizon (steps of a chunk), S state width, image (height, width, 3) uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import re
import unicodedata

import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.embodiment import Embodiment, resolve_resource
from vla_alignment_ros.errors import WireError
from vla_alignment_ros.kinematics import ForwardKinematics
from vla_alignment_ros.pixels import shrink

EE_POSITION = ('ee_x', 'ee_y', 'ee_z')  # names of the hand's position within the state, m
MAX_INSTRUCTION_CHARS = 512  # longer text is cut: no sentence for a robot needs more


@dataclass(frozen=True)
class Observation:
    """All a policy may look at, at one instant."""

    ts_ns: int
    images: dict[str, np.ndarray]  # camera name -> (height, width, 3) uint8 RGB
    state: np.ndarray  # (S,) float32, see ObservationAssembler.state_names
    instruction: str  # normalised
    stamps_ns: dict[str, int] = field(default_factory=dict)  # source name -> header stamp


@dataclass(frozen=True)
class ActionChunk:
    """H future actions in physical units, the first one for the step that begins at `ts_ns`."""

    ts_ns: int  # stamp of the observation that it answers
    actions: np.ndarray  # (H, 7) float32
    rate_hz: float
    instruction: str = ''
    frozen: int | None = None  # leading rows taken from the plan before; None: it was not known


def normalize_instruction(text: str) -> str:
    """Lower case, no punctuation, single spaces: a trailing dot must not change the motion."""
    text = unicodedata.normalize('NFKC', text[:MAX_INSTRUCTION_CHARS]).lower()
    words = re.sub(r"[^\w\s'-]|_", ' ', text).split()
    bare = (word.strip("'-") for word in words)
    return ' '.join(word for word in bare if word)


def state_names(embodiment: Embodiment) -> tuple[str, ...]:
    """What the numbers of a robot's state are (S,): see `ObservationAssembler`."""
    names = [*embodiment.joint_names, 'gripper_opening']
    if embodiment.urdf is not None:
        names += EE_POSITION
        names += [f'ee_r{row}{column}' for column in (1, 2) for row in (1, 2, 3)]
    return tuple(names)


class ObservationAssembler:
    """Raw CDR bytes → `Observation`, for the live node and for the dataset alike.

    The state is: arm joint positions (rad, model order), gripper opening (1 open … 0 closed) and,
    where the embodiment has a URDF, the end-effector position (m, base_link) and its rotation as
    the first two columns of the rotation matrix (Zhou et al. 2019, arXiv:1812.07035).
    """

    def __init__(self, embodiment: Embodiment) -> None:
        self.embodiment = embodiment
        self._cameras = {c.topic: c for c in embodiment.cameras}
        self._kinematics: ForwardKinematics | None = None
        if embodiment.urdf is not None:
            self._kinematics = ForwardKinematics(
                resolve_resource(embodiment.urdf),
                embodiment.joint_names,
                embodiment.base_link,
                str(embodiment.ee_link),
            )
        self.state_names = state_names(embodiment)
        self.state_dim = len(self.state_names)

    def image(self, topic: str, raw: bytes) -> tuple[np.ndarray, int]:
        """The image of a camera topic at the embodiment's size, and its stamp in ns.

        A view of `raw` where no conversion or resize is needed.
        """
        camera = self._cameras[topic]
        frame = wire.IMAGE_DECODERS[camera.message_type](raw)
        image = frame.image
        if image.shape[:2] != (camera.height, camera.width):
            image = shrink(image, camera.height, camera.width)
        return image, frame.ts_ns

    def state(self, raw: bytes) -> tuple[np.ndarray, int]:
        """(S,) float32 state from a JointState, joints taken by name; and its stamp in ns.

        Raises:
            WireError: a joint of the embodiment is missing, or a position is not finite.
        """
        e = self.embodiment
        sample = wire.decode_joint_state(raw)
        values = sample.take((*e.joint_names, e.gripper.joint))
        joints, opening = values[:-1], e.gripper.opening(float(values[-1]))
        parts = [joints, [opening]]
        if self._kinematics is not None:
            position, rotation = self._kinematics(joints)
            parts += [position, rotation[:, 0], rotation[:, 1]]
        state = np.concatenate(parts).astype(np.float32)
        if not np.isfinite(state).all():
            raise WireError('joint state holds a position that is not finite')
        return state, sample.ts_ns

    def instruction(self, raw: bytes) -> str:
        """The instruction from a String, normalised. Raises WireError for broken bytes."""
        return normalize_instruction(wire.decode_string(raw))

    def assemble(self, ts_ns: int, raw: Mapping[str, bytes]) -> Observation:
        """One observation from the newest message of every source.

        Args:
            ts_ns: the instant the observation stands for.
            raw: topic -> CDR bytes of every topic in `embodiment.observation_topics()`.

        Raises:
            WireError: a topic is absent or a message is broken; the topic is named.
        """
        images: dict[str, np.ndarray] = {}
        stamps: dict[str, int] = {}
        e = self.embodiment
        topic = ''
        try:
            for topic, camera in self._cameras.items():
                images[camera.name], stamps[camera.name] = self.image(topic, raw[topic])
            topic = e.joint_states_topic
            state, stamps['joint_states'] = self.state(raw[topic])
            topic = e.instruction_topic
            instruction = self.instruction(raw[topic])
        except KeyError as error:
            raise WireError(f'no message on {error.args[0]!r} yet') from error
        except WireError as error:
            raise WireError(f'{topic}: {error}') from error
        return Observation(ts_ns, images, state, instruction, stamps)
