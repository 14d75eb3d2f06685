"""The arm stands by itself, the pictures show what is there, and rendering finds a library."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import mujoco
import numpy as np
import pytest

from vla_alignment_ros.embodiment import resolve_resource
from vla_alignment_ros.errors import RenderError, SimulationError
from vla_alignment_ros.sim.render import BACKENDS, choose_backend, OffscreenRenderer
from vla_alignment_ros.sim.scene import ARM_URDF, build_model, COLORS, SHAPES
from vla_alignment_ros.sim.spec import ObjectSpec, SceneSpec
from vla_alignment_ros.sim.tasks import sample_episode
from vla_alignment_ros.sim.world import TabletopWorld


@pytest.fixture(scope='module')
def urdf():
    return ElementTree.parse(resolve_resource(ARM_URDF)).getroot()


def scene_with(*names: str, left_tray: str = 'white') -> SceneSpec:
    objects = tuple(
        ObjectSpec(*name.split(), 0.56, -0.14 + 0.094 * index, 0.0)
        for index, name in enumerate(names)
    )
    zero = (0.0, 0.0, 0.0)
    return SceneSpec(objects, left_tray, (0.36, 0.0, 0.25), 0.0, (0, 0, 2), 0.45, zero, zero)


def test_urdf_loads_alone_with_tool_frame_and_mimicked_finger():
    model = mujoco.MjModel.from_xml_path(str(resolve_resource(ARM_URDF)))
    joints = [model.joint(i).name for i in range(model.njnt)]
    assert joints == [f'joint{i}' for i in range(1, 8)] + ['finger_joint', 'finger_joint_mimic']
    assert model.neq == 1
    data = mujoco.MjData(model)
    data.qpos[:9] = [0, -0.6, 0, -2.4, 0, 1.8, 0, 0.03, 0.03]
    mujoco.mj_forward(model, data)
    rotation = data.body('tool0').xmat.reshape(3, 3)
    np.testing.assert_allclose(rotation, np.diag([1.0, -1.0, -1.0]), atol=1e-4)
    apart = data.body('finger_left').xpos - data.body('finger_right').xpos
    np.testing.assert_allclose(rotation.T @ apart, [0, 0.06, 0], atol=1e-6)
    # tool0 is between the pads, about a centimetre from the tips
    pads = [g for g in range(model.ngeom) if model.geom_bodyid[g] in _fingers(model)]
    tips = min(data.geom_xpos[g, 2] - model.geom_size[g, 2] for g in pads)
    assert 0.005 < data.body('tool0').xpos[2] - tips < 0.015


def _fingers(model) -> set[int]:
    return {model.body(name).id for name in ('finger_left', 'finger_right')}


def test_urdf_is_complete_for_a_dynamic_simulator(urdf):
    for link in urdf.iter('link'):
        if link.get('name') in ('base_link', 'tool0'):
            continue
        assert link.find('inertial/mass') is not None, link.get('name')
        assert link.find('visual') is not None, link.get('name')
        assert link.find('collision') is not None, link.get('name')
        inertia = {k: float(v) for k, v in link.find('inertial/inertia').attrib.items()}
        diagonal = sorted(inertia[k] for k in ('ixx', 'iyy', 'izz'))
        assert 0 < diagonal[0]
        assert diagonal[2] <= diagonal[0] + diagonal[1] + 1e-9
    for joint in urdf.findall('joint'):
        if joint.get('type') != 'fixed':
            limit = joint.find('limit')
            assert all(float(limit.get(k)) > 0 for k in ('effort', 'velocity', 'upper')) or (
                joint.get('name') == 'joint4'
            )
    mimic = urdf.find("joint[@name='finger_joint_mimic']/mimic")
    assert mimic.get('joint') == 'finger_joint'
    controlled = {j.get('name') for j in urdf.find('ros2_control').findall('joint')}
    assert {f'joint{i}' for i in range(1, 8)} | {'finger_joint'} <= controlled


def test_every_object_can_be_built():
    for shape in SHAPES:
        names = [f'{color} {shape}' for color in COLORS][:4]
        model = build_model(scene_with(*names))
        assert {model.body(name).id for name in names}


def test_an_unknown_object_is_refused_with_the_choices():
    with pytest.raises(SimulationError, match='cyan'):
        build_model(scene_with('pink cube'))


def test_trays_swap_sides():
    for left in ('white', 'black'):
        model = build_model(scene_with('red cube', left_tray=left))
        assert model.body(f'{left} tray').pos[1] > 0.1


def test_segmentation_finds_every_object_where_its_colour_is():
    spec = sample_episode(2, 'seen')
    with TabletopWorld() as world:
        world.reset(spec)
        joints = world.joint_sample()[1][:7]
        for _ in range(10):  # turn the arm out of the picture
            joints = joints + [0.15, 0, 0, 0, 0, 0, 0]
            world.step_joints(joints, 1.0)
        image = world.render('front', 128, 128).astype(float)
        ids = world.segmentation('front', 128, 128)
        names = world.object_names
    assert image.shape == (128, 128, 3)
    assert ids.shape == (128, 128)
    for item in spec.scene.objects:
        mask = ids == names.index(item.name)
        assert mask.sum() > 40, item.name
        seen = image[mask].mean(axis=0) / 255
        nearest = min(COLORS, key=lambda c: _angle(seen, np.array(COLORS[c])))
        assert nearest == item.color
    assert (ids == names.index('white tray')).sum() > 200
    assert (ids == -1).sum() > 5000


def _angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))


def test_robot_left_is_right_in_the_front_picture():
    with TabletopWorld() as world:
        spec = sample_episode(0, 'seen')
        world.reset(spec)
        ids = world.segmentation('front', 128, 128)
        tray = world.object_names.index(f'{spec.scene.left_tray} tray')
    assert np.nonzero(ids == tray)[1].mean() > 64


def test_pictures_of_two_worlds_are_the_same():
    spec = sample_episode(4, 'seen')
    with TabletopWorld() as one, TabletopWorld() as two:
        one.reset(spec)
        two.reset(sample_episode(5, 'seen'))
        two.render('wrist', 64, 64)
        two.reset(spec)
        for camera in ('front', 'wrist', 'overview'):
            first, second = one.render(camera, 96, 64), two.render(camera, 96, 64)
            assert first.shape == (64, 96, 3)
            assert first.std() > 10
            np.testing.assert_array_equal(first, second)


def test_an_unknown_camera_and_a_size_too_big_are_refused():
    with TabletopWorld() as world:
        world.reset(sample_episode(0, 'seen'))
        with pytest.raises(RenderError, match='overview'):
            world.render('back', 64, 64)
        with pytest.raises(RenderError, match='largest'):
            world.render('front', 4000, 64)


def test_a_renderer_can_be_closed_twice_and_used_again():
    model = build_model(scene_with('red cube'))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = OffscreenRenderer()
    with pytest.raises(RenderError, match='load'):
        renderer.render(data, 'front', 32, 32)
    for _ in range(2):
        renderer.load(model)
        assert renderer.render(data, 'front', 32, 32).any()
        renderer.close()
        renderer.close()


def test_egl_is_tried_before_osmesa_and_the_first_that_works_is_taken(monkeypatch):
    monkeypatch.delenv('MUJOCO_GL', raising=False)
    tried = []

    def only_osmesa(backend: str) -> bool:
        tried.append(backend)
        return backend == 'osmesa'

    assert choose_backend(only_osmesa) == 'osmesa'
    assert tuple(tried) == BACKENDS == ('egl', 'osmesa')
    assert choose_backend(lambda backend: True) == 'egl'


def test_without_any_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.delenv('MUJOCO_GL', raising=False)
    with pytest.raises(RenderError, match='apt-get install -y libegl1'):
        choose_backend(lambda backend: False)


def test_mujoco_gl_in_the_environment_decides(monkeypatch):
    monkeypatch.setenv('MUJOCO_GL', 'osmesa')
    assert choose_backend(lambda backend: False) == 'osmesa'
    monkeypatch.setenv('MUJOCO_GL', 'vulkan')
    with pytest.raises(RenderError, match='vulkan'):
        choose_backend(lambda backend: True)
