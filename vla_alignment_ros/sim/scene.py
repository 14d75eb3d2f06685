"""The MuJoCo scene: the arm's URDF, a table, two trays and the objects of one episode.

Frames: base_link is the world, z up, x away from the robot, y to the robot's left; the table top
is z = 0. Built anew for every episode with MjSpec (a few milliseconds), so that a scene holds
only what is in it.
"""

from __future__ import annotations

from dataclasses import dataclass
import functools
import math

import mujoco
import numpy as np

from vla_alignment_ros.embodiment import resolve_resource
from vla_alignment_ros.errors import SimulationError
from vla_alignment_ros.sim.spec import ObjectSpec, SceneSpec

ARM_URDF = 'package://vla_alignment_ros/urdf/tabletop_arm.urdf'
ARM_JOINTS = tuple(f'joint{i}' for i in range(1, 8))
FINGER_JOINTS = ('finger_joint', 'finger_joint_mimic')
FINGER_LINKS = ('finger_left', 'finger_right')
FINGER_OPEN_M = 0.04
EE_LINK = 'tool0'

TIMESTEP_S = 0.002
OFFSCREEN_MAX = (1280, 960)  # largest image that can be rendered, width x height

COLORS: dict[str, tuple[float, float, float]] = {
    'red': (0.86, 0.07, 0.07),
    'green': (0.07, 0.55, 0.12),
    'blue': (0.06, 0.16, 0.85),
    'yellow': (0.97, 0.83, 0.05),
    'purple': (0.48, 0.10, 0.62),
    'cyan': (0.05, 0.76, 0.82),
}
TRAY_COLORS = {'white': (0.95, 0.95, 0.95), 'black': (0.06, 0.06, 0.07)}
TABLE_COLOR = (0.60, 0.55, 0.48)
FLOOR_COLOR = (0.42, 0.44, 0.47)

# tray: centre, inner half size, wall thickness, rim height (m)
TRAY_X_M, TRAY_Y_M = 0.350, 0.165
TRAY_HALF_M = (0.070, 0.075)
TRAY_WALL_M = 0.005
TRAY_RIM_M = 0.018
TRAY_FLOOR_M = 0.003


@dataclass(frozen=True)
class Shape:
    """A primitive: MuJoCo geom type, its size, and half its height when it stands (m)."""

    geom: int
    size: tuple[float, float, float]
    half_height_m: float
    mass_kg: float
    half_width_m: float  # from the centre to the side, along the way it is pushed


SHAPES: dict[str, Shape] = {
    'cube': Shape(mujoco.mjtGeom.mjGEOM_BOX, (0.020, 0.020, 0.020), 0.020, 0.06, 0.020),
    'ball': Shape(mujoco.mjtGeom.mjGEOM_SPHERE, (0.022, 0.0, 0.0), 0.022, 0.05, 0.022),
    'cylinder': Shape(mujoco.mjtGeom.mjGEOM_CYLINDER, (0.019, 0.0325, 0), 0.0325, 0.07, 0.019),
    'brick': Shape(mujoco.mjtGeom.mjGEOM_BOX, (0.035, 0.015, 0.015), 0.015, 0.07, 0.015),
}

FRONT_AIM_M = (0.480, 0.0, 0.02)
FRONT_DISTANCE_M = 1.25
FRONT_PITCH_RAD = math.radians(53.0)
FRONT_FOVY_DEG = 23.5
CAMERAS = ('front', 'wrist', 'overview')


def tray_center(scene: SceneSpec, color: str) -> np.ndarray:
    """Centre of the floor of the tray of that colour, (3,) m."""
    side = 1.0 if scene.left_tray == color else -1.0
    return np.array([TRAY_X_M, side * TRAY_Y_M, TRAY_FLOOR_M])


