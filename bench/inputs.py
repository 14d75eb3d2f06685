"""Messages and episodes to measure with: made here, so that a fresh clone needs no recordings.

Pixels are noise. Nothing that is measured depends on what they show.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.control.codecs import make_codec
from vla_alignment_ros.data.bag import EpisodeWriter
from vla_alignment_ros.embodiment import Embodiment, resolve_resource
from vla_alignment_ros.encoders.language import MASK, PAD, UNKNOWN
from vla_alignment_ros.kinematics import ForwardKinematics
from vla_alignment_ros.observation import Observation, ObservationAssembler
from vla_alignment_ros.policy.policy import Policy

START_NS = 1_000_000_000


def sensor_messages(
    embodiment: Embodiment,
    ts_ns: int,
    rng: np.random.Generator,
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, bytes]:
    """One message per camera and the joint states, by topic, all stamped ts_ns.

    sizes: camera name -> (width, height) as published, where it is not the observation's.
    """
    raw = {}
    for camera in embodiment.cameras:
        width, height = (sizes or {}).get(camera.name, (camera.width, camera.height))
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        raw[camera.topic] = wire.encode_image(pixels, ts_ns, camera.name)
    gripper = embodiment.gripper
    names = (*embodiment.joint_names, gripper.joint)
    position = np.append(_joints(embodiment), gripper.open_position)
    raw[embodiment.joint_states_topic] = wire.encode_joint_state(ts_ns, names, position)
    return raw


def observation_of(policy: Policy) -> Observation:
    """One moment of such messages, with a sentence that the policy knows."""
    embodiment = policy.embodiment
    raw = sensor_messages(embodiment, 1, np.random.default_rng(0))
    raw[embodiment.instruction_topic] = wire.encode_string(sentences(policy, 1)[0])
    return ObservationAssembler(embodiment).assemble(1, raw)


_JOINTS: dict[str, np.ndarray] = {}


def _joints(embodiment: Embodiment) -> np.ndarray:
    """Joint positions (rad) with the hand well inside the workspace, where nothing is clipped."""
    key = embodiment.digest()
    if key not in _JOINTS:
        _JOINTS[key] = _search(embodiment)
    return _JOINTS[key]


def _search(embodiment: Embodiment) -> np.ndarray:
    count, spec = len(embodiment.joint_names), embodiment.action
    if embodiment.urdf is None or spec.workspace_low is None:
        return np.zeros(count)
    where = ForwardKinematics(
        resolve_resource(embodiment.urdf),
        embodiment.joint_names,
        embodiment.base_link,
        str(embodiment.ee_link),
    )
    low, high = np.array(spec.workspace_low), np.array(spec.workspace_high)
    middle, rng = (low + high) / 2, np.random.default_rng(0)
    tries = rng.uniform(-1.5, 1.5, (2000, count))
    return min(tries, key=lambda joints: np.abs((where(joints)[0] - middle) / (high - low)).max())


def sentences(policy: Policy, count: int, words: int = 8) -> list[str]:
    """Distinct sentences of equal length from the policy's own words."""
    known = set(policy.checkpoint.tokenizer.get_vocab()) - {PAD, UNKNOWN, MASK}
    vocabulary = sorted(known)
    rng = np.random.default_rng(0)
    found: dict[str, None] = {}
    while len(found) < count:
        found[' '.join(rng.choice(vocabulary, words))] = None
    return list(found)


def record_episode(
    root: Path,
    embodiment: Embodiment,
    ticks: int,
    instruction: str,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    seed: int = 0,
) -> Path:
    """One episode of `ticks` control steps; its folder."""
    rng = np.random.default_rng(seed)
    codec = make_codec(embodiment)
    types = embodiment.topics()
    period_ns = round(1e9 / embodiment.rate_hz)
    low, high = np.array(embodiment.action.low), np.array(embodiment.action.high)
    with EpisodeWriter(root, embodiment) as writer:
        writer.set_instruction(instruction)
        said = embodiment.instruction_topic
        writer.write(said, types[said], START_NS, wire.encode_string(instruction))
        for tick in range(ticks):
            ts_ns = START_NS + tick * period_ns
            messages = sensor_messages(embodiment, ts_ns, rng, sizes)
            messages |= codec.encode(rng.uniform(low, high), ts_ns)
            for topic, raw in messages.items():
                writer.write(topic, types[topic], ts_ns, raw)
        return writer.finish(True)
