"""Where a chunk would take the hand: a path in the base frame, and markers to look at.

The path is the chunk as it was proposed; gate and limits apply when it is executed.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.control.codecs import gripper_index
from vla_alignment_ros.control.decisions import Verdict
from vla_alignment_ros.control.gate import GO, HOLD, SLOW
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ControlError
from vla_alignment_ros.kinematics import ForwardKinematics
from vla_alignment_ros.resources import resolve_resource

MARKER_ARRAY = 'visualization_msgs/msg/MarkerArray'
GATE_COLORS = {GO: (0.1, 0.8, 0.2), SLOW: (0.95, 0.75, 0.1), HOLD: (0.85, 0.1, 0.1)}
OPEN_COLOR, CLOSED_COLOR = np.array([0.3, 0.7, 1.0]), np.array([0.1, 0.1, 0.5])
LINE_M, STEP_M, TEXT_M = 0.004, 0.010, 0.025  # widths and height
LIFETIME_S = 1  # a plan that is not renewed vanishes
_ADD, _LINE_STRIP, _SPHERE_LIST, _TEXT = 0, 4, 7, 9  # of visualization_msgs/Marker


class ChunkPreview:
    """Paths of one robot's chunks. Not thread-safe.

    Raises:
        ControlError: where the hand goes is not known: there is no URDF, or the action frame is
            neither the base's nor the hand's.
    """

    def __init__(self, embodiment: Embodiment) -> None:
        frames = (embodiment.base_link, embodiment.ee_link)
        if embodiment.urdf is None or embodiment.action.frame not in frames:
            raise ControlError(
                f"embodiment '{embodiment.name}' cannot say where a chunk leads: give it a urdf, "
                f'and an action.frame that is base_link or ee_link'
            )
        self.embodiment = embodiment
        self._gripper = gripper_index(embodiment)
        self._joints = len(embodiment.joint_names)
        self._kinematics = ForwardKinematics(
            resolve_resource(embodiment.urdf),
            embodiment.joint_names,
            embodiment.base_link,
            str(embodiment.ee_link),
        )

    def path(self, state: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Positions (H+1, 3) m of ee_link in base_link: now, and after each action.

        state: (S,) as in an observation. actions: (H, 7) physical units per control step.
        """
        actions = np.asarray(actions, np.float64)
        joints = np.asarray(state[: self._joints], np.float64)
        position, rotation = self._kinematics(joints)
        space = self.embodiment.action.space
        if space == 'ee_delta':
            return self._integrated(position, rotation, actions)
        steps = actions[:, : self._joints]  # (H, J)
        if space == 'joint_velocity':
            steps = joints + np.cumsum(steps / self.embodiment.rate_hz, axis=0)
        return np.vstack([position, *(self._kinematics(step)[0] for step in steps)])

    def _integrated(
        self, position: np.ndarray, rotation: np.ndarray, actions: np.ndarray
    ) -> np.ndarray:
        if self.embodiment.action.frame == self.embodiment.base_link:
            return position + np.vstack([np.zeros(3), np.cumsum(actions[:, :3], axis=0)])
        path = [position]
        for action in actions:
            path.append(path[-1] + rotation @ action[:3])
            rotation = rotation @ cv2.Rodrigues(action[3:6])[0]
        return np.vstack(path)

    def markers(self, state: np.ndarray, verdict: Verdict) -> bytes:
        """CDR bytes of a MarkerArray: the path, its steps, and what it answers.

        The line has the gate's colour; steps are light where the gripper is open, else dark.
        """
        actions = np.asarray(verdict.chunk.actions, np.float64)
        path = self.path(state, actions)
        opening = np.ones(len(actions))
        if self._gripper is not None:
            opening = np.clip(actions[:, self._gripper], 0.0, 1.0)
        shades = CLOSED_COLOR + opening[:, None] * (OPEN_COLOR - CLOSED_COLOR)  # (H, 3)
        text = f'{verdict.instruction}\n{verdict.gate} {verdict.vl_score:.2f}'
        line, steps, words = (
            self._marker(verdict, number, kind)
            for number, kind in enumerate((_LINE_STRIP, _SPHERE_LIST, _TEXT))
        )
        line.scale.x = LINE_M
        line.points = [_point(p) for p in path]
        steps.scale.x = steps.scale.y = steps.scale.z = STEP_M
        steps.points = [_point(p) for p in path[1:]]
        steps.colors = [_color(shade) for shade in shades]
        words.scale.z, words.text = TEXT_M, text
        words.pose.position = _point(path[-1] + (0.0, 0.0, 2 * TEXT_M))
        return wire.encode(wire.make(MARKER_ARRAY, markers=[line, steps, words]))

    def _marker(self, verdict: Verdict, number: int, kind: int) -> Any:
        no_bytes = np.empty(0, np.uint8)
        return wire.make(
            'visualization_msgs/msg/Marker',
            header=wire.header(verdict.ts_ns, self.embodiment.base_link),
            ns='chunk',
            id=number,
            type=kind,
            action=_ADD,
            pose=wire.make(
                'geometry_msgs/msg/Pose',
                position=_point(np.zeros(3)),
                orientation=wire.make('geometry_msgs/msg/Quaternion', x=0.0, y=0.0, z=0.0, w=1.0),
            ),
            scale=wire.make('geometry_msgs/msg/Vector3', x=0.0, y=0.0, z=0.0),
            color=_color(GATE_COLORS[verdict.gate]),
            lifetime=wire.make('builtin_interfaces/msg/Duration', sec=LIFETIME_S, nanosec=0),
            frame_locked=False,
            points=[],
            colors=[],
            texture_resource='',
            texture=wire.make(
                'sensor_msgs/msg/CompressedImage',
                header=wire.header(0, ''), format='', data=no_bytes,
            ),
            uv_coordinates=[],
            text='',
            mesh_resource='',
            mesh_file=wire.make('visualization_msgs/msg/MeshFile', filename='', data=no_bytes),
            mesh_use_embedded_materials=False,
        )  # fmt: skip


def _point(values: np.ndarray) -> Any:
    x, y, z = (float(v) for v in values)
    return wire.make('geometry_msgs/msg/Point', x=x, y=y, z=z)


def _color(rgb: np.ndarray) -> Any:
    r, g, b = (float(v) for v in rgb)
    return wire.make('std_msgs/msg/ColorRGBA', r=r, g=g, b=b, a=1.0)
