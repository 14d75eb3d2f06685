from __future__ import annotations

from xml.etree import ElementTree

import mujoco
import numpy as np
import pytest

from vla_alignment_ros.embodiment import Embodiment, resolve_resource
from vla_alignment_ros.errors import EmbodimentError
from vla_alignment_ros.kinematics import ForwardKinematics, rotation_log

RNG = np.random.default_rng(11)

# a base that is turned and lifted, a link without any inertia, and a mesh that is not there
BENT = """<robot name="bent">
  <link name="world"/>
  <joint name="mount" type="fixed">
    <parent link="world"/><child link="base"/><origin xyz="1 2 3" rpy="0 0 1.5707963267948966"/>
  </joint>
  <link name="base">
    <collision>
      <geometry><mesh filename="package://somewhere_else/base.stl"/></geometry>
    </collision>
  </link>
  <joint name="hinge" type="revolute">
    <parent link="base"/><child link="arm"/><axis xyz="0 0 1"/>
    <limit lower="-3" upper="3" effort="1" velocity="1"/>
  </joint>
  <link name="arm"/>
  <joint name="tip" type="fixed">
    <parent link="arm"/><child link="hand"/><origin xyz="0.5 0 0.1"/>
  </joint>
  <link name="hand"/>
</robot>
"""


def rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rodrigues: a rotation matrix (3, 3) about a unit axis."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def chain(urdf: str, values: dict[str, float], base: str, tip: str) -> np.ndarray:
    """Pose (4, 4) of tip in base, straight from the URDF's text."""
    joints = {j.find('child').get('link'): j for j in ElementTree.parse(urdf).findall('joint')}
    pose = np.eye(4)
    link = tip
    while link != base:
        joint = joints[link]
        origin = joint.find('origin')
        numbers = {
            key: np.array([float(v) for v in (origin.get(key) or '0 0 0').split()])
            for key in ('xyz', 'rpy')
        }
        step = np.eye(4)
        roll, pitch, yaw = numbers['rpy']
        step[:3, :3] = (
            rotation(np.array([0, 0, 1]), yaw)
            @ rotation(np.array([0, 1, 0]), pitch)
            @ rotation(np.array([1, 0, 0]), roll)
        )
        step[:3, 3] = numbers['xyz']
        if joint.get('type') == 'revolute':
            axis = np.array([float(v) for v in joint.find('axis').get('xyz').split()])
            turn = np.eye(4)
            turn[:3, :3] = rotation(axis / np.linalg.norm(axis), values[joint.get('name')])
            step = step @ turn
        pose = step @ pose
        link = joint.find('parent').get('link')
    return pose


@pytest.fixture(scope='module')
def embodiment() -> Embodiment:
    return Embodiment.load('tabletop')


@pytest.fixture(scope='module')
def arm(embodiment) -> ForwardKinematics:
    return ForwardKinematics(
        resolve_resource(embodiment.urdf), embodiment.joint_names, 'base_link', 'tool0'
    )


def test_the_hand_is_where_the_urdf_says(embodiment, arm):
    urdf = str(resolve_resource(embodiment.urdf))
    for q in RNG.uniform(-2.5, 2.5, (50, 7)):
        position, orientation = arm(q)
        pose = chain(urdf, dict(zip(embodiment.joint_names, q)), 'base_link', 'tool0')
        np.testing.assert_allclose(position, pose[:3, 3], atol=1e-6)
        np.testing.assert_allclose(orientation, pose[:3, :3], atol=1e-6)


def test_the_hand_is_where_the_simulator_puts_it(embodiment, arm):
    model = mujoco.MjModel.from_xml_path(str(resolve_resource(embodiment.urdf)))
    data = mujoco.MjData(model)
    addresses = [model.joint(name).qposadr[0] for name in embodiment.joint_names]
    for q in RNG.uniform(-2.5, 2.5, (20, 7)):
        data.qpos[addresses] = q
        mujoco.mj_forward(model, data)
        position, orientation = arm(q)
        np.testing.assert_allclose(position, data.body('tool0').xpos, atol=1e-9)
        np.testing.assert_allclose(orientation.ravel(), data.body('tool0').xmat, atol=1e-9)


def test_joints_are_addressed_by_name(embodiment):
    urdf = resolve_resource(embodiment.urdf)
    names = tuple(reversed(embodiment.joint_names))
    forward = ForwardKinematics(urdf, embodiment.joint_names, 'base_link', 'tool0')
    backward = ForwardKinematics(urdf, names, 'base_link', 'tool0')
    q = RNG.uniform(-1, 1, 7)
    np.testing.assert_array_equal(forward(q)[0], backward(q[::-1])[0])


def test_a_pose_handed_out_does_not_change_later(arm):
    position, orientation = arm(np.zeros(7))
    kept = position.copy(), orientation.copy()
    arm(np.full(7, 0.7))
    np.testing.assert_array_equal(position, kept[0])
    np.testing.assert_array_equal(orientation, kept[1])


@pytest.fixture
def bent(tmp_path):
    path = tmp_path / 'bent.urdf'
    path.write_text(BENT)
    return path


def test_the_pose_is_in_the_base_link_and_not_in_the_world(bent):
    position, orientation = ForwardKinematics(bent, ('hinge',), 'base', 'hand')(np.zeros(1))
    np.testing.assert_allclose(position, [0.5, 0, 0.1], atol=1e-9)
    np.testing.assert_allclose(orientation, np.eye(3), atol=1e-9)
    position, _ = ForwardKinematics(bent, ('hinge',), 'world', 'hand')(np.zeros(1))
    np.testing.assert_allclose(position, [1, 2.5, 3.1], atol=1e-9)


