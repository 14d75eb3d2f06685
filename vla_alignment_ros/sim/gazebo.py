"""The MuJoCo scene as a world for Gazebo (SDF): the same table, trays, objects, camera and light.

The numbers are read out of the compiled MuJoCo model, so they cannot drift apart. The arm is not
in it: it is spawned from the same URDF (`urdf/tabletop_arm.gazebo.xacro`). `tools/make_world.py`
writes the file.

Two things have no counterpart: MuJoCo's lamp on whichever camera looks (here it shines from the
fixed camera, for all of them) and the damping of single free joints.
"""

from __future__ import annotations

import dataclasses
import math
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import mujoco
import numpy as np

from vla_alignment_ros.embodiment import Camera, Embodiment
from vla_alignment_ros.sim.scene import build_model, TIMESTEP_S
from vla_alignment_ros.sim.spec import SceneSpec
from vla_alignment_ros.sim.stream import optical_frame
from vla_alignment_ros.sim.tasks import sample_episode

SDF_VERSION = '1.9'  # what Harmonic and everything newer reads
WORLD = 'tabletop'
NOTE = ' Made by tools/make_world.py out of the MuJoCo scene: change that, not this. '
SYSTEMS = {
    'gz-sim-physics-system': 'gz::sim::systems::Physics',
    'gz-sim-user-commands-system': 'gz::sim::systems::UserCommands',
    'gz-sim-scene-broadcaster-system': 'gz::sim::systems::SceneBroadcaster',
    'gz-sim-sensors-system': 'gz::sim::systems::Sensors',
}
# a camera of Gazebo looks along x, its z is up; one of MuJoCo looks along -z, its y is up
TO_SENSOR = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0]])
CLIP_M = (0.01, 10.0)
IMAGES_PER_STEP = 2  # so that the newest frame is never a whole control period old


def default_scene() -> SceneSpec:
    """The scene of the shipped world, its camera exactly where the embodiment says it is."""
    scene = sample_episode(0, 'seen').scene
    still = (0.0, 0.0, 0.0)
    return dataclasses.replace(scene, camera_offset_m=still, camera_aim_offset_m=still)


def world_sdf(scene: SceneSpec, embodiment: Embodiment) -> str:
    """The world of one scene, as the text of an SDF file."""
    model = build_model(scene)
    root = Element('sdf', version=SDF_VERSION)
    root.append(ElementTree.Comment(NOTE))
    world = SubElement(root, 'world', name=WORLD)
    _settings(world, model)
    fixed = [c for c in embodiment.cameras if model.cam_bodyid[model.camera(c.name).id] == 0]
    _lights(world, model, [model.camera(camera.name).id for camera in fixed])
    for body in range(model.nbody):
        if model.body_parentid[body] == 0 and model.body(body).name != embodiment.base_link:
            _body(world, model, body)
    for camera in fixed:
        _fixed_camera(world, model, camera, embodiment.rate_hz)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding='unicode', xml_declaration=True) + '\n'


def sensor_pose(model: mujoco.MjModel, camera: str) -> tuple[np.ndarray, np.ndarray]:
    """Pose of a Gazebo camera sensor in its MuJoCo body: position (3,) m, roll pitch yaw (3,)."""
    number = model.camera(camera).id
    return model.cam_pos[number], _rpy(_matrix(model.cam_quat[number]) @ TO_SENSOR)


def horizontal_fov(model: mujoco.MjModel, camera: Camera) -> float:
    """Of an image of the embodiment's size, rad; MuJoCo gives the vertical one."""
    half = math.tan(math.radians(model.camera(camera.name).fovy[0]) / 2)
    return 2 * math.atan(half * camera.width / camera.height)


