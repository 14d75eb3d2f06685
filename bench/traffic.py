"""A policy node as its own process, and sensors that feed it at a rate: for rows about a node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
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
        sizes: camera name -> (width, height) as published, where it is not the observation's.
        offered: quality of service of all but the sentence.
    """

    def __init__(
        self,
        node: object,
        embodiment: Embodiment,
        sentence: str,
        sizes: Mapping[str, tuple[int, int]] | None = None,
        offered: Callable[[], object] | None = None,
    ) -> None:
        from vla_alignment_ros.nodes.qos import advertise, latched, sensor_data

        said, offered = embodiment.instruction_topic, offered or sensor_data
        self.publishers = {
            topic: advertise(node, topic, kind, latched() if topic == said else offered())
            for topic, kind in embodiment.observation_topics().items()
        }
        self._embodiment = embodiment
        rng = np.random.default_rng(0)
        shapes = {c.name: (c.width, c.height) for c in embodiment.cameras} | dict(sizes or {})
        self._pixels = [
            {name: rng.integers(0, 256, (height, width, 3), np.uint8)
             for name, (width, height) in shapes.items()}
            for _ in range(POOL)
        ]  # fmt: skip
        joints = sensor_messages(embodiment, 1, rng)[embodiment.joint_states_topic]
        self._joints = wire.decode_joint_state(joints)
        self.publishers[said].publish(wire.encode_string(sentence))
        self.published = 0  # observations
        self.counts: Counter[str] = Counter()  # messages by topic, but for the sentence

    @contextmanager
    def running(self, rate_hz: float, states_per_image: int = 1) -> Iterator[None]:
        """Publish images at this rate while the context lasts, and so many times the joints."""
        done = threading.Event()
        thread = threading.Thread(target=self._run, args=(rate_hz, states_per_image, done))
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _run(self, rate_hz: float, states_per_image: int, done: threading.Event) -> None:
        start = time.monotonic()
        for number in range(1 << 62):
            image, state = divmod(number, states_per_image)
            self._publish(time.time_ns(), None if state else self._pixels[image % POOL])
            self.published = image + 1
            due_s = start + (number + 1) / (rate_hz * states_per_image)
            if done.wait(max(0.0, due_s - time.monotonic())):
                return

    def _publish(self, ts_ns: int, pixels: dict[str, np.ndarray] | None) -> None:
        e, joints = self._embodiment, self._joints
        state = wire.encode_joint_state(ts_ns, joints.names, joints.position)
        self._send(e.joint_states_topic, state)
        for camera in e.cameras if pixels is not None else ():
            self._send(camera.topic, wire.encode_image(pixels[camera.name], ts_ns, camera.name))

    def _send(self, topic: str, raw: bytes) -> None:
        self.publishers[topic].publish(raw)
        self.counts[topic] += 1


@contextmanager
def served(
    settings: BenchSettings, checkpoint: Path, policy: Policy, **sensing: object
) -> Iterator[tuple]:
    """An active policy node at its control rate, its gate open: (client, sensors, nodes).

    sensing: for `Sensors`.
    """
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
            said = sentences(policy, 1)[0]
            sensors = Sensors(client.node, policy.embodiment, said, **sensing)
            client.until(
                lambda: all(p.get_subscription_count() for p in sensors.publishers.values()),
                'the nodes to find each other',
            )
            client.activate(NODE)
            yield client, sensors, nodes
        finally:
            client.close()
