"""Tiny synthetic recordings, made with the encoders of the wire and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vla_alignment_ros import wire
from vla_alignment_ros.control.codecs import make_codec
from vla_alignment_ros.data.bag import EpisodeReader, EpisodeWriter
from vla_alignment_ros.embodiment import ActionSpec, Camera, CommandSpec, Embodiment, Gripper

PERIOD_NS = 100_000_000


def make_embodiment(**changes):
    """Two small cameras, two joints, no robot model: quick, and the rest is as in earnest."""
    base = Embodiment(
        name='tiny',
        cameras=(Camera('front', 'front/image_raw', 16, 12), Camera('wrist', 'wrist', 8, 8)),
        joint_names=('a', 'b'),
        gripper=Gripper('finger', 0.04, 0.0),
        action=ActionSpec(
            'ee_delta',
            ('dx', 'dy', 'dz', 'droll', 'dpitch', 'dyaw', 'gripper'),
            ('m', 'm', 'm', 'rad', 'rad', 'rad', '1'),
            (-1.0,) * 6 + (0.0,),
            (1.0,) * 7,
        ),
        command=CommandSpec('twist', {'twist': 'cmd/twist', 'gripper': 'cmd/gripper'}),
        rate_hz=10.0,
    )
    return replace(base, **changes)


class Recorder:
    """Writes one episode as a robot in lock-step would: at every tick all topics, one stamp."""

    def __init__(self, root, embodiment, seed=0):
        self.root = root
        self.embodiment = embodiment
        self.rng = np.random.default_rng(seed)
        self.codec = make_codec(embodiment)
        self.types = embodiment.recorded_topics()

    def observation(self, ts_ns):
        raw = {}
        for c in self.embodiment.cameras:
            pixels = self.rng.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8)
            raw[c.topic] = wire.encode_image(pixels, ts_ns, c.name)
            if c.segmentation is not None:
                ids = self.rng.integers(0, 3, (c.height, c.width), dtype=np.uint8)
                raw[c.segmentation] = wire.encode_image(ids, ts_ns, c.name)
        names = (self.embodiment.gripper.joint, *self.embodiment.joint_names)
        position = self.rng.uniform(0.0, 0.04, len(names))
        raw[self.embodiment.joint_states_topic] = wire.encode_joint_state(ts_ns, names, position)
        return raw

    def action(self, tick, ticks):
        action = self.rng.uniform(-0.05, 0.05, 7)
        action[6] = 1.0 if tick < ticks // 2 else 0.0
        return action

    def write(self, writer, topic, ts_ns, raw):
        writer.write(topic, self.types[topic], ts_ns, raw)

    def record(
        self,
        name=None,
        ticks=6,
        instruction='Pick up the red cube.',
        success=True,
        start_ns=1_000_000_000,
        extra=None,
        interventions=(),
        **writer_options,
    ):
        """Returns the episode's folder, the raw observations and the actions, by tick.

        interventions: (tick, whether a person drives from there on).
        """
        observations, actions = [], []
        with EpisodeWriter(self.root, self.embodiment, name, **writer_options) as writer:
            writer.set_instruction(instruction)
            said = wire.encode_string(instruction)
            self.write(writer, self.embodiment.instruction_topic, start_ns, said)
            for tick in range(ticks):
                ts_ns = start_ns + tick * PERIOD_NS
                for flag in (flag for at, flag in interventions if at == tick):
                    raw = wire.encode_bool(flag)
                    writer.write('intervention', 'std_msgs/msg/Bool', ts_ns, raw)
                raw = self.observation(ts_ns)
                for topic, message in raw.items():
                    self.write(writer, topic, ts_ns, message)
                action = self.action(tick, ticks)
                for topic, message in self.codec.encode(action, ts_ns).items():
                    self.write(writer, topic, ts_ns, message)
                observations.append({**raw, self.embodiment.instruction_topic: said})
                actions.append(action)
            path = writer.finish(success, extra or {'task': 'pick'})
        return path, observations, np.array(actions)


def rewrite(path, root, change, name=None, **options):
    """The same episode again, each message through `change(topic, log_ns, raw)`.

    change: gives (log_ns, raw), or None for a message that is left out.
    """
    reader = EpisodeReader(path)
    with EpisodeWriter(root, reader.info.embodiment, name, **options) as writer:
        for topic, msgtype, log_ns, raw in reader.messages():
            changed = change(topic, log_ns, raw)
            if changed is not None:
                writer.write(topic, msgtype, *changed)
        writer.set_instruction(reader.info.instruction)
        return writer.finish(reader.info.success, reader.info.extra)


@pytest.fixture
def embodiment():
    return make_embodiment()


@pytest.fixture
def recorder(tmp_path, embodiment):
    return Recorder(tmp_path / 'demos', embodiment)


@pytest.fixture
def variant():
    """The embodiment with changes, and a recorder for it."""
    return lambda root, seed=0, **changes: Recorder(root, make_embodiment(**changes), seed)