def sensor_element(
    model: mujoco.MjModel, camera: Camera, rate_hz: float, pose: str | None = None
) -> Element:
    """The <sensor> of a camera, publishing on the embodiment's topics."""
    folder = camera.topic.rpartition('/')[0]
    sensor = Element('sensor', name=camera.name, type='camera')
    if pose is not None:
        _text(sensor, 'pose', pose)
    _text(sensor, 'topic', camera.topic)
    _text(sensor, 'update_rate', _number(IMAGES_PER_STEP * rate_hz))
    inner = SubElement(sensor, 'camera', name=camera.name)
    _text(inner, 'camera_info_topic', f'{folder}/camera_info' if folder else 'camera_info')
    _text(inner, 'optical_frame_id', optical_frame(camera.name))
    _text(inner, 'horizontal_fov', _number(horizontal_fov(model, camera)))
    image = SubElement(inner, 'image')
    _text(image, 'width', str(camera.width))
    _text(image, 'height', str(camera.height))
    _text(image, 'format', 'R8G8B8')
    clip = SubElement(inner, 'clip')
    _text(clip, 'near', _number(CLIP_M[0]))
    _text(clip, 'far', _number(CLIP_M[1]))
    return sensor


# -- parts of the world -------------------------------------------------------------------------


def _settings(world: Element, model: mujoco.MjModel) -> None:
    physics = SubElement(world, 'physics', name='control', type='ignored')
    _text(physics, 'max_step_size', _number(TIMESTEP_S))
    _text(physics, 'real_time_factor', '1')
    for filename, name in SYSTEMS.items():
        plugin = SubElement(world, 'plugin', filename=filename, name=name)
        if filename == 'gz-sim-sensors-system':
            _text(plugin, 'render_engine', 'ogre2')
    _text(world, 'gravity', _numbers(model.opt.gravity))
    scene = SubElement(world, 'scene')
    _text(scene, 'ambient', _rgba(model.vis.headlight.ambient))
    _text(scene, 'background', _rgba(np.zeros(3)))  # as MuJoCo draws where nothing is
    _text(scene, 'shadows', 'false')


def _lights(world: Element, model: mujoco.MjModel, cameras: list[int]) -> None:
    """The lamps of the scene, and the headlight as a lamp at each of these cameras."""
    for number in range(model.nlight):
        _light(
            world,
            model.light(number).name,
            model.light_pos[number],
            model.light_dir[number],
            model.light_diffuse[number],
            model.light_specular[number],
        )
    head = model.vis.headlight
    for number in cameras:
        _light(
            world,
            f'{model.camera(number).name}_headlight',
            model.cam_pos[number],
            -_matrix(model.cam_quat[number])[:, 2],
            np.asarray(head.diffuse) / len(cameras),
            np.asarray(head.specular) / len(cameras),
        )


def _light(
    world: Element,
    name: str,
    position: np.ndarray,
    direction: np.ndarray,
    diffuse: np.ndarray,
    specular: np.ndarray,
) -> None:
    light = SubElement(world, 'light', name=name, type='directional')
    _text(light, 'pose', f'{_numbers(position)} 0 0 0')
    _text(light, 'cast_shadows', 'false')
    _text(light, 'diffuse', _rgba(diffuse))
    _text(light, 'specular', _rgba(specular))
    _text(light, 'direction', _numbers(direction))


def _body(world: Element, model: mujoco.MjModel, body: int) -> None:
    """A tray or an object; of the world's own body each shape: the table and the floor."""
    first, count = int(model.body_geomadr[body]), int(model.body_geomnum[body])
    if body == 0:
        for geom in range(first, first + count):
            _shape(_model(world, model.geom(geom).name, 'true'), model, geom, '')
        return
    free = model.body_jntnum[body] > 0
    link = _model(
        world,
        model.body(body).name.replace(' ', '_'),
        'false' if free else 'true',
        _pose(model.body_pos[body], _matrix(model.body_quat[body])),
    )
    if free:
        _inertia(link, model, body)
    for index in range(count):
        _shape(link, model, first + index, f'_{index}' if count > 1 else '')


def _fixed_camera(
    world: Element, model: mujoco.MjModel, camera: Camera, rate_hz: float
) -> None:
    position, rpy = sensor_pose(model, camera.name)
    pose = f'{_numbers(position)} {_numbers(rpy)}'
    link = _model(world, f'{camera.name}_camera', 'true', pose)
    link.append(sensor_element(model, camera, rate_hz))


def _model(world: Element, name: str, static: str, pose: str | None = None) -> Element:
    model = SubElement(world, 'model', name=name)
    _text(model, 'static', static)
    if pose is not None:
        _text(model, 'pose', pose)
    return SubElement(model, 'link', name='link')


