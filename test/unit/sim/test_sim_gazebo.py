"""The Gazebo twin: same geometry, cameras, joints and topics as the MuJoCo scene."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import mujoco
import numpy as np
import pytest
import yaml

from vla_alignment_ros.control.joint_commands import COMMAND_TOPICS, GRIPPER_TOPIC
from vla_alignment_ros.embodiment import Camera, Embodiment
from vla_alignment_ros.kinematics import ForwardKinematics
from vla_alignment_ros.resources import package_path, resolve_resource
from vla_alignment_ros.sim.gazebo import default_scene, SYSTEMS, world_sdf
from vla_alignment_ros.sim.scene import (
    build_model,
    FRONT_PITCH_RAD,
    SHAPES,
    tray_center,
    TRAY_COLORS,
)
from vla_alignment_ros.sim.stream import CAMERA_INFO, optical_frame
from vla_alignment_ros.sim.tasks import HOME_RANGE_M, HOME_XYZ_M, sample_episode
from vla_alignment_ros.sim.world import SceneConfig, TabletopWorld

TABLETOP = Embodiment.load('tabletop')
WORLD = package_path('worlds', 'tabletop.sdf')
XACRO = package_path('urdf', 'tabletop_arm.gazebo.xacro')
URDF = resolve_resource(TABLETOP.urdf)
# ROS 2 type → Gazebo type, of what is bridged: as in ros_gz_bridge's table
BRIDGED = {
    'rosgraph_msgs/msg/Clock': 'gz.msgs.Clock',
    'sensor_msgs/msg/CameraInfo': 'gz.msgs.CameraInfo',
    'sensor_msgs/msg/Image': 'gz.msgs.Image',
}
# the axes of a Gazebo camera in its optical frame: x forward, y left, z up
SENSOR_TO_OPTICAL = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])


@pytest.fixture(scope='module')
def world() -> ElementTree.Element:
    return ElementTree.parse(WORLD).getroot().find('world')


@pytest.fixture(scope='module')
def scene() -> mujoco.MjModel:
    return build_model(default_scene())


def models(world: ElementTree.Element) -> dict[str, ElementTree.Element]:
    return {model.get('name'): model for model in world.findall('model')}


def numbers(element: ElementTree.Element, path: str) -> np.ndarray:
    return np.array([float(text) for text in element.findtext(path).split()])


def rotation(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """Fixed axes x, y, z, as SDF and URDF mean them."""
    turns = []
    for angle, axis in ((roll, [1, 0, 0]), (pitch, [0, 1, 0]), (yaw, [0, 0, 1])):
        quat, matrix = np.empty(4), np.empty(9)
        mujoco.mju_axisAngle2Quat(quat, np.array(axis, float), angle)
        mujoco.mju_quat2Mat(matrix, quat)
        turns.append(matrix.reshape(3, 3))
    return turns[2] @ turns[1] @ turns[0]


def sensors() -> dict[str, ElementTree.Element]:
    """Camera name → its <sensor>, in the world or at the arm."""
    found = [*ElementTree.parse(WORLD).iter('sensor'), *ElementTree.parse(XACRO).iter('sensor')]
    return {sensor.get('name'): sensor for sensor in found}


def focal_px(sensor: ElementTree.Element) -> float:
    width, fov = numbers(sensor, 'camera/image/width'), numbers(sensor, 'camera/horizontal_fov')
    return float(width[0] / 2 / math.tan(fov[0] / 2))


def test_the_world_is_what_the_tool_makes_of_the_mujoco_scene():
    made = world_sdf(default_scene(), TABLETOP)
    assert WORLD.read_text(encoding='utf-8') == made, 'run tools/make_world.py'


def test_objects_and_trays_are_where_and_what_they_are_in_mujoco(world):
    spec, found = default_scene(), models(world)
    objects = {item.name.replace(' ', '_'): item for item in spec.objects}
    trays = {f'{color}_tray': tray_center(spec, color) for color in TRAY_COLORS}
    assert set(found) == {'table', 'floor', 'front_camera', *objects, *trays}
    for name, item in objects.items():
        shape, model = SHAPES[item.shape], found[name]
        assert model.findtext('static') == 'false'
        pose = numbers(model, 'pose')
        height = shape.half_height_m + 0.0005
        assert pose[:3] == pytest.approx([item.x_m, item.y_m, height], abs=1e-6)
        along = [math.cos(item.yaw_rad), math.sin(item.yaw_rad), 0.0]
        assert rotation(*pose[3:])[:, 0] == pytest.approx(along, abs=1e-5)
        assert float(model.findtext('link/inertial/mass')) == shape.mass_kg
        for part in ('collision', 'visual'):
            geometry = model.find(f'link/{part}/geometry')
            if item.shape == 'ball':
                assert float(geometry.findtext('sphere/radius')) == shape.size[0]
            elif item.shape == 'cylinder':
                assert float(geometry.findtext('cylinder/radius')) == shape.size[0]
                assert float(geometry.findtext('cylinder/length')) == 2 * shape.size[1]
            else:
                assert numbers(geometry, 'box/size') == pytest.approx(2 * np.array(shape.size))
    for name, center in trays.items():
        assert found[name].findtext('static') == 'true'
        assert numbers(found[name], 'pose')[:2] == pytest.approx(center[:2])
        assert len(found[name].findall('link/collision')) == 5


def test_what_can_move_has_an_inertia_that_a_body_can_have(world, scene):
    moving = [m for m in models(world).values() if m.findtext('static') == 'false']
    assert moving
    for model in moving:
        inertia = model.find('link/inertial/inertia')
        diagonal = np.array([float(inertia.findtext(key)) for key in ('ixx', 'iyy', 'izz')])
        body = scene.body(model.get('name').replace('_', ' '))
        assert sorted(diagonal) == pytest.approx(sorted(body.inertia), rel=1e-5)
        assert diagonal.min() > 0 and diagonal.sum() > 2 * diagonal.max()


def lit(world: ElementTree.Element, normal: np.ndarray, off: str = '') -> float:
    """How bright a matt white surface that faces along `normal` (3,) is drawn, 0 to 1.

    off: name of a light that is not switched on.
    """
    level = numbers(world, 'scene/ambient')[0]
    for light in world.findall('light'):
        if light.get('name') != off:
            facing = -numbers(light, 'direction') @ normal
            level += numbers(light, 'diffuse')[0] * max(0.0, facing)
    return min(1.0, float(level))


def test_the_table_is_as_bright_as_in_mujoco(world):
    episode = dataclasses.replace(sample_episode(0, 'seen'), scene=default_scene())
    camera = TABLETOP.cameras[0]
    with TabletopWorld(SceneConfig()) as simulated:
        simulated.reset(episode)
        picture = simulated.render(camera.name, camera.width, camera.height)
    table = numbers(models(world)['table'], 'link/visual/material/diffuse')[:3]
    up = np.array([0.0, 0.0, 1.0])
    seen = np.median(picture.reshape(-1, 3), axis=0) / 255  # most of the picture is the table
    assert lit(world, up) * table == pytest.approx(seen, abs=0.015)


def test_what_faces_the_camera_is_brighter_than_what_turns_away(world, scene):
    head = scene.vis.headlight
    backwards = np.array([-1.0, 0.0, 0.0])  # the camera looks from +x, downwards
    assert lit(world, backwards, off='lamp') == pytest.approx(head.ambient[0])
    forwards = head.ambient[0] + head.diffuse[0] * math.cos(FRONT_PITCH_RAD)
    assert lit(world, -backwards, off='lamp') == pytest.approx(forwards, abs=0.01)


def test_nothing_is_named_that_would_have_to_be_downloaded(world):
    # primitive shapes only: a mesh, an include or an image would be another file
    for root in (world, ElementTree.parse(XACRO).getroot(), ElementTree.parse(URDF).getroot()):
        assert not [*root.iter('mesh'), *root.iter('include'), *root.iter('uri')]
    plugins = {plugin.get('filename'): plugin.get('name') for plugin in world.iter('plugin')}
    assert plugins == SYSTEMS


def test_the_front_camera_is_where_it_is_calibrated(world):
    camera = TABLETOP.cameras[0]
    pinhole, sensor = camera.calibration, sensors()['front']
    pose = numbers(models(world)['front_camera'], 'pose')
    assert sensor.find('pose') is None  # the model's pose is the sensor's
    assert pose[:3] == pytest.approx(pinhole.position, abs=1e-4)
    axes = rotation(*pose[3:]) @ SENSOR_TO_OPTICAL.T
    assert axes == pytest.approx(pinhole.rotation(), abs=1e-4)
    assert focal_px(sensor) == pytest.approx(pinhole.focal[0], abs=0.01)
    assert pinhole.centre == (camera.width / 2, camera.height / 2)  # Gazebo's is in the middle


def test_the_wrist_camera_is_where_mujoco_has_it(scene):
    (holder,) = ElementTree.parse(XACRO).findall('gazebo[sensor]')
    sensor = holder.find('sensor')
    data = mujoco.MjData(scene)
    mujoco.mj_forward(scene, data)
    body = data.body(holder.get('reference'))
    pose, turn = numbers(sensor, 'pose'), body.xmat.reshape(3, 3)
    camera = data.camera('wrist')
    assert body.xpos + turn @ pose[:3] == pytest.approx(camera.xpos, abs=1e-5)
    # MuJoCo's camera looks along -z with y up: the optical frame turned about x by pi
    optical = camera.xmat.reshape(3, 3) * [1, -1, -1]
    assert turn @ rotation(*pose[3:]) @ SENSOR_TO_OPTICAL.T == pytest.approx(optical, abs=1e-4)
    half = math.tan(math.radians(scene.camera('wrist').fovy[0]) / 2)
    assert focal_px(sensor) == pytest.approx(TABLETOP.cameras[1].height / 2 / half, rel=1e-4)


@pytest.mark.parametrize('camera', TABLETOP.cameras, ids=lambda camera: camera.name)
def test_cameras_have_the_embodiments_size_rate_frame_and_topics(camera: Camera):
    sensor = sensors()[camera.name]
    size = [int(sensor.findtext(f'camera/image/{side}')) for side in ('width', 'height')]
    assert size == [camera.width, camera.height]
    assert sensor.findtext('camera/image/format') == 'R8G8B8'
    assert sensor.findtext('topic') == camera.topic
    assert float(sensor.findtext('update_rate')) >= TABLETOP.rate_hz
    assert sensor.findtext('camera/optical_frame_id') == optical_frame(camera.name)


def test_the_bridge_carries_what_our_nodes_listen_to():
    bridge = yaml.safe_load(package_path('config', 'gazebo_bridge.yaml').read_text())
    carried = {item['ros_topic_name']: item for item in bridge}
    assert len(carried) == len(bridge)
    assert all(item['direction'] == 'GZ_TO_ROS' for item in bridge)
    assert all(BRIDGED[item['ros_type_name']] == item['gz_type_name'] for item in bridge)
    wanted = {camera.topic: camera.message_type for camera in TABLETOP.cameras}
    infos = {s.findtext('camera/camera_info_topic'): CAMERA_INFO for s in sensors().values()}
    clock = {'/clock': 'rosgraph_msgs/msg/Clock'}
    types = {topic: item['ros_type_name'] for topic, item in carried.items()}
    assert types == {**wanted, **infos, **clock}
    # in Gazebo a topic has the sensor's name, with a slash in front
    for topic, item in carried.items():
        assert item['gz_topic_name'] == f'/{topic.lstrip("/")}'


def test_controllers_move_the_joints_that_the_embodiment_names():
    config = yaml.safe_load(package_path('config', 'gazebo_controllers.yaml').read_text())
    parameters = {name: value['ros__parameters'] for name, value in config.items()}
    arm, hand = parameters['joint_trajectory_controller'], parameters['gripper_controller']
    assert tuple(arm['joints']) == TABLETOP.joint_names
    assert hand['joints'] == [TABLETOP.gripper.joint]
    interfaces = {
        joint.get('name'): {i.get('name') for i in joint.findall('command_interface')}
        for joint in ElementTree.parse(URDF).find('ros2_control').findall('joint')
    }
    for joint in arm['joints']:
        assert set(arm['command_interfaces']) <= interfaces[joint]
    assert hand['interface_name'] in interfaces[TABLETOP.gripper.joint]
    assert interfaces['finger_joint_mimic'] == set()  # ros2_control refuses to command a mimic
    period_s = 1 / parameters['controller_manager']['update_rate']
    step_s = float(ElementTree.parse(WORLD).findtext('world/physics/max_step_size'))
    assert period_s / step_s == pytest.approx(round(period_s / step_s))


def test_servo_node_speaks_to_controllers_that_are_there():
    servo = yaml.safe_load(package_path('config', 'servo.yaml').read_text())
    chosen = servo['/**']['ros__parameters']
    topics = [COMMAND_TOPICS[chosen['output']][0], GRIPPER_TOPIC]
    assert (chosen['gripper'], chosen['embodiment']) == ('own', TABLETOP.name)
    config = yaml.safe_load(package_path('config', 'gazebo_controllers.yaml').read_text())
    assert {topic.split('/')[0] for topic in topics} == set(config) - {'controller_manager'}


def test_the_arm_starts_where_demonstrations_start():
    states = {
        joint.get('name'): float(joint.findtext("state_interface/param[@name='initial_value']"))
        for joint in ElementTree.parse(URDF).find('ros2_control').findall('joint')
    }
    limits = {
        joint.get('name'): joint.find('limit') for joint in ElementTree.parse(URDF).iter('joint')
        if joint.find('limit') is not None
    }  # fmt: skip
    for name, value in states.items():
        assert float(limits[name].get('lower')) <= value <= float(limits[name].get('upper'))
    assert states['finger_joint'] == states['finger_joint_mimic'] == TABLETOP.gripper.open_position
    hand = ForwardKinematics(URDF, TABLETOP.joint_names, TABLETOP.base_link, TABLETOP.ee_link)
    position, turn = hand(np.array([states[name] for name in TABLETOP.joint_names]))
    assert np.all(np.abs(position - HOME_XYZ_M) <= HOME_RANGE_M)
    assert turn[:, 2] == pytest.approx([0, 0, -1], abs=0.02)  # the tool points down


def test_the_arm_of_gazebo_is_the_urdf_fixed_to_the_world(tmp_path: Path):
    xacro = pytest.importorskip('xacro', reason='xacro comes with a ROS 2 installation')
    arm = xacro.process_file(str(XACRO), mappings={'controllers': '/somewhere/controllers.yaml'})
    root = ElementTree.fromstring(arm.toxml())
    plain = ElementTree.parse(URDF).getroot()
    links = {link.get('name') for link in plain.iter('link')}
    assert {link.get('name') for link in root.findall('link')} == links | {'world'}
    (fixed,) = [j for j in root.findall('joint') if j.find('parent').get('link') == 'world']
    assert (fixed.get('type'), fixed.find('child').get('link')) == ('fixed', TABLETOP.base_link)
    plugin = root.find('gazebo/plugin')
    assert plugin.get('name') == 'gz_ros2_control::GazeboSimROS2ControlPlugin'
    assert plugin.findtext('parameters') == '/somewhere/controllers.yaml'
    assert mujoco.MjModel.from_xml_string(ElementTree.tostring(plain, encoding='unicode')).nq > 7


def test_gazebo_itself_accepts_the_world():
    gazebo = shutil.which('gz')
    if gazebo is None:
        pytest.skip('no gz here: Gazebo is not installed')
    done = subprocess.run([gazebo, 'sdf', '--check', str(WORLD)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'Error' not in done.stdout + done.stderr