def look_at(position, target, up=(0.0, 0.0, 1.0)) -> np.ndarray:
    """Quaternion (w, x, y, z) of a MuJoCo camera (looks along -z, y up) that sees `target`."""
    z = np.asarray(position, float) - np.asarray(target, float)
    z /= np.linalg.norm(z)
    x = np.cross(up, z)
    x /= np.linalg.norm(x)
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, np.column_stack([x, np.cross(z, x), z]).ravel())
    return quat


def load_arm() -> mujoco.MjSpec:
    """The arm's URDF as a fresh MjSpec, without actuators."""
    path = resolve_resource(ARM_URDF)
    try:
        return mujoco.MjSpec.from_file(str(path))
    except ValueError as error:
        raise SimulationError(f'MuJoCo cannot read {path}: {error}') from error


@functools.lru_cache(maxsize=1)
def arm_model() -> mujoco.MjModel:
    """The arm alone, for kinematics."""
    return load_arm().compile()


def build_model(scene: SceneSpec) -> mujoco.MjModel:
    """Compile the MuJoCo model of one scene."""
    spec = load_arm()
    _options(spec)
    _arm(spec)
    world = spec.worldbody
    # a plane is infinite for collisions but drawn with its size
    world.add_geom(
        name='table', type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0.7, 0.8, 0.1], pos=[0.35, 0, 0],
        rgba=[*TABLE_COLOR, 1], friction=[0.8, 0.005, 0.0002],
    )  # fmt: skip
    world.add_geom(
        name='floor', type=mujoco.mjtGeom.mjGEOM_PLANE, size=[6, 6, 0.1], pos=[0, 0, -0.7],
        rgba=[*FLOOR_COLOR, 1], contype=0, conaffinity=0,
    )  # fmt: skip
    for color in TRAY_COLORS:
        _tray(world, color, tray_center(scene, color))
    for item in scene.objects:
        _object(world, item)
    _lights_and_cameras(spec, scene)
    return spec.compile()


def _options(spec: mujoco.MjSpec) -> None:
    option = spec.option
    option.timestep = TIMESTEP_S
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 10.0  # keeps grasped objects from creeping
    option.iterations = 30
    option.ls_iterations = 20
    visual = spec.visual
    visual.quality.offsamples = 0  # multisampling and shadows cost 20x in software rendering
    visual.quality.shadowsize = 0
    visual.global_.offwidth, visual.global_.offheight = OFFSCREEN_MAX
    visual.headlight.ambient = [0.32, 0.32, 0.32]
    visual.headlight.diffuse = [0.28, 0.28, 0.28]
    visual.headlight.specular = [0.0, 0.0, 0.0]
    visual.map.znear = 0.01
    visual.map.zfar = 10.0
    spec.stat.extent = 1.0


def _arm(spec: mujoco.MjSpec) -> None:
    """Position actuators, gravity compensation, and pads that grip."""
    for body in spec.bodies:
        if body.name != 'world':
            body.gravcomp = 1.0
        for geom in body.geoms:
            # visuals are drawn (group 1), collision shapes are hidden (group 3)
            geom.group = 1 if geom.contype == 0 and geom.conaffinity == 0 else 3
            if geom.group == 3 and body.name in FINGER_LINKS:
                geom.friction = [1.6, 0.02, 0.0005]
                geom.condim = 4
                geom.solref = [0.004, 1.0]
            elif geom.group == 3:
                geom.contype, geom.conaffinity = 2, 1  # touches objects, not itself
    for index, name in enumerate(ARM_JOINTS):
        joint = spec.joint(name)
        joint.armature = 0.1
        joint.frictionloss = 0.0
        kp, kv = (4500.0, 350.0) if index < 4 else (2000.0, 140.0)
        _position_actuator(spec, name, kp, kv, limit=87.0 if index < 4 else 40.0)
    for name in FINGER_JOINTS:
        spec.joint(name).armature = 0.05
        spec.joint(name).frictionloss = 0.0
        _position_actuator(spec, name, 900.0, 45.0, limit=18.0)


