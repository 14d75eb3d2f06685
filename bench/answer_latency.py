"""P1: from an image published to its command received in another process, over real DDS.

The policy node runs as its own process and acts on arrival. Wrist image and joint states are there
already when the front image goes out: it completes the observation, and the clock starts. From the
time to the command the round trip of the same two messages through a bare echo process is taken
off. What is left is compared with the bare forward pass, measured in this process on an
observation of such bytes and after the same pause: a processor that has idled begins slowly, in
the node as here. How fast a second pass right behind it is, stands among the figures.
"""

from __future__ import annotations

from collections.abc import Mapping
import time

from bench.inputs import sensor_messages, sentences
from bench.results import BenchError, BenchSettings, Row
from bench.timing import Samples, take_turns
from vla_alignment_ros import wire
from vla_alignment_ros.control.codecs import make_codec
from vla_alignment_ros.observation import ObservationAssembler
from vla_alignment_ros.policy.policy import Policy

START_S = 120.0  # patience with processes that start
ANSWER_S = 1.0
TRIES = 5
CALM = 10  # percentile: turns that other work on the machine hardly disturbed
PAUSE_S = 0.02  # what a node still does after its command must not fall into the next turn


class Link:
    """This process's end: publishes sensor messages and times the command that answers them."""

    def __init__(self, client: object, policy: Policy) -> None:
        import numpy as np

        from bench.echo import COMMAND_TOPIC, IMAGE_TOPIC
        from vla_alignment_ros.nodes.qos import (
            advertise,
            latched,
            reliable,
            sensor_data,
            subscribe_raw,
        )
        from vla_alignment_ros.nodes.runtime import make_executor

        e = self._embodiment = policy.embodiment
        self._client = client
        self._camera = e.cameras[0]
        codec = make_codec(e)
        self.command_type = codec.topics[codec.trigger]
        self.command = codec.encode(np.zeros(7), 1)[codec.trigger]
        self._rng = np.random.default_rng(0)
        self._ts_ns = time.time_ns()
        self._answered: dict[int, int] = {}  # stamp -> when its command came in, steady ns
        self.sentence = sentences(policy, 1)[0]
        from rclpy.node import Node

        node = self._node = Node('bench_client', context=client.node.context)
        self._executor = make_executor(node.context)
        self._executor.add_node(node)
        self._publishers = {
            topic: advertise(
                node, topic, kind, latched() if topic == e.instruction_topic else sensor_data()
            )
            for topic, kind in e.observation_topics().items()
        }
        self._publishers[IMAGE_TOPIC] = advertise(
            node, IMAGE_TOPIC, self._camera.message_type, sensor_data()
        )
        self._commands = [
            subscribe_raw(node, topic, self.command_type, self._on_command, reliable())
            for topic in (codec.trigger, COMMAND_TOPIC)
        ]

    def connect(self) -> None:
        """Wait until both nodes listen and are heard; tell the sentence."""
        self._client.until(
            lambda: all(p.get_subscription_count() for p in self._publishers.values())
            and all(s.get_publisher_count() for s in self._commands),
            'the nodes to find each other',
            START_S,
        )
        said = wire.encode_string(self.sentence)
        self._publishers[self._embodiment.instruction_topic].publish(said)

    def through_policy(self) -> float:
        """Seconds from the front image out to its command in, by way of the policy node."""
        for _ in range(TRIES):
            raw = self._next()
            image = raw.pop(self._camera.topic)
            for topic, message in raw.items():
                self._publishers[topic].publish(message)
            self._spin(PAUSE_S)
            took_s = self._time(self._camera.topic, image)
            if took_s is not None:
                return took_s
        raise BenchError(f'policy_node gave no command within {ANSWER_S} s, {TRIES} times')

    def through_echo(self) -> float:
        """The same two messages by way of the echo."""
        from bench.echo import IMAGE_TOPIC

        for _ in range(TRIES):
            image = self._next()[self._camera.topic]
            self._spin(PAUSE_S)
            took_s = self._time(IMAGE_TOPIC, image)
            if took_s is not None:
                return took_s
        raise BenchError(f'the echo gave no command within {ANSWER_S} s, {TRIES} times')

    def close(self) -> None:
        """Leave the domain."""
        self._executor.shutdown()
        self._node.destroy_node()

    def _next(self) -> Mapping[str, bytes]:
        self._ts_ns += round(1e9 / self._embodiment.rate_hz)
        return sensor_messages(self._embodiment, self._ts_ns, self._rng)

    def _time(self, topic: str, image: bytes) -> float | None:
        sent_ns = time.monotonic_ns()
        self._publishers[topic].publish(image)
        deadline = time.monotonic() + ANSWER_S
        while self._ts_ns not in self._answered:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return None
            self._executor.spin_once(timeout_sec=left_s)
        took_s = (self._answered.pop(self._ts_ns) - sent_ns) * 1e-9
        self._spin(PAUSE_S)
        return took_s

    def _spin(self, for_s: float) -> None:
        deadline = time.monotonic() + for_s
        while (left_s := deadline - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left_s)

    def _on_command(self, raw: bytes) -> None:
        self._answered.setdefault(wire.stamp_ns(raw, self.command_type), time.monotonic_ns())