@pytest.mark.parametrize(
    ('joints', 'base', 'tip', 'message'),
    [
        (('elbow',), 'base', 'hand', "no joint 'elbow'; it has hinge"),
        (('hinge',), 'base', 'paw', "no link 'paw'; it has arm, base, hand, world"),
        (('hinge',), 'bass', 'hand', "no link 'bass'; it has arm, base, hand"),
    ],
)
def test_a_name_that_is_not_in_the_urdf_is_refused(bent, joints, base, tip, message):
    with pytest.raises(EmbodimentError, match=message):
        ForwardKinematics(bent, joints, base, tip)


@pytest.mark.parametrize('text', ['', '<robot', '<sdf/>', '<robot name="empty"/>'])
def test_a_file_that_is_no_urdf_is_refused(tmp_path, text):
    path = tmp_path / 'broken.urdf'
    path.write_text(text)
    with pytest.raises(EmbodimentError, match=r'broken\.urdf'):
        ForwardKinematics(path, ('hinge',), 'base', 'hand')


ONE_JOINT = """<robot name="r">{extra}<link name="a"/><link name="b"/>
<joint name="j" type="revolute"><parent link="a"/><child link="b"/><axis xyz="0 0 1"/>
<limit lower="-1" upper="1" effort="1" velocity="1"/></joint></robot>"""


def test_a_urdf_reads_no_other_file(tmp_path):
    other, urdf = tmp_path / 'other.xml', tmp_path / 'arm.urdf'
    other.write_text('<mujoco>hush')  # reading it would be an error of its own
    urdf.write_text(f'<mujoco><include file="{other}"/><link name="a"/></mujoco>')
    with pytest.raises(EmbodimentError, match='describes no robot'):
        ForwardKinematics(urdf, (), 'a', 'a')
    extra = f'<include file="{other}"/><mujoco><compiler meshdir="{other}"/></mujoco>'
    urdf.write_text(ONE_JOINT.format(extra=extra))
    assert ForwardKinematics(urdf, ('j',), 'a', 'b')([0.0])[0].shape == (3,)
    urdf.write_text(f'<!DOCTYPE r [<!ENTITY x SYSTEM "file://{other}">]>' + ONE_JOINT.format(
        extra='<link name="c">&x;</link>'))  # fmt: skip
    with pytest.raises(EmbodimentError, match='entity'):
        ForwardKinematics(urdf, ('j',), 'a', 'b')


@pytest.mark.parametrize(
    'text',
    [
        '<robot name="r"><link name="a">' + '<x>' * 20_000 + '</x>' * 20_000 + '</link></robot>',
        '<!DOCTYPE r [<!ENTITY a "aaaaaaaaaa">'
        + ''.join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9))
        + ']><robot name="&j;"><link name="a"/></robot>',
    ],
    ids=['nested', 'multiplied'],
)
def test_a_urdf_that_grows_without_end_is_refused(tmp_path, text):
    urdf = tmp_path / 'arm.urdf'
    urdf.write_text(text)
    with pytest.raises(EmbodimentError, match='cannot load'):
        ForwardKinematics(urdf, (), 'a', 'a')


def test_the_jacobian_says_how_the_hand_moves(arm, bent):
    for kinematics in (arm, ForwardKinematics(bent, ('hinge',), 'base', 'hand')):
        count = len(kinematics.joint_names)
        for q in RNG.uniform(-2.0, 2.0, (5, count)):
            position, orientation, jacobian = kinematics.pose_and_jacobian(q)
            assert jacobian.shape == (6, count)
            for index, column in enumerate(jacobian.T):
                q2 = q.copy()
                q2[index] += 1e-6
                p2, r2 = kinematics(q2)
                np.testing.assert_allclose((p2 - position) / 1e-6, column[:3], atol=1e-5)
                turn = rotation_log(r2 @ orientation.T) / 1e-6
                np.testing.assert_allclose(turn, column[3:], atol=1e-4)


def test_limits_are_those_of_the_urdf_in_the_order_of_the_joints(embodiment, tmp_path):
    urdf = resolve_resource(embodiment.urdf)
    names = ('joint4', 'joint1')
    limits = ForwardKinematics(urdf, names, 'base_link', 'tool0').limits()
    np.testing.assert_array_equal(limits.low, [-3.0, -2.9])
    np.testing.assert_array_equal(limits.high, [-0.07, 2.9])
    np.testing.assert_array_equal(limits.velocity, [2.2, 2.2])
    for old, new in (('type="revolute"', 'type="continuous"'), ('velocity="1"', 'velocity="0"')):
        (tmp_path / 'endless.urdf').write_text(BENT.replace(old, new))
        kinematics = ForwardKinematics(tmp_path / 'endless.urdf', ('hinge',), 'base', 'hand')
        found = kinematics.limits()
        endless = 'continuous' in new
        assert (found.low[0], found.high[0]) == ((-np.inf, np.inf) if endless else (-3.0, 3.0))
        assert found.velocity[0] == (1.0 if endless else np.inf)


def test_the_chain_is_what_moves_the_hand_against_the_base(embodiment, arm, bent):
    assert arm.chain() == embodiment.joint_names
    assert ForwardKinematics(bent, ('hinge',), 'base', 'hand').chain() == ('hinge',)
    urdf = resolve_resource(embodiment.urdf)
    part = ForwardKinematics(urdf, embodiment.joint_names, 'link3', 'tool0')
    assert part.chain() == embodiment.joint_names[3:]
    with pytest.raises(EmbodimentError, match='tool0 does not carry base_link'):
        ForwardKinematics(urdf, embodiment.joint_names, 'tool0', 'base_link').chain()