def _inertia(link: Element, model: mujoco.MjModel, body: int) -> None:
    inertial = SubElement(link, 'inertial')
    rotation = _matrix(model.body_iquat[body])
    _text(inertial, 'pose', _pose(model.body_ipos[body], np.eye(3)))
    _text(inertial, 'mass', _number(model.body_mass[body]))
    tensor = rotation @ np.diag(model.body_inertia[body]) @ rotation.T  # (3, 3) kg m²
    inertia = SubElement(inertial, 'inertia')
    for row, column in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)):
        _text(inertia, f'i{"xyz"[row]}{"xyz"[column]}', f'{tensor[row, column] + 0.0:.6e}')


def _shape(link: Element, model: mujoco.MjModel, geom: int, suffix: str) -> None:
    pose = _pose(model.geom_pos[geom], _matrix(model.geom_quat[geom]))
    if model.geom_contype[geom] or model.geom_conaffinity[geom]:
        collision = SubElement(link, 'collision', name=f'collision{suffix}')
        _text(collision, 'pose', pose)
        _geometry(collision, model, geom)
        ode = SubElement(SubElement(SubElement(collision, 'surface'), 'friction'), 'ode')
        for name in ('mu', 'mu2'):
            _text(ode, name, _number(model.geom_friction[geom, 0]))
    visual = SubElement(link, 'visual', name=f'visual{suffix}')
    _text(visual, 'pose', pose)
    _geometry(visual, model, geom)
    material = SubElement(visual, 'material')
    color = ' '.join(_number(v) for v in model.geom_rgba[geom])
    _text(material, 'ambient', color)
    _text(material, 'diffuse', color)


def _geometry(parent: Element, model: mujoco.MjModel, geom: int) -> None:
    kind = mujoco.mjtGeom(model.geom_type[geom])
    size = model.geom_size[geom]
    geometry = SubElement(parent, 'geometry')
    if kind == mujoco.mjtGeom.mjGEOM_PLANE:
        plane = SubElement(geometry, 'plane')
        _text(plane, 'normal', '0 0 1')
        _text(plane, 'size', _numbers(2 * size[:2]))
    elif kind == mujoco.mjtGeom.mjGEOM_BOX:
        _text(SubElement(geometry, 'box'), 'size', _numbers(2 * size))
    elif kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        _text(SubElement(geometry, 'sphere'), 'radius', _number(size[0]))
    else:
        cylinder = SubElement(geometry, 'cylinder')
        _text(cylinder, 'radius', _number(size[0]))
        _text(cylinder, 'length', _number(2 * size[1]))


# -- numbers ------------------------------------------------------------------------------------


def _text(parent: Element, tag: str, text: str) -> None:
    SubElement(parent, tag).text = text


def _number(value: float) -> str:
    return f'{round(float(value), 6) + 0.0:.6g}'  # + 0: no minus before a zero


def _numbers(values: np.ndarray) -> str:
    return ' '.join(_number(value) for value in values)


def _rgba(rgb: np.ndarray) -> str:
    return f'{_numbers(np.minimum(rgb, 1.0))} 1'


def _matrix(quaternion: np.ndarray) -> np.ndarray:
    """(w, x, y, z) → (3, 3)."""
    matrix = np.empty(9)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def _rpy(rotation: np.ndarray) -> np.ndarray:
    """Roll, pitch, yaw (3,) rad of SDF and URDF: R = Rz(yaw) Ry(pitch) Rx(roll)."""
    pitch = math.asin(np.clip(-rotation[2, 0], -1.0, 1.0))
    if abs(rotation[2, 0]) > 1 - 1e-9:  # straight up or down: yaw and roll are one
        yaw = math.atan2(-rotation[0, 1], rotation[1, 1])
        return np.array([0.0, pitch, yaw])
    roll = math.atan2(rotation[2, 1], rotation[2, 2])
    return np.array([roll, pitch, math.atan2(rotation[1, 0], rotation[0, 0])])


def _pose(position: np.ndarray, rotation: np.ndarray) -> str:
    return f'{_numbers(position)} {_numbers(_rpy(rotation))}'
