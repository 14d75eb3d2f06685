"""Forward kinematics of the arm, from its URDF, compiled by MuJoCo (no rendering, no GL).

Proprioception is joint angles; where the hand is in the base frame follows from them, and giving
that to the policy saves it from learning trigonometry.
"""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np

from vla_alignment_ros.errors import EmbodimentError


class ForwardKinematics:
    """Pose of `ee_link` in `base_link` for joint positions in the order of `joint_names`.

    Raises:
        EmbodimentError: the URDF does not load, or lacks a named joint or link.
    """

    def __init__(
        self, urdf: str | Path, joint_names: tuple[str, ...], base_link: str, ee_link: str
    ) -> None:
        try:
            spec = mujoco.MjSpec.from_file(str(urdf))
            # static links must survive as bodies, or tool frames vanish into their parent
            spec.compiler.fusestatic = False
            self._model = spec.compile()
        except ValueError as error:
            raise EmbodimentError(f'cannot load URDF {urdf}: {error}') from error
        self._data = mujoco.MjData(self._model)
        self._qpos = np.array([self._joint(name) for name in joint_names])
        self._base = self._body(base_link, root_is_world=True)
        self._ee = self._body(ee_link)

    def _joint(self, name: str) -> int:
        index = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_JOINT, name)
        if index < 0:
            raise EmbodimentError(f'URDF has no joint {name!r}; it has {self._names("joint")}')
        return int(self._model.jnt_qposadr[index])

    def _body(self, name: str, root_is_world: bool = False) -> int:
        index = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_BODY, name)
        if index < 0 and root_is_world:
            # MuJoCo merges a URDF's root link into the world body
            return 0
        if index < 0:
            raise EmbodimentError(f'URDF has no link {name!r}; it has {self._names("body")}')
        return index

    def _names(self, kind: str) -> str:
        count = self._model.njnt if kind == 'joint' else self._model.nbody
        return ', '.join(getattr(self._model, kind)(i).name for i in range(count))

    def __call__(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(J,) rad → position (3,) m and rotation (3, 3), both float64, in `base_link`."""
        self._data.qpos[self._qpos] = positions
        mujoco.mj_kinematics(self._model, self._data)
        base = self._data.xmat[self._base].reshape(3, 3)
        offset = self._data.xpos[self._ee] - self._data.xpos[self._base]
        return base.T @ offset, base.T @ self._data.xmat[self._ee].reshape(3, 3)
