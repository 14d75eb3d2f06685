"""A policy node as its own process, and sensors that feed it at a rate: for rows about a node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import threading
import time

import numpy as np

from bench.inputs import sensor_messages, sentences
from bench.results import BenchError, BenchSettings
from vla_alignment_ros import wire
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.policy.policy import Policy

NODE = 'policy_node'
START_S = 120.0  # patience with processes that start
POOL = 16  # observations in rotation, so that pixels are not drawn while it counts


class Sensors:
    """Publishes one message per source and stamp, at a rate, in a thread of its own.

    Args:
        node: an rclpy node.
        embodiment: whose topics.
        sentence: said once.
    """

    def __init__(self, node: object, embodiment: Embodiment, sentence: str) -> None:
        from vla_alignment_ros.nodes.qos import advertise, latched, sensor_data

        said = embodiment.instruction_topic
        self.publishers = {
            topic: advertise(node, topic, kind, latched() if topic == said else sensor_data())
            for topic, kind in embodiment.observation_topics().items()
        }
        self._embodiment = embodiment
        rng = np.random.default_rng(0)
        self._pixels = [
            {c.name: rng.integers(0, 256, (c.height, c.width, 3), np.uint8)
             for c in embodiment.cameras}
            for _ in range(POOL)
        ]  # fmt: skip
        joints = sensor_messages(embodiment, 1, rng)[embodiment.joint_states_topic]
        self._joints = wire.decode_joint_state(joints)
        self.publishers[said].publish(wire.encode_string(sentence))
        self.published = 0

    @contextmanager
    def running(self, rate_hz: float) -> Iterator[None]:
        """Publish at this rate while the context lasts."""
        done = threading.Event()
        thread = threading.Thread(target=self._run, args=(rate_hz, done))
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _run(self, rate_hz: float, done: threading.Event) -> None:
        start = time.monotonic()
        for number in range(1, 1 << 62):
            self._publish(time.time_ns(), self._pixels[number % POOL])
            self.published = number
            if done.wait(max(0.0, start + number / rate_hz - time.monotonic())):
                return

    def _publish(self, ts_ns: int, pixels: dict[str, np.ndarray]) -> None:
        e, joints = self._embodiment, self._joints
        state = wire.encode_joint_state(ts_ns, joints.names, joints.position)
        self.publishers[e.joint_states_topic].publish(state)
        for camera in e.cameras:
            raw = wire.encode_image(pixels[camera.name], ts_ns, camera.name)
            self.publishers[camera.topic].publish(raw)


@contextmanager
def served(settings: BenchSettings, checkpoint: Path, policy: Policy) -> Iterator[tuple]:
    """An active policy node at its control rate, its gate open: (client, sensors, nodes)."""
    try:
        import rclpy  # noqa: F401 - to say so in one line where it is not installed
    except ImportError as error:
        raise BenchError(f'this row needs rclpy: {error}') from error
    from vla_alignment_ros.evaluation.processes import NodeProcesses
    from vla_alignment_ros.nodes.client import Client

    with NodeProcesses(settings.folder / 'log') as nodes:
        client = Client('bench_client', nodes.domain_id, nodes.check, START_S)
        try:
            nodes.start(
                NODE,
                f'vla_alignment_ros.nodes.{NODE}',
                {
                    'checkpoint': str(checkpoint.resolve()),
                    'threads': settings.threads,
                    'gate.enabled': False,  # noise has no matching sentence; go all the way
                },
            )
            client.configure(NODE, START_S)
            sensors = Sensors(client.node, policy.embodiment, sentences(policy, 1)[0])
            client.until(
                lambda: all(p.get_subscription_count() for p in sensors.publishers.values()),
                'the nodes to find each other',
            )
            client.activate(NODE)
            yield client, sensors, nodes
        finally:
            client.close()
