"""The world as messages: what the simulator node publishes and the headless recorder writes.

One control step at time t: observation messages stamped t, then the command stamped t, then the
world advances by one control period. Both ways of running use these functions, so the bytes are
the same.
"""

from __future__ import annotations

import math

import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import SimulationError
from vla_alignment_ros.sim.judge import EpisodeStatus
from vla_alignment_ros.sim.world import TabletopWorld

CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'


def observation_messages(world: TabletopWorld, embodiment: Embodiment) -> dict[str, bytes]:
    """What the sensors say now: topic → CDR bytes, cameras first, then joint states.

    Every message is stamped `world.time_ns`. The instruction is not a sensor: see
    `instruction_message`.
    """
    ts_ns = world.time_ns
    messages = {}
    for camera in embodiment.cameras:
        if camera.compressed:
            raise SimulationError(f'{camera.topic!r}: the simulator publishes raw images only')
        image = world.render(camera.name, camera.width, camera.height)
        messages[camera.topic] = wire.encode_image(image, ts_ns, optical_frame(camera.name))
        if camera.segmentation is not None:
            seen = world.segmentation(camera.name, camera.width, camera.height)  # −1: nothing
            messages[camera.segmentation] = wire.encode_image(
                (seen + 1).astype(np.uint8), ts_ns, optical_frame(camera.name)
            )
    return messages | joint_state_message(world, embodiment)


def joint_state_message(world: TabletopWorld, embodiment: Embodiment) -> dict[str, bytes]:
    """What the joints say now: topic → CDR bytes of a JointState."""
    names, position, velocity = world.joint_sample()
    raw = wire.encode_joint_state(world.time_ns, names, position, velocity)
    return {embodiment.joint_states_topic: raw}


def instruction_message(world: TabletopWorld, embodiment: Embodiment) -> dict[str, bytes]:
    """What the robot is told in this episode: topic → CDR bytes of a String."""
    return {embodiment.instruction_topic: wire.encode_string(world.spec.instruction)}


def camera_info_messages(world: TabletopWorld, embodiment: Embodiment) -> dict[str, bytes]:
    """CameraInfo beside each image topic (`front/image_raw` → `front/camera_info`)."""
    messages = {}
    for camera in embodiment.cameras:
        focal = camera.height / 2 / math.tan(world.camera_fov_rad(camera.name) / 2)
        topic = camera.topic.rpartition('/')[0]
        messages[f'{topic}/camera_info' if topic else 'camera_info'] = wire.encode_camera_info(
            world.time_ns,
            optical_frame(camera.name),
            camera.width,
            camera.height,
            focal,
            focal,
        )
    return messages


def optical_frame(camera: str) -> str:
    return f'{camera}_optical_frame'


def apply_action(
    world: TabletopWorld, embodiment: Embodiment, action: np.ndarray
) -> EpisodeStatus:
    """Step the world with one decoded action (7,) of the embodiment's action space."""
    values = np.asarray(action, dtype=np.float64)
    space, rate_hz = embodiment.action.space, embodiment.rate_hz
    if abs(rate_hz - world.config.rate_hz) > 1e-9:
        raise SimulationError(
            f'the embodiment runs at {rate_hz} Hz and the world at {world.config.rate_hz} Hz: '
            f'make the world with SceneConfig(rate_hz={rate_hz})'
        )
    if space == 'ee_delta':
        return world.step(values[:3] * rate_hz, values[3:6] * rate_hz, values[6])
    if len(embodiment.joint_names) != len(values):
        raise SimulationError(f'the simulated arm needs 7 joints, got {embodiment.joint_names}')
    raise SimulationError(
        f'action space {space!r} has no gripper for a 7-joint arm; call world.step_joints'
    )
