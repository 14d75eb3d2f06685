"""The scripted expert: from the true state to one clean 7-D action per control step.

It is a function of what can be seen now (tool pose, finger opening, object poses), with no hidden
phase: every branch below asks the present state. So a policy that only sees the present can
imitate it, and after a push, a slip or a missed grasp it simply carries on from where it is.

Actions are ee_delta: [dx, dy, dz, droll, dpitch, dyaw, gripper], metres and radians per control
step in base_link, gripper 1 = open, 0 = closed.
"""

from __future__ import annotations

import math

import numpy as np

from vla_alignment_ros.kinematics import rotation_log
from vla_alignment_ros.sim.arm import tool_down
from vla_alignment_ros.sim.judge import in_tray, ObjectState
from vla_alignment_ros.sim.scene import FINGER_OPEN_M, SHAPES, tray_center
from vla_alignment_ros.sim.spec import EpisodeSpec
from vla_alignment_ros.sim.world import TabletopWorld

HOVER_M = 0.095  # the open fingers clear the tallest object
CARRY_M = 0.14
PUSH_HEIGHT_M = 0.018
FUNNEL_SLOPE = 3.0  # metres of height per metre of horizontal error
FUNNEL_MOUTH_M = 0.006  # no height is kept within this error
FINGER_HALF_M = 0.012  # closed fingers, along the way they push
PUSH_GAP_M = 0.022
PUSH_SPEED_M_S = 0.15
GAIN = 0.5  # share of the remaining way per step
MAX_TURN_RAD = 0.15  # per step
# steps after success: hold what was picked, leave what was placed; a push just ends
TAIL_STEPS = {'pick': 2, 'place': 1, 'push': 0}


