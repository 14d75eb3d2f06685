"""Joint commands as ros2_control's controllers take them: their topics, and bytes out of motion.

==================  ======================================================================
interface           controller and topic
==================  ======================================================================
joint_trajectory    joint_trajectory_controller: a point to be reached one period from now
joint_position      forward_position_controller: positions, at once
joint_velocity      forward_velocity_controller: velocities, until others come
==================  ======================================================================

A hand of its own listens on `GRIPPER_TOPIC`, a forward_command_controller of one joint. Topics
have the names that ros2_control's examples give the controllers; remap others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.embodiment import FLOAT64_MULTI_ARRAY, JOINT_TRAJECTORY

TRAJECTORY, POSITION, VELOCITY = INTERFACES = (
    'joint_trajectory',
    'joint_position',
    'joint_velocity',
)
# interface -> topic and message type
COMMAND_TOPICS = {
    TRAJECTORY: ('joint_trajectory_controller/joint_trajectory', JOINT_TRAJECTORY),
    POSITION: ('forward_position_controller/commands', FLOAT64_MULTI_ARRAY),
    VELOCITY: ('forward_velocity_controller/commands', FLOAT64_MULTI_ARRAY),
}
GRIPPER_TOPIC = 'gripper_controller/commands'  # Float64MultiArray: the gripper joint's position


def encode_joints(
    interface: str,
    names: Sequence[str],
    position: np.ndarray,
    velocity: np.ndarray,
    period_s: float,
) -> bytes:
    """One command as CDR bytes. position and velocity: (J,) of the joints in `names`.

    A trajectory is stamped 0, "on arrival": a controller on a machine whose clock is ahead would
    drop it as over. It names no velocities: a controller refuses an end in motion by default.
    """
    if interface == TRAJECTORY:
        point = np.asarray(position)[None]  # (1, J)
        return wire.encode_joint_trajectory(0, '', tuple(names), point, np.array([period_s]))
    return wire.encode_float64_multi_array(position if interface == POSITION else velocity)