def _position_actuator(
    spec: mujoco.MjSpec, joint: str, kp: float, kv: float, *, limit: float
) -> None:
    spec.add_actuator(
        name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT,
        gainprm=[kp] + [0] * 9, biastype=mujoco.mjtBias.mjBIAS_AFFINE,
        biasprm=[0, -kp, -kv] + [0] * 7, forcelimited=1, forcerange=[-limit, limit],
    )  # fmt: skip


def _tray(world, color: str, center: np.ndarray) -> None:
    body = world.add_body(name=f'{color} tray', pos=[center[0], center[1], 0.0])
    half_x, half_y = TRAY_HALF_M
    rgba = [*TRAY_COLORS[color], 1]
    wall, rim = TRAY_WALL_M, TRAY_RIM_M / 2
    boxes = [
        ((half_x, half_y, TRAY_FLOOR_M / 2), (0.0, 0.0, TRAY_FLOOR_M / 2)),
        ((wall, half_y + 2 * wall, rim), (half_x + wall, 0.0, rim)),
        ((wall, half_y + 2 * wall, rim), (-half_x - wall, 0.0, rim)),
        ((half_x, wall, rim), (0.0, half_y + wall, rim)),
        ((half_x, wall, rim), (0.0, -half_y - wall, rim)),
    ]
    for size, position in boxes:
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=size, pos=position, rgba=rgba)


def _object(world, item: ObjectSpec) -> None:
    if item.shape not in SHAPES or item.color not in COLORS:
        raise SimulationError(
            f'unknown object {item.name!r}: colours are {", ".join(COLORS)}; '
            f'shapes are {", ".join(SHAPES)}'
        )
    shape = SHAPES[item.shape]
    half = item.yaw_rad / 2
    body = world.add_body(
        name=item.name,
        pos=[item.x_m, item.y_m, shape.half_height_m + 0.0005],
        quat=[math.cos(half), 0.0, 0.0, math.sin(half)],
    )
    # damping stands in for the carpet-like losses of a real table: a ball stops by itself
    damping = 0.0008 if item.shape == 'ball' else 0.00005
    body.add_freejoint(name=item.name)
    spec_joint = body.joints[0]
    spec_joint.damping = [damping, 0, 0]
    body.add_geom(
        name=item.name, type=shape.geom, size=shape.size, mass=shape.mass_kg,
        rgba=[*COLORS[item.color], 1], condim=6 if item.shape == 'ball' else 4,
        friction=[0.8, 0.01, 0.002 if item.shape == 'ball' else 0.0005],
        solref=[0.006, 1.0],
    )  # fmt: skip


def _lights_and_cameras(spec: mujoco.MjSpec, scene: SceneSpec) -> None:
    world = spec.worldbody
    level = scene.light_intensity
    world.add_light(
        name='lamp', pos=scene.light_xyz_m, dir=-np.asarray(scene.light_xyz_m),
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, castshadow=False,
        diffuse=[level] * 3, specular=[0.1] * 3, ambient=[0.0] * 3,
    )  # fmt: skip
    aim = np.asarray(FRONT_AIM_M)
    back = np.array([math.cos(FRONT_PITCH_RAD), 0.0, math.sin(FRONT_PITCH_RAD)])
    position = aim + FRONT_DISTANCE_M * back + np.asarray(scene.camera_offset_m)
    aim = aim + np.asarray(scene.camera_aim_offset_m)
    world.add_camera(name='front', pos=position, quat=look_at(position, aim), fovy=FRONT_FOVY_DEG)
    eye = (1.30, 0.75, 0.85)
    world.add_camera(name='overview', pos=eye, quat=look_at(eye, (0.36, 0.0, 0.18)), fovy=45.0)
    eye = (-0.080, 0.0, 0.040)
    spec.body('hand').add_camera(
        name='wrist', pos=eye, quat=look_at(eye, (0.005, 0.0, 0.145), up=(1, 0, 0)), fovy=70.0
    )
