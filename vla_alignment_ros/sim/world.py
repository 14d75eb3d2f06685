"""The simulated table top: reset to an episode, step it with commands, look at it, judge it."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from vla_alignment_ros.errors import SimulationError
from vla_alignment_ros.sim.arm import CartesianServo, tool_yaw
from vla_alignment_ros.sim.judge import EpisodeJudge, EpisodeStatus, ObjectState
from vla_alignment_ros.sim.render import OffscreenRenderer
from vla_alignment_ros.sim.scene import (
    ARM_JOINTS,
    build_model,
    EE_LINK,
    FINGER_JOINTS,
    FINGER_LINKS,
    FINGER_OPEN_M,
    TIMESTEP_S,
)
from vla_alignment_ros.sim.spec import EpisodeSpec, object_names

NS = 1_000_000_000
ROBOT_TREE_ROOT = 'link0'


@dataclass(frozen=True)
class SceneConfig:
    """How the world runs; what is in it comes from the EpisodeSpec."""

    rate_hz: float = 10.0
    max_steps: int = 120  # an episode is over after this many control steps
    settle_s: float = 0.2  # physics before the first observation
    disturbances: bool = True  # execute the disturbances that the episode asks for
    start_time_ns: int = NS  # time never starts at 0: ROS reads that as 'no time yet'


class TabletopWorld:
    """One arm, one table. Time only passes in `step`; the same episode always runs the same way.

    Not thread-safe: render from the thread that steps.
    """

    def __init__(self, config: SceneConfig | None = None) -> None:
        self.config = config or SceneConfig()
        self._period_s = 1.0 / self.config.rate_hz
        self._substeps = round(self._period_s / TIMESTEP_S)
        self._servo = CartesianServo()
        self._renderer = OffscreenRenderer(1280, 960)
        self._rendered_model: mujoco.MjModel | None = None
        self._spec: EpisodeSpec | None = None

    def __enter__(self) -> TabletopWorld:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the rendering resources."""
        self._renderer.close()
        self._rendered_model = None

    # --- an episode

    def reset(self, spec: EpisodeSpec) -> EpisodeStatus:
        """Build the scene of an episode and put the arm at its start."""
        self._spec = spec
        self._model = model = build_model(spec.scene)
        self._data = data = mujoco.MjData(model)
        self._index(model, spec)
        joints = self._servo.home(np.asarray(spec.scene.home_xyz_m), spec.scene.home_yaw_rad)
        data.qpos[self._arm_qpos] = joints
        data.qpos[self._finger_qpos] = FINGER_OPEN_M
        data.ctrl[self._arm_ctrl] = self._joint_target = joints
        data.ctrl[self._finger_ctrl] = FINGER_OPEN_M
        mujoco.mj_step(model, data, round(self.config.settle_s / TIMESTEP_S))
        mujoco.mj_forward(model, data)
        self._rng = np.random.default_rng([spec.seed, 7])
        self._steps = self._into_step = 0
        self._gripper = 1.0
        self._judge = EpisodeJudge(spec, self.config.max_steps)
        self._objects = self._read_objects()
        self._status = self._judge.start(self._objects)
        return self._status

    def step(
        self, twist_linear: np.ndarray, twist_angular: np.ndarray, gripper: float
    ) -> EpisodeStatus:
        """Run one control period.

        Args:
            twist_linear: (3,) velocity of tool0 in base_link, m/s.
            twist_angular: (3,) angular velocity in base_link, rad/s.
            gripper: opening 0 (closed) … 1 (open), absolute.

        Raises SimulationError if the command is not finite.
        """
        linear = np.array(twist_linear, dtype=float)
        angular = np.array(twist_angular, dtype=float)
        _require_finite('twist', linear, angular, gripper)
        linear, angular, gripper = self._disturb(linear, angular, float(gripper))
        joints = self._servo.move(linear, angular, self._period_s, self.ee_pose())
        return self._advance(joints, gripper)

    def step_joints(
        self, position: np.ndarray, gripper: float, period_s: float | None = None
    ) -> EpisodeStatus:
        """Run one control period towards joint positions (7,) rad; gripper as in `step`.

        period_s: a part of a control period; the episode is judged when parts make up a whole
        one. They must do so exactly, and be whole steps of the physics.
        """
        joints = np.array(position, dtype=float)
        _require_finite('joint command', joints, gripper)
        if joints.shape != (len(ARM_JOINTS),):
            raise SimulationError(f'need {len(ARM_JOINTS)} joint positions, got {joints.shape}')
        part = self._substeps if period_s is None else round(period_s / TIMESTEP_S)
        uneven = period_s is not None and abs(part * TIMESTEP_S - period_s) > 1e-9
        if uneven or not 1 <= part <= self._substeps - self._into_step:
            raise SimulationError(
                f'{period_s} s is no part of what is left of a control period of '
                f'{self._period_s} s in steps of {TIMESTEP_S} s'
            )
        joints = self.reachable(joints)
        self._servo.restart(joints)
        # as industrial drives do; without it the arm is 0.08 s late
        lead = self._drive_lag_s * (joints - self._joint_target) / (part * TIMESTEP_S)
        return self._advance(joints, float(gripper), part, lead)

    def reachable(self, position: np.ndarray) -> np.ndarray:
        """Joint positions (7,) rad, the nearest within the range of each joint."""
        low, high = self._model.jnt_range[self._arm_joint].T
        return np.clip(position, low, high)

    # --- what can be seen

    @property
    def spec(self) -> EpisodeSpec:
        if self._spec is None:
            raise SimulationError('no episode yet: call reset first')
        return self._spec

    @property
    def time_ns(self) -> int:
        """Simulated time: control periods since the reset, plus the start time."""
        since_s = self._steps * self._period_s + self._into_step * TIMESTEP_S
        return self.config.start_time_ns + round(since_s * NS)

    @property
    def between_steps(self) -> bool:
        """Whether a whole number of control periods has passed."""
        return self._into_step == 0

    @property
    def objects(self) -> dict[str, ObjectState]:
        """True state of every object, by name such as 'red cube'."""
        return dict(self._objects)

    def status(self) -> EpisodeStatus:
        """How the episode stands after the last step."""
        _ = self.spec  # says so if there is none
        return self._status

    def ee_pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Measured pose of tool0 in base_link: position (3,) m and rotation (3, 3)."""
        body = self._data.body(EE_LINK)
        return body.xpos.copy(), body.xmat.reshape(3, 3).copy()

    def ee_yaw(self) -> float:
        return tool_yaw(self.ee_pose()[1])

    def gripper_opening(self) -> float:
        """Measured opening 0 … 1 (mean of both fingers)."""
        return float(np.mean(self._data.qpos[self._finger_qpos]) / FINGER_OPEN_M)

    def joint_sample(self) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
        """(names, position, velocity) of the seven arm joints and both fingers; rad, m, per s."""
        names = ARM_JOINTS + FINGER_JOINTS
        return (
            names,
            np.concatenate([self._data.qpos[self._arm_qpos], self._data.qpos[self._finger_qpos]]),
            np.concatenate([self._data.qvel[self._arm_dof], self._data.qvel[self._finger_dof]]),
        )

    def render(self, camera: str, width: int, height: int) -> np.ndarray:
        """Picture of camera 'front', 'wrist' or 'overview', (H, W, 3) uint8 RGB."""
        self._prepare_renderer()
        return self._renderer.render(self._data, camera, width, height)

    def segmentation(self, camera: str, width: int, height: int) -> np.ndarray:
        """Which object each pixel shows, (H, W) int32: index into `object_names`, else -1."""
        self._prepare_renderer()
        geoms = self._renderer.segmentation(self._data, camera, width, height)
        return self._object_of_geom[geoms]  # geom -1 reads the extra last entry, which is -1

    def camera_fov_rad(self, camera: str) -> float:
        """Vertical field of view of a camera."""
        return float(np.deg2rad(self._model.cam_fovy[self._model.camera(camera).id]))

    @property
    def object_names(self) -> tuple[str, ...]:
        """Names in the order of the ids of `segmentation`: the objects, then both trays."""
        return self._object_names

    # --- inside

    def _index(self, model: mujoco.MjModel, spec: EpisodeSpec) -> None:
        def addresses(names, attribute):
            return np.array([getattr(model.joint(name), attribute)[0] for name in names])

        self._arm_joint = np.array([model.joint(name).id for name in ARM_JOINTS])
        self._arm_qpos, self._arm_dof = (addresses(ARM_JOINTS, a) for a in ('qposadr', 'dofadr'))
        self._finger_qpos = addresses(FINGER_JOINTS, 'qposadr')
        self._finger_dof = addresses(FINGER_JOINTS, 'dofadr')
        self._arm_ctrl = np.array([model.actuator(name).id for name in ARM_JOINTS])
        gain, damping = model.actuator_gainprm[:, 0], model.actuator_biasprm[:, 2]
        self._drive_lag_s = (-damping / gain)[self._arm_ctrl]
        self._finger_ctrl = np.array([model.actuator(name).id for name in FINGER_JOINTS])
        self._body_of_geom = model.geom_bodyid
        root = model.body(ROBOT_TREE_ROOT).id
        ancestors = [_ancestors(model, body) for body in range(model.nbody)]
        self._is_robot = np.array([root in chain for chain in ancestors])
        self._finger_of_body = {model.body(name).id: name for name in FINGER_LINKS}
        names = [item.name for item in spec.scene.objects]
        self._object_bodies = {model.body(name).id: name for name in names}
        self._object_names = object_names(spec.scene)
        self._object_of_geom = np.full(model.ngeom + 1, -1, np.int32)
        for index, name in enumerate(self._object_names):
            self._object_of_geom[:-1][model.geom_bodyid == model.body(name).id] = index

    def _disturb(self, linear, angular, gripper):
        plan = self.spec.disturbance
        if not self.config.disturbances:
            return linear, angular, gripper
        if plan.noise_m_s or plan.noise_rad_s:
            linear = linear + plan.noise_m_s * self._rng.standard_normal(3)
            angular = angular + [0, 0, plan.noise_rad_s * self._rng.standard_normal()]
        for event in plan.events:
            if event.start_step <= self._steps < event.start_step + event.steps:
                linear = linear + event.linear_m_s
                angular = angular + [0, 0, event.yaw_rad_s]
                gripper = gripper if event.gripper is None else event.gripper
        return linear, angular, gripper

    def _advance(
        self,
        joints: np.ndarray,
        gripper: float,
        part: int | None = None,
        lead: np.ndarray | float = 0.0,
    ) -> EpisodeStatus:
        """Run `part` steps of the physics, or a whole control period.

        lead: (7,) rad that the drives are ahead of where the joints are to be.
        """
        self._gripper = float(np.clip(gripper, 0.0, 1.0))
        data, start = self._data, self._joint_target
        data.ctrl[self._finger_ctrl] = self._gripper * FINGER_OPEN_M
        count = part or self._substeps
        for index in range(1, count + 1):
            data.ctrl[self._arm_ctrl] = start + (joints - start) * (index / count) + lead
            mujoco.mj_step(self._model, data)
        mujoco.mj_forward(self._model, data)
        self._joint_target = joints
        self._into_step = (self._into_step + count) % self._substeps
        if self._into_step == 0:
            self._steps += 1
            self._objects = self._read_objects()
            self._status = self._judge.update(self._objects)
        return self._status

    def _read_objects(self) -> dict[str, ObjectState]:
        fingers: dict[str, set[str]] = {name: set() for name in self._object_bodies.values()}
        touched: set[str] = set()
        for pair in self._data.contact.geom:
            bodies = self._body_of_geom[pair]
            for body, other in (bodies, bodies[::-1]):
                name = self._object_bodies.get(int(body))
                if name is not None and self._is_robot[other]:
                    touched.add(name)
                    if finger := self._finger_of_body.get(int(other)):
                        fingers[name].add(finger)
        states = {}
        for item in self.spec.scene.objects:
            body = self._data.body(item.name)
            speed = float(np.linalg.norm(self._data.joint(item.name).qvel[:3]))
            states[item.name] = ObjectState(
                name=item.name,
                color=item.color,
                shape=item.shape,
                position=body.xpos.copy(),
                rotation=body.xmat.reshape(3, 3).copy(),
                speed_m_s=speed,
                fingers=frozenset(fingers[item.name]),
                touches_robot=item.name in touched,
            )
        return states

    def _prepare_renderer(self) -> None:
        if self._spec is None:
            raise SimulationError('no episode yet: call reset first')
        if self._rendered_model is not self._model:
            self._renderer.load(self._model)
            self._rendered_model = self._model


def _ancestors(model: mujoco.MjModel, body: int) -> set[int]:
    chain = {body}
    while body:
        body = int(model.body_parentid[body])
        chain.add(body)
    return chain


def _require_finite(what: str, *values) -> None:
    if not all(np.all(np.isfinite(value)) for value in values):
        raise SimulationError(f'{what} is not finite: refuse it before it reaches the simulator')
