"""Looks at a running robot for a few seconds: what is on the topics of its embodiment, and how.

It only listens, and reads parameters: a controller is asked for its `joints`, a servo for its
time-out and units.
"""

from __future__ import annotations

from collections import defaultdict, deque
from functools import partial
import time

from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo

from vla_alignment_ros import wire
from vla_alignment_ros.control.live_seen import (
    ControllerSeen,
    Endpoint,
    GraphSeen,
    Heard,
    ServoSeen,
    TopicSeen,
)
from vla_alignment_ros.embodiment import Embodiment, FLOAT64_MULTI_ARRAY, JOINT_TRAJECTORY
from vla_alignment_ros.errors import ConfigError, SimulationError, WireError
from vla_alignment_ros.nodes.client import Client
from vla_alignment_ros.nodes.qos import latched, sensor_data, subscribe_raw

NAME = 'vla_check_embodiment'
DISCOVERY_S = 3.0  # at most, until all topics of the embodiment are there
KEPT = 1000  # messages per topic, the newest
CLOCK = '/clock'
ASK_S = 5.0  # for an answer
MOVEIT_SERVO = 'moveit_servo'  # how its parameters begin


class Probe(Client):
    """Looks at one robot, in the ROS domain of the environment.

    Args:
        embodiment: whose topics to look at.
        namespace: that the robot's topics are in, as nodes started with `__ns:=` have it.
        domain_id: another ROS domain.
    """

    def __init__(
        self, embodiment: Embodiment, namespace: str = '', domain_id: int | None = None
    ) -> None:
        super().__init__(NAME, domain_id, lambda: None, namespace=namespace)
        self._embodiment = embodiment
        self._topics = {**embodiment.observation_topics(), **embodiment.command_topics()}
        self._heard: dict[str, deque[Heard]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._sim_ns = 0

    def look(self, seconds: float) -> GraphSeen:
        """Listen for so long; what was seen."""
        if not 0.0 < seconds <= 600.0:
            raise ConfigError(f'look for 0 to 600 s, not {seconds}')
        self._wait(DISCOVERY_S, lambda: all(map(self._exists, self._topics)))
        for topic, msgtype in self._embodiment.observation_topics().items():
            hear = partial(self._hear, topic)
            subscribe_raw(self.node, topic, msgtype, hear, self._qos(topic), overridable=False)
        subscribe_raw(
            self.node, CLOCK, 'rosgraph_msgs/msg/Clock', self._tick, sensor_data(),
            overridable=False,
        )  # fmt: skip
        self._wait(seconds, lambda: False)
        return GraphSeen(
            topics={topic: self._seen(topic) for topic in self._topics},
            others=self._others(),
            controllers=self._controllers(),
            servo=self._servo(),
        )

    # -- inside ---------------------------------------------------------------------------------

    def _wait(self, seconds: float, done) -> None:
        end_s = time.monotonic() + seconds
        while not done() and time.monotonic() < end_s:
            self.spin_once()

    def _hear(self, topic: str, raw: bytes) -> None:
        now = time.monotonic_ns(), time.time_ns()
        self._heard[topic].append(Heard(bytes(raw), *now, self._sim_ns))

    def _tick(self, raw: bytes) -> None:
        try:
            clock = wire.decode(raw, 'rosgraph_msgs/msg/Clock').clock
        except WireError:
            return
        self._sim_ns = clock.sec * 1_000_000_000 + clock.nanosec

    def _qos(self, topic: str) -> QoSProfile:
        """What hears as much as possible: a sentence said before, too, where it is latched."""
        offers = self._ends(topic)
        if offers and all(map(_is_latched, offers)):
            return latched()
        return sensor_data(depth=100)

    def _exists(self, topic: str) -> bool:
        name = self.node.resolve_topic_name(topic)
        return bool(self.node.count_publishers(name) or self.node.count_subscribers(name))

    def _ends(self, topic: str) -> list[TopicEndpointInfo]:
        return self.node.get_publishers_info_by_topic(self.node.resolve_topic_name(topic))

    def _seen(self, topic: str) -> TopicSeen:
        name = self.node.resolve_topic_name(topic)
        listeners = self.node.get_subscriptions_info_by_topic(name)
        return TopicSeen(
            publishers=tuple(map(_endpoint, self._ends(topic))),
            subscriptions=tuple(_endpoint(e) for e in listeners if e.node_name != NAME),
            messages=tuple(self._heard[topic]),
        )

    def _others(self) -> dict[str, tuple[str, ...]]:
        """Type -> topics that somebody publishes."""
        found: dict[str, list[str]] = defaultdict(list)
        for topic, types in self.node.get_topic_names_and_types():
            if self.node.count_publishers(topic):
                for msgtype in types:
                    found[msgtype].append(topic)
        return {msgtype: tuple(topics) for msgtype, topics in found.items()}

    def _controllers(self) -> dict[str, ControllerSeen]:
        """What takes joint commands: ours, and those of a servo that takes our twists."""
        ours = self._embodiment.command_topics()
        topics = {self.node.resolve_topic_name(topic): topic for topic in ours}
        types = {name: ours[topic] for name, topic in topics.items()}
        for end in self._twist_takers():
            at = end.node_name, end.node_namespace
            for name, its in self.node.get_publisher_names_and_types_by_node(*at):
                if self.node.count_subscribers(name):
                    types.setdefault(name, its[0])
        found = {}
        for name, msgtype in types.items():
            if msgtype in (FLOAT64_MULTI_ARRAY, JOINT_TRAJECTORY):
                said = self._parameter(name.rpartition('/')[0], 'joints')
                joints = () if said is None else tuple(said.string_array_value)
                found[topics.get(name, name)] = ControllerSeen(msgtype, joints)
        return found

    def _servo(self) -> ServoSeen | None:
        """What a servo says of the twists it takes: this package's, or MoveIt's."""
        for end in self._twist_takers():
            node = _full_name(end)
            timeout = self._parameter(node, 'command_timeout_s')
            if timeout is not None:
                return ServoSeen(timeout.double_value)
            timeout = self._parameter(node, f'{MOVEIT_SERVO}.incoming_command_timeout')
            if timeout is not None:
                units = self._parameter(node, f'{MOVEIT_SERVO}.command_in_type')
                unitless = units is not None and units.string_value == 'unitless'
                return ServoSeen(timeout.double_value, unitless)
        return None

    def _twist_takers(self) -> list[TopicEndpointInfo]:
        topic = self._embodiment.command.topics.get('twist')
        if topic is None:
            return []
        name = self.node.resolve_topic_name(topic)
        return self.node.get_subscriptions_info_by_topic(name)

    def _parameter(self, node: str, name: str) -> ParameterValue | None:
        """What another node's parameter is; None where there is no such node or parameter."""
        service = f'{node}/get_parameters'
        if not node or service not in dict(self.node.get_service_names_and_types()):
            return None
        try:
            request = GetParameters.Request(names=[name])
            values = self.ask(GetParameters, service, request, ASK_S).values
        except SimulationError:  # it does not answer
            return None
        given = [v for v in values if v.type != ParameterType.PARAMETER_NOT_SET]
        return given[0] if given else None


def _full_name(end: TopicEndpointInfo) -> str:
    return f'{end.node_namespace.rstrip("/")}/{end.node_name}'


def _is_latched(end: TopicEndpointInfo) -> bool:
    return end.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL


def _endpoint(end: TopicEndpointInfo) -> Endpoint:
    return Endpoint(
        node=_full_name(end),
        msgtype=end.topic_type,
        reliable=end.qos_profile.reliability == ReliabilityPolicy.RELIABLE,
        transient_local=_is_latched(end),
    )
