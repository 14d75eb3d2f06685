"""Cartesian servoing of the arm: twists in base_link → joint targets, with mink's IK."""

from __future__ import annotations

import mink
import numpy as np

from vla_alignment_ros.errors import SimulationError
from vla_alignment_ros.kinematics import rotation_exp, rotation_log
from vla_alignment_ros.sim.scene import ARM_JOINTS, arm_model, EE_LINK

# where the nullspace posture pulls to: elbow up, wrist down
POSTURE_RAD = np.array([0.0, -0.3, 0.0, -2.45, 0.0, 2.15, 0.0])
WORKSPACE_LOW_M = np.array([0.25, -0.33, 0.012])
WORKSPACE_HIGH_M = np.array([0.72, 0.33, 0.40])
MAX_LEAD_M = 0.04  # how far the target may run ahead of the measured pose
MAX_LEAD_RAD = 0.35
_ITERATIONS = 3
_DAMPING = 1e-4


class CartesianServo:
    """Keeps a target pose of the tool and the joint positions that reach it.

    Poses are (position (3,) m, rotation (3, 3)) of `tool0` in base_link.
    """

    def __init__(self) -> None:
        model = arm_model()
        self._configuration = mink.Configuration(model)
        self._task = mink.FrameTask(
            frame_name=EE_LINK,
            frame_type='body',
            position_cost=1.0,
            orientation_cost=0.3,
            lm_damping=1e-6,
        )
        self._posture = mink.PostureTask(model, cost=1e-3)
        self._limits = [mink.ConfigurationLimit(model)]
        self._arm = np.array([model.joint(name).qposadr[0] for name in ARM_JOINTS])
        self._rest = np.zeros(model.nq)
        self._rest[self._arm] = POSTURE_RAD
        self._posture.set_target(self._rest)
        self._position = np.zeros(3)
        self._rotation = np.eye(3)

    @property
    def target(self) -> tuple[np.ndarray, np.ndarray]:
        return self._position.copy(), self._rotation.copy()

    def home(self, position: np.ndarray, yaw_rad: float) -> np.ndarray:
        """Joint positions (7,) with the tool at `position`, pointing down, turned by `yaw_rad`.

        Raises SimulationError if that pose cannot be reached.
        """
        self._configuration.update(self._rest)
        self._position = np.asarray(position, float).copy()
        self._rotation = tool_down(yaw_rad)
        for _ in range(60):
            joints = self._solve()
        reached = self._configuration.get_transform_frame_to_world(EE_LINK, 'body')
        error = np.linalg.norm(reached.translation() - self._position)
        if error > 2e-3:
            raise SimulationError(f'home pose {self._position} is out of reach by {error:.3f} m')
        return joints

    def restart(self, joints: np.ndarray) -> None:
        """Take the pose at these joint positions (7,) as the target."""
        q = self._rest.copy()
        q[self._arm] = joints
        self._configuration.update(q)
        pose = self._configuration.get_transform_frame_to_world(EE_LINK, 'body')
        self._position = pose.translation().copy()
        self._rotation = pose.rotation().as_matrix()

    def move(
        self,
        linear: np.ndarray,
        angular: np.ndarray,
        period_s: float,
        measured: tuple[np.ndarray, np.ndarray],
    ) -> np.ndarray:
        """Integrate a twist (m/s, rad/s, both (3,)) over one period; joint targets (7,)."""
        position, rotation = measured
        wanted = self._position + np.asarray(linear, float) * period_s
        lead = wanted - position
        distance = np.linalg.norm(lead)
        if distance > MAX_LEAD_M:
            wanted = position + lead * (MAX_LEAD_M / distance)
        self._position = np.clip(wanted, WORKSPACE_LOW_M, WORKSPACE_HIGH_M)
        turned = rotation_exp(np.asarray(angular, float) * period_s) @ self._rotation
        lead = rotation_log(turned @ rotation.T)
        angle = np.linalg.norm(lead)
        if angle > MAX_LEAD_RAD:
            turned = rotation_exp(lead * (MAX_LEAD_RAD / angle)) @ rotation
        self._rotation = turned
        for _ in range(_ITERATIONS):
            joints = self._solve()
        return joints

    def _solve(self) -> np.ndarray:
        self._task.set_target(
            mink.SE3.from_rotation_and_translation(
                mink.SO3.from_matrix(self._rotation), self._position
            )
        )
        try:
            velocity = mink.solve_ik(
                self._configuration,
                [self._task, self._posture],
                1.0,
                solver='daqp',
                damping=_DAMPING,
                limits=self._limits,
            )
        except mink.NoSolutionFound as error:
            raise SimulationError(f'inverse kinematics found no solution: {error}') from error
        self._configuration.integrate_inplace(velocity, 1.0)
        return self._configuration.q[self._arm].copy()


def tool_down(yaw_rad: float) -> np.ndarray:
    """Rotation (3, 3) of a tool that points down, turned by `yaw_rad` about base_link's z.

    At yaw 0 the tool's x is forward and its fingers close along base_link's y.
    """
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.array([[c, s, 0.0], [s, -c, 0.0], [0.0, 0.0, -1.0]])


def tool_yaw(rotation: np.ndarray) -> float:
    """Yaw (rad) of a tool rotation (3, 3): the angle of its x axis about base_link's z."""
    return float(np.arctan2(rotation[1, 0], rotation[0, 0]))
