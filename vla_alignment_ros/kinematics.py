"""Kinematics of the arm, from its URDF, compiled by MuJoCo (no rendering, no GL).

Proprioception is joint angles; where the hand is in the base frame follows from them, and giving
that to the policy saves it from learning trigonometry. How the hand moves when the joints do, and
how far and fast they may, is what servoing needs.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
from pathlib import Path
from xml.etree import ElementTree

import mujoco
import numpy as np

from vla_alignment_ros.errors import EmbodimentError


def _skeleton(urdf: ElementTree.Element) -> mujoco.MjSpec:
    """The joints and frames of a URDF alone.

    Shapes are left out: a robot's meshes are often on another machine, and no pose depends on
    them. So is all that is neither link nor joint: MuJoCo's own settings, which might merge the
    frames that we are to find, and whatever would read another file.
    """
    for part in list(urdf):
        if part.tag not in ('link', 'joint'):
            urdf.remove(part)
    for parent in list(urdf.iter()):
        for child in list(parent):
            if child.tag in ('visual', 'collision', 'include'):
                parent.remove(child)
    spec = mujoco.MjSpec.from_string(ElementTree.tostring(urdf, encoding='unicode'))
    # static links must survive as bodies, or tool frames vanish into their parent
    spec.compiler.fusestatic = False
    # links without inertia move as well as others here
    spec.compiler.boundmass = spec.compiler.boundinertia = 1e-6
    spec.compiler.balanceinertia = True
    return spec


@dataclass(frozen=True)
class JointLimits:
    """How far (rad or m) and how fast (per s) joints may go, all (J,) float64, in their order.

    What a URDF does not limit is infinite.
    """

    low: np.ndarray
    high: np.ndarray
    velocity: np.ndarray


class ForwardKinematics:
    """Pose of `ee_link` in `base_link` for joint positions in the order of `joint_names`.

    Raises:
        EmbodimentError: the URDF does not load, or lacks a named joint or link.
    """

    def __init__(
        self, urdf: str | Path, joint_names: tuple[str, ...], base_link: str, ee_link: str
    ) -> None:
        try:
            tree = ElementTree.parse(urdf).getroot()
            self._links = {link.get('name') for link in tree.iter('link')}
            if tree.tag != 'robot' or not self._links:  # MuJoCo's own format reads other files
                raise EmbodimentError(f'cannot load URDF {urdf}: it describes no robot')
            joints = tree.findall('joint')
            self._limits = {joint.get('name'): _limits(joint) for joint in joints}
            self._above = {_link(joint, 'child'): joint for joint in joints}
            self._model = _skeleton(tree).compile()
        except (ValueError, RecursionError, ElementTree.ParseError) as error:
            raise EmbodimentError(f'cannot load URDF {urdf}: {error}') from error
        self._data = mujoco.MjData(self._model)
        self.joint_names = tuple(joint_names)
        self._qpos = np.array([self._joint(name) for name in joint_names])
        self.ends = base_link, ee_link
        self._base = self._body(base_link)
        self._ee = self._body(ee_link)

    def _joint(self, name: str) -> int:
        index = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_JOINT, name)
        if index < 0:
            raise EmbodimentError(f'URDF has no joint {name!r}; it has {self._joints()}')
        return int(self._model.jnt_qposadr[index])

    def _joints(self) -> str:
        return ', '.join(self._model.joint(i).name for i in range(self._model.njnt)) or 'none'

    def _body(self, name: str) -> int:
        if name not in self._links:
            known = ', '.join(sorted(map(str, self._links)))
            raise EmbodimentError(f'URDF has no link {name!r}; it has {known}')
        # MuJoCo merges a URDF's root link, and only that one, into the world body 0
        return max(0, mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_BODY, name))

    def __call__(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(J,) rad → position (3,) m and rotation (3, 3), both float64, in `base_link`."""
        self._data.qpos[self._qpos] = positions
        mujoco.mj_kinematics(self._model, self._data)
        return self._pose()

    def pose_and_jacobian(
        self, positions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(J,) → position (3,), rotation (3, 3) and Jacobian (6, J), all in `base_link`.

        The Jacobian turns joint velocities into the velocity (m/s) of the origin of `ee_link` and
        its angular velocity (rad/s), both along the axes of `base_link`.
        """
        self._data.qpos[self._qpos] = positions
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        whole = np.empty((6, self._model.nv))
        mujoco.mj_jacBody(self._model, self._data, whole[:3], whole[3:], self._ee)
        # hinges and slides alone: a joint has one position and one velocity, at the same index
        base = self._data.xmat[self._base].reshape(3, 3)
        jacobian = (base.T @ whole[:, self._qpos].reshape(2, 3, -1)).reshape(6, -1)
        return *self._pose(), jacobian

    def chain(self) -> tuple[str, ...]:
        """Names of the joints that move `ee_link` against `base_link`, from the base on.

        Raises:
            EmbodimentError: base_link does not carry ee_link.
        """
        base, link = self.ends
        names: list[str] = []
        while link != base:
            joint = self._above.get(link)
            if joint is None or len(names) > len(self._above):
                raise EmbodimentError(
                    f'in the URDF {base} does not carry {self.ends[1]}: base_link must be the '
                    'link that the arm is mounted on'
                )
            if joint.get('type') != 'fixed':
                names.append(str(joint.get('name')))
            link = _link(joint, 'parent')
        return tuple(reversed(names))

    def limits(self) -> JointLimits:
        """The limits that the URDF gives the named joints."""
        low, high, velocity = zip(*(self._limits[name] for name in self.joint_names))
        return JointLimits(np.array(low), np.array(high), np.array(velocity))

    def _pose(self) -> tuple[np.ndarray, np.ndarray]:
        base = self._data.xmat[self._base].reshape(3, 3)
        offset = self._data.xpos[self._ee] - self._data.xpos[self._base]
        return base.T @ offset, base.T @ self._data.xmat[self._ee].reshape(3, 3)


def _limits(joint: ElementTree.Element) -> tuple[float, float, float]:
    """Lowest and highest position and the velocity that a URDF's joint may have."""
    given = joint.find('limit')
    values = {} if given is None else given.attrib
    velocity = float(values.get('velocity', math.inf)) or math.inf  # 0 stands for 'not said'
    if joint.get('type') not in ('revolute', 'prismatic'):  # a continuous joint has no ends
        return -math.inf, math.inf, velocity
    return float(values.get('lower', 0.0)), float(values.get('upper', 0.0)), velocity


def _link(joint: ElementTree.Element, role: str) -> str | None:
    """Name of the link that is 'parent' or 'child' of a URDF's joint."""
    found = joint.find(role)
    return None if found is None else found.get('link')


def rotation_exp(vector: np.ndarray) -> np.ndarray:
    """Rotation vector (3,) rad → matrix (3, 3)."""
    angle = float(np.linalg.norm(vector))
    quat, matrix = np.empty(4), np.empty(9)
    axis = vector / angle if angle > 1e-12 else np.array([1.0, 0.0, 0.0])
    mujoco.mju_axisAngle2Quat(quat, axis, angle)
    mujoco.mju_quat2Mat(matrix, quat)
    return matrix.reshape(3, 3)


def rotation_log(matrix: np.ndarray) -> np.ndarray:
    """Matrix (3, 3) → rotation vector (3,) rad."""
    quat, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quat, np.ascontiguousarray(matrix).ravel())
    mujoco.mju_quat2Vel(vector, quat, 1.0)
    return vector