class Expert:
    """Solves the episode that `world` is in. One `action()` per control step, then step."""

    def __init__(self, world: TabletopWorld) -> None:
        self._world = world
        self._spec: EpisodeSpec | None = None
        self._success_step: int | None = None

    def reset(self, spec: EpisodeSpec) -> None:
        """Start on an episode; call after `world.reset(spec)`."""
        self._spec = spec
        self._success_step = None
        self._step_m = spec.speed_m_s / self._world.config.rate_hz

    @property
    def done(self) -> bool:
        """Whether the demonstration is complete: success and a short tail, or out of steps."""
        status = self._world.status()
        if not status.success:
            self._success_step = None  # not yet, or no more: what was held may be lost again
        elif self._success_step is None:
            self._success_step = status.steps
        if self._success_step is not None:
            return status.steps >= self._success_step + TAIL_STEPS[self._spec.task]
        return status.steps >= self._world.config.max_steps

    def action(self) -> np.ndarray:
        """The clean intention for the present state, (7,) float32."""
        self._position, self._rotation = self._world.ee_pose()
        target = self._world.objects.get(self._spec.target)
        if target is None:  # nothing of that name: stay
            return np.array([0, 0, 0, 0, 0, 0, 1], np.float32)
        if self._spec.task == 'push':
            return self._push(target)
        if _is_held(target):
            return self._lift() if self._spec.task == 'pick' else self._carry(target)
        if self._spec.task == 'place' and in_tray(self._spec, target.position):
            return self._rise(gripper=1.0)
        return self._grasp(target)

    # --- the parts of a task

    def _grasp(self, target: ObjectState) -> np.ndarray:
        """Approach from above and close the fingers around the object."""
        height, yaw = grasp_pose(target)
        goal = np.array([target.position[0], target.position[1], height])
        opening = self._world.gripper_opening()
        error = goal - self._position
        off = float(np.linalg.norm(error[:2]))
        turn = abs(self._rotation_error(yaw)[2])
        narrow = SHAPES[target.shape].half_width_m / FINGER_OPEN_M - 0.12
        if opening < narrow:  # closed on nothing: open and come again
            return self._rise(gripper=1.0)
        closing = opening < 0.9
        tolerance = 0.018 if closing else 0.008
        if off < tolerance and abs(error[2]) < tolerance and turn < (0.3 if closing else 0.1):
            return self._towards(self._position, yaw, gripper=0.0)
        return self._descend(goal, yaw, gripper=1.0, ready=opening > 0.8)

    def _lift(self) -> np.ndarray:
        goal = np.array([self._position[0], self._position[1], CARRY_M])
        return self._towards(goal, None, gripper=0.0)

    def _carry(self, target: ObjectState) -> np.ndarray:
        """Over the tray, down, and let go."""
        tray = tray_center(self._spec.scene, self._spec.tray)
        half = SHAPES[target.shape].half_height_m
        bottom = target.position[2] - half
        grip = self._position - target.position  # from the object to the tool
        goal = np.array([tray[0], tray[1], tray[2] + half + 0.012 + grip[2]])
        off = float(np.linalg.norm(goal[:2] - self._position[:2]))
        if off < 0.02 and bottom < tray[2] + 0.022:
            return self._towards(self._position, None, gripper=1.0)
        goal[2] += min(max(off - 0.012, 0.0) * 2.5, max(CARRY_M - goal[2], 0.0))
        # rise before going sideways: what is carried must pass over what stands in the way
        hurry = float(np.clip((bottom - 0.02) / 0.05, 0.05, 1.0)) if off > 0.06 else 1.0
        goal[:2] = self._position[:2] + (goal[:2] - self._position[:2]) * hurry
        return self._towards(goal, None, gripper=0.0)

    def _push(self, target: ObjectState) -> np.ndarray:
        """Closed fingers down beside the object, then along the table."""
        sign = 1.0 if self._spec.side == 'left' else -1.0
        reach = SHAPES[target.shape].half_width_m + FINGER_HALF_M
        along = sign * (self._position[1] - target.position[1])  # negative: behind it
        across = self._position[0] - target.position[0]
        low = self._position[2] < PUSH_HEIGHT_M + 0.015
        if low and abs(across) < 0.014 and -(reach + 0.05) < along < 0.0:
            goal = np.array([target.position[0], self._position[1], PUSH_HEIGHT_M])
            action = self._towards(goal, 0.0, gripper=0.0)
            step = min(self._step_m, PUSH_SPEED_M_S / self._world.config.rate_hz)
            action[1] = sign * step
            return action
        goal = np.array(
            [target.position[0], target.position[1] - sign * (reach + PUSH_GAP_M), PUSH_HEIGHT_M]
        )
        ready = self._world.gripper_opening() < 0.3
        return self._descend(goal, 0.0, gripper=0.0, ready=ready)

    def _rise(self, gripper: float) -> np.ndarray:
        goal = np.array([self._position[0], self._position[1], CARRY_M])
        return self._towards(goal, None, gripper)

    # --- motion

    def _descend(self, goal, yaw: float, gripper: float, *, ready: bool) -> np.ndarray:
        """Towards `goal` through a funnel: high while far to the side, turned or not `ready`."""
        off = float(np.linalg.norm(goal[:2] - self._position[:2]))
        turn = abs(self._rotation_error(yaw)[2])
        height = FUNNEL_SLOPE * max(off - FUNNEL_MOUTH_M, 0.0) + 0.15 * max(turn - 0.1, 0.0)
        room = HOVER_M - goal[2]
        waypoint = np.array(goal)
        waypoint[2] += min(height, room) if ready else room
        # too low for being this far away: first up, then sideways
        missing = waypoint[2] - self._position[2]
        hurry = float(np.clip(1.0 - (missing - 0.015) / 0.03, 0.05, 1.0))
        waypoint[:2] = self._position[:2] + (waypoint[:2] - self._position[:2]) * hurry
        return self._towards(waypoint, yaw, gripper)

    def _towards(self, goal, yaw: float | None, gripper: float) -> np.ndarray:
        """One step towards a tool position (3,) and yaw (None keeps it), pointing down."""
        delta = GAIN * (np.asarray(goal) - self._position)
        length = np.linalg.norm(delta)
        if length > self._step_m:
            delta *= self._step_m / length
        turn = GAIN * self._rotation_error(yaw)
        angle = np.linalg.norm(turn)
        if angle > MAX_TURN_RAD:
            turn *= MAX_TURN_RAD / angle
        return np.array([*delta, *turn, gripper], np.float32)

    def _rotation_error(self, yaw: float | None) -> np.ndarray:
        """Rotation vector (3,) in base_link from the tool to pointing down at `yaw`."""
        if yaw is None:
            yaw = math.atan2(self._rotation[1, 0], self._rotation[0, 0])
        return rotation_log(tool_down(yaw) @ self._rotation.T)


def grasp_pose(target: ObjectState) -> tuple[float, float]:
    """Tool height (m) and yaw (rad) at which the fingers fit the object's sides.

    The yaw is reduced by the object's symmetry: cubes within ±45°, long things within ±90°,
    round things 0.
    """
    rotation, height = target.rotation, float(target.position[2])
    lying = target.shape == 'cylinder' and abs(rotation[2, 2]) < 0.7
    if target.shape == 'ball' or (target.shape == 'cylinder' and not lying):
        return max(height, 0.016), 0.0
    if target.shape == 'cube':
        axis = rotation[:, int(np.argmin(np.abs(rotation[2])))]  # the most level edge
        quarter = math.pi / 2
    else:
        axis = rotation[:, 2 if lying else 0]
        quarter = math.pi
    yaw = math.atan2(axis[1], axis[0])
    return max(height, 0.016), yaw - quarter * round(yaw / quarter)


def _is_held(target: ObjectState) -> bool:
    return len(target.fingers) == 2
