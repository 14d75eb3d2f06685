"""A tabletop's sensors and ears, and a policy node that serves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.control.codecs import make_codec
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.nodes.policy_node import PolicyNode
from vla_alignment_ros.nodes.qos import latched

NODE = 'policy_node'
TWIST, GRIPPER = 'servo/delta_twist_cmds', 'gripper/command'
STATUS = 'diagnostic_msgs/msg/DiagnosticStatus'
T0, STEP = 5_000_000_000, 100_000_000
PATIENCE_S = 30.0


class Robot:
    """A tabletop's sensors, and ears for its commands."""

    def __init__(self, ros) -> None:
        self.ros = ros
        self.embodiment = Embodiment.load('tabletop')
        self.codec = make_codec(self.embodiment)
        kinds = self.embodiment.observation_topics()
        self.outputs = {
            topic: ros.speak(topic, kind, latched() if topic == 'instruction' else None)
            for topic, kind in kinds.items()
        }
        self.twists = ros.listen(TWIST, 'geometry_msgs/msg/TwistStamped')
        self.grippers = ros.listen(GRIPPER, 'std_msgs/msg/Float64')

    def matched(self) -> None:
        for output in self.outputs.values():
            self.ros.matched(output)

    def say(self, text: str = 'pick up the red cube') -> None:
        self.outputs['instruction'].publish(wire.encode_string(text))

    def show(self, ts_ns: int, but: tuple[str, ...] = ()) -> None:
        rng = np.random.default_rng(ts_ns % 1000)
        for camera in self.embodiment.cameras:
            if camera.name not in but:
                pixels = rng.integers(0, 255, (camera.height, camera.width, 3), np.uint8)
                raw = wire.encode_image(pixels, ts_ns, camera.name)
                self.outputs[camera.topic].publish(raw)
        if 'joint_states' not in but:
            names = (*self.embodiment.joint_names, 'finger_joint')
            position = np.array([0, 0.3, 0, -1.8, 0, 2.1, 0.8, 0.04])
            raw = wire.encode_joint_state(ts_ns, names, position)
            self.outputs['joint_states'].publish(raw)

    def twist(self, ts_ns: int) -> wire.TwistSample:
        """The twist with that stamp, once it came."""

        def find(raws):
            samples = map(wire.decode_twist_stamped, raws)
            return [s for s in samples if s.ts_ns == ts_ns]

        return self.twists.wait_for(find)[-1]

    def stamps(self) -> list[int]:
        return [wire.decode_twist_stamped(raw).ts_ns for raw in self.twists.messages]


def start(ros, checkpoint: Path, **parameters) -> tuple[Robot, PolicyNode]:
    robot = Robot(ros)
    # without the gate the first decision moves: the gate wants its score confirmed
    parameters = {'gate.enabled': False, 'threads': 1, **parameters}
    # what is shown is shown once: on a busy machine it must not count as old before it is seen
    parameters.setdefault('watchdog_s', PATIENCE_S)
    node = ros.add(PolicyNode, checkpoint=str(checkpoint), **parameters)
    assert node.bring_up(), node.last_error
    robot.matched()
    for topic in (TWIST, GRIPPER) if parameters.get('mode') != 'shadow' else ():
        ros.until(lambda topic=topic: ros.client.count_publishers(topic) == 1, topic)
    return robot, node


def moves(sample: wire.TwistSample) -> bool:
    return bool(np.any(sample.linear) or np.any(sample.angular))