def run(settings: BenchSettings) -> Row:
    """Node, echo and forward pass take turns."""
    import torch

    torch.set_num_threads(settings.threads)
    samples, assemble_s = measure(settings, Policy.load(settings.checkpoint))
    node, echo, forward = (samples[name] for name in ('node', 'echo', 'forward'))
    ours_ms = (node.p50 - echo.p50) * 1e3
    calm = {name: values.percentile(CALM) for name, values in samples.items()}
    return Row(
        key='P1',
        title='image to command without transport',
        unit='ms',
        ours=ours_ms,
        baseline=forward.p50 * 1e3,
        goal=1.15,
        ours_is='front image published → command received in another process, the policy node '
        'acting on arrival with gate, plan, guard and codec, less the DDS round trip',
        baseline_is='`Policy.step` alone, in this process, on an observation of such bytes, after '
        'the same pause',
        figures={
            'image published to command received, p50 ms': node.p50 * 1e3,
            'image published to command received, p95 ms': node.percentile(95) * 1e3,
            'DDS round trip of the two messages, p50 ms': echo.p50 * 1e3,
            'DDS round trip of the two messages, p95 ms': echo.percentile(95) * 1e3,
            'bare forward pass, p50 ms': forward.p50 * 1e3,
            'bare forward pass, p95 ms': forward.percentile(95) * 1e3,
            'bare forward pass again at once, p50 ms': samples['forward again'].p50 * 1e3,
            'bytes to observation (part of ours), p50 ms': assemble_s * 1e3,
            f'ratio of the calmest turns (p{CALM})': (calm['node'] - calm['echo'])
            / calm['forward'],
        },
    )


def measure(settings: BenchSettings, policy: Policy) -> tuple[dict[str, Samples], float]:
    """Seconds of `node`, `echo`, `forward` and `forward again`; and of bytes to observation."""
    try:
        import rclpy  # noqa: F401 - to say so in one line where it is not installed
    except ImportError as error:
        raise BenchError(f'this row needs rclpy: {error}') from error
    from vla_alignment_ros.evaluation.processes import NodeProcesses
    from vla_alignment_ros.nodes.client import Client

    embodiment = policy.embodiment
    with NodeProcesses(settings.folder / 'log') as nodes:
        client = Client('bench_setup', nodes.domain_id, nodes.check, START_S)
        link = Link(client, policy)
        try:
            nodes.start(
                'policy_node',
                'vla_alignment_ros.nodes.policy_node',
                {
                    'checkpoint': str(settings.checkpoint.resolve()),
                    'threads': settings.threads,
                    'act_on_arrival': True,
                    'gate.enabled': False,  # noise has no matching sentence; go all the way
                },
            )
            nodes.start(
                'echo',
                'bench.echo',
                {
                    'image_type': embodiment.cameras[0].message_type,
                    'command_type': link.command_type,
                    'command': link.command.hex(),
                },
            )
            client.configure('policy_node', START_S)
            link.connect()
            client.activate('policy_node')
            return _turns(settings, policy, link)
        finally:
            link.close()
            client.close()


def _turns(settings: BenchSettings, policy: Policy, link: Link) -> tuple[dict, float]:
    import numpy as np

    embodiment = policy.embodiment
    assembler = ObservationAssembler(embodiment)
    said = {embodiment.instruction_topic: wire.encode_string(link.sentence)}
    rng = np.random.default_rng(1)
    assembling, latest = [], []

    def forward() -> float:
        raw = sensor_messages(embodiment, 1, rng)
        time.sleep(PAUSE_S)  # as idle before as the node is
        start = time.perf_counter()
        observation = assembler.assemble(1, raw | said)
        ready = time.perf_counter()
        policy.step(observation)
        end = time.perf_counter()
        latest[:] = [observation]
        assembling.append(ready - start)
        return end - ready

    def forward_again() -> float:
        start = time.perf_counter()
        policy.step(latest[0])
        return time.perf_counter() - start

    samples = take_turns(
        {
            'node': link.through_policy,
            'echo': link.through_echo,
            'forward': forward,
            'forward again': forward_again,
        },
        rounds=settings.size(400, 5),
        warm_up=settings.size(20, 1),
    )
    return samples, float(np.median(assembling))
