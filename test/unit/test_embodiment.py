from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys

import pytest
import yaml

from vla_alignment_ros.embodiment import Embodiment, package_path, resolve_resource
from vla_alignment_ros.errors import EmbodimentError

FOLDER = package_path('config', 'embodiments')
SHIPPED = sorted(path.stem for path in FOLDER.glob('*.yaml'))


@pytest.fixture
def data() -> dict:
    return yaml.safe_load((FOLDER / 'tabletop.yaml').read_text())


def test_the_shipped_ones_are_there():
    assert {'tabletop', 'franka_servo', 'generic_jtc', 'ur_forward_velocity'} <= set(SHIPPED)


@pytest.mark.parametrize('name', SHIPPED)
def test_a_shipped_embodiment_loads_by_name_and_by_path(name):
    embodiment = Embodiment.load(name)
    assert embodiment.name == name
    assert Embodiment.load(FOLDER / f'{name}.yaml') == embodiment
    if embodiment.urdf:
        assert resolve_resource(embodiment.urdf).is_file()


@pytest.mark.parametrize('name', SHIPPED)
def test_an_embodiment_survives_yaml_and_json(name):
    embodiment = Embodiment.load(name)
    for back in (
        yaml.safe_load(yaml.safe_dump(embodiment.to_dict())),
        json.loads(json.dumps(embodiment.to_dict())),
    ):
        assert Embodiment.from_dict(back) == embodiment
        assert Embodiment.from_dict(back).digest() == embodiment.digest()


def test_topics_are_those_of_observation_and_command():
    embodiment = Embodiment.load('tabletop')
    assert embodiment.observation_topics() == {
        'front/image_raw': 'sensor_msgs/msg/Image',
        'wrist/image_raw': 'sensor_msgs/msg/Image',
        'joint_states': 'sensor_msgs/msg/JointState',
        'instruction': 'std_msgs/msg/String',
    }
    assert embodiment.command_topics() == {
        'servo/delta_twist_cmds': 'geometry_msgs/msg/TwistStamped',
        'gripper/command': 'std_msgs/msg/Float64',
    }
    assert embodiment.topics() == {
        **embodiment.observation_topics(),
        **embodiment.command_topics(),
    }
    assert embodiment.source_topics()['wrist'] == 'wrist/image_raw'


def test_a_compressed_camera_has_its_own_message_type(data):
    data['cameras'][0]['compressed'] = True
    topics = Embodiment.from_dict(data).observation_topics()
    assert topics['front/image_raw'] == 'sensor_msgs/msg/CompressedImage'


def test_the_gripper_goes_from_closed_0_to_open_1():
    gripper = Embodiment.load('ur_forward_velocity').gripper  # closes towards larger angles
    assert gripper.opening(gripper.open_position) == 1.0
    assert gripper.opening(gripper.closed_position) == 0.0
    assert gripper.opening(gripper.position(0.3)) == pytest.approx(0.3)


# -- digest -------------------------------------------------------------------------------------


def test_the_digest_does_not_depend_on_the_order_of_keys(data):
    digest = Embodiment.from_dict(data).digest()
    turned = dict(reversed(list(data.items())))
    turned['action'] = dict(reversed(list(data['action'].items())))
    assert Embodiment.from_dict(turned).digest() == digest
    assert len(digest) == 64
    assert int(digest, 16)


@pytest.mark.parametrize('name', SHIPPED)
def test_the_digest_is_the_same_in_another_process(name):
    code = (
        'from vla_alignment_ros.embodiment import Embodiment; '
        f'print(Embodiment.load({name!r}).digest())'
    )
    root = str(package_path())
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == Embodiment.load(name).digest()


@pytest.mark.parametrize('number', [10, 10.0])
def test_a_number_means_the_same_with_and_without_a_decimal_point(data, number):
    reference = Embodiment.from_dict(data)
    data['rate_hz'] = number
    data['action']['low'] = [int(v) if v == int(v) else v for v in data['action']['low']]
    assert Embodiment.from_dict(data) == reference
    assert Embodiment.from_dict(data).digest() == reference.digest()


def test_every_change_changes_the_digest(data):
    digests = {Embodiment.from_dict(data).digest()}
    changes = [
        lambda d: d.update(rate_hz=20.0),
        lambda d: d['action'].update(frame='tool0'),
        lambda d: d['action']['high'].__setitem__(0, 0.06),
        lambda d: d['cameras'][0].update(width=64),
        lambda d: d['gripper'].update(open_position=0.05),
        lambda d: d['command']['topics'].update(twist='other'),
        lambda d: d['joint_names'].reverse(),
    ]
    for change in changes:
        other = copy.deepcopy(data)
        change(other)
        digests.add(Embodiment.from_dict(other).digest())
    assert len(digests) == len(changes) + 1


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('where', 'allowed'),
    [
        ((), 'joint_names'),
        (('action',), 'max_jerk'),
        (('gripper',), 'open_position'),
        (('command',), 'codec, topics'),
        (('cameras', 0), 'name, topic, width, height'),
    ],
)
def test_an_unknown_key_is_refused_and_the_allowed_ones_listed(data, where, allowed):
    part = data
    for key in where:
        part = part[key]
    part['colour'] = 1
    with pytest.raises(EmbodimentError, match=f'unknown key colour .*allowed: .*{allowed}'):
        Embodiment.from_dict(data)


@pytest.mark.parametrize(
    ('where', 'key'),
    [
        ((), 'joint_names'),
        ((), 'action'),
        (('action',), 'low'),
        (('gripper',), 'joint'),
        (('command',), 'topics'),
        (('cameras', 0), 'topic'),
    ],
)
def test_a_missing_key_is_named(data, where, key):
    part = data
    for step in where:
        part = part[step]
    del part[key]
    with pytest.raises(EmbodimentError, match=f'lacks {key}'):
        Embodiment.from_dict(data)


@pytest.mark.parametrize(
    'key',
    ['names', 'units', 'low', 'high', 'max_velocity', 'max_acceleration', 'workspace_low'],
)
@pytest.mark.parametrize('length', [0, 2, 8])
def test_a_list_of_another_length_is_refused(data, key, length):
    values = [f'n{i}' if key in ('names', 'units') else 0.1 + i for i in range(length)]
    data['action'][key] = values
    with pytest.raises(EmbodimentError, match=rf'action\.{key} needs [37]'):
        Embodiment.from_dict(data)


def changed(path: str, value):
    """Set data['a']['b'] for the path 'a.b'; a number is an index."""

    def change(data: dict) -> None:
        *parents, last = [int(p) if p.isdigit() else p for p in path.split('.')]
        for parent in parents:
            data = data[parent]
        data[last] = value

    return change


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (changed('name', '../up'), 'name must be'),
        (changed('cameras', []), 'at least one'),
        (changed('cameras', {'front': 1}), 'must be a list'),
        (changed('cameras.0.width', 0), 'width and height'),
        (changed('cameras.0.width', 12.5), 'width and height'),
        (changed('cameras.0.width', True), 'width and height'),
        (changed('cameras.0.topic', 'front image'), 'not a ROS topic name'),
        (changed('cameras.0.topic', 'wrist/image_raw'), 'share one topic'),
        (changed('cameras.1.name', 'front'), 'distinct'),
        (changed('cameras.1.name', 'instruction'), 'reserved'),
        (changed('cameras.1.name', 7), r'camera\.name must be a text'),
        (changed('cameras.1.compressed', 'no'), 'true or false'),
        (changed('joint_names', ['a', 'a']), 'distinct'),
        (changed('joint_names', ['a', 3]), 'must hold texts'),
        (changed('joint_names', []), 'not empty'),
        (changed('joint_names', 'joint1'), 'must be a list'),
        (changed('gripper.closed_position', 0.04), 'two .*numbers'),
        (changed('gripper.open_position', float('inf')), 'numbers'),
        (changed('gripper.joint', None), r'gripper\.joint'),
        (changed('rate_hz', 0), 'rate_hz'),
        (changed('rate_hz', '10'), 'rate_hz'),
        (changed('rate_hz', float('nan')), 'rate_hz'),
        (changed('action.space', 'telepathy'), 'allowed: ee_delta, joint_position'),
        (changed('action.frame', 3), r'action\.frame'),
        (changed('action.names', ['dx'] * 7), 'distinct'),
        (changed('action.low', [0.0] * 6 + ['x']), 'numbers'),
        (changed('action.low', [0.0] * 6 + [float('nan')]), 'numbers'),
        (changed('action.low', [1.0] * 7), 'below'),
        (changed('action.max_velocity', [0.0] * 7), 'positive'),
        (changed('action.workspace_high', None), 'both'),
        (changed('action.workspace_high', [0.0, 0.0, 0.0]), 'below'),
        (changed('command.codec', 'fax'), 'allowed: twist'),
        (changed('command.codec', 'multi_array'), r'topics for codec multi_array'),
        (changed('command.topics', {'twist': 'a'}), 'twist, gripper'),
        (changed('command.topics.twist', 'a//b'), 'not a ROS topic name'),
        (changed('command.topics.gripper', 'joint_states'), 'share one topic'),
        (changed('max_age_s', {'rear': 1.0}), 'unknown source rear; allowed: front'),
        (changed('max_age_s', {'front': 0}), 'positive'),
        (changed('max_age_s', [0.3]), 'mapping'),
        (changed('instruction_topic', ''), 'instruction_topic'),
        (changed('ee_link', None), 'ee_link'),
        (changed('gripper', 'finger'), 'gripper must be a mapping'),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(data, change, message):
    change(data)
    with pytest.raises(EmbodimentError, match=message):
        Embodiment.from_dict(data)


@pytest.mark.parametrize('joints', [5, 8])
def test_a_joint_space_has_a_joint_for_each_number_that_is_used(joints):
    embodiment = Embodiment.load('generic_jtc')
    names = tuple(f'j{i}' for i in range(joints))
    with pytest.raises(EmbodimentError, match=f'joint_names has {joints}'):
        dataclasses.replace(embodiment, joint_names=names)
    dataclasses.replace(embodiment, joint_names=tuple(f'j{i}' for i in range(7)))


def test_a_number_that_moves_no_joint_is_called_unused_and_may_be_zero():
    embodiment = Embodiment.load('so101')
    action = embodiment.action
    assert len(embodiment.joint_names) == 5
    for changes in (
        {'names': (*action.names[:5], 'wrist', 'gripper')},
        {'low': (*action.low[:5], 0.0005, 0.0)},
    ):
        with pytest.raises(EmbodimentError, match='moves no joint'):
            dataclasses.replace(embodiment, action=dataclasses.replace(action, **changes))


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(EmbodimentError, match=r'shipped ones: .*tabletop'):
        Embodiment.load('terminator')


@pytest.mark.parametrize('path', ['/nowhere/robot.yaml', '../tabletop', 'a b'])
def test_a_path_that_is_not_there_is_refused(path):
    with pytest.raises(EmbodimentError, match='not found'):
        Embodiment.load(path)


@pytest.mark.parametrize('text', ['a: [', '', '- 1', 'text', '!!python/object:os.system {}'])
def test_a_file_that_is_no_description_is_refused_and_named(tmp_path, text):
    path = tmp_path / 'robot.yaml'
    path.write_text(text)
    with pytest.raises(EmbodimentError, match=r'robot\.yaml'):
        Embodiment.load(path)


# -- resources ----------------------------------------------------------------------------------


def test_a_resource_of_the_package_is_found():
    path = resolve_resource('package://vla_alignment_ros/urdf/tabletop_arm.urdf')
    assert path == package_path('urdf', 'tabletop_arm.urdf')


@pytest.mark.parametrize(
    ('uri', 'message'),
    [
        ('package://vla_alignment_ros/../../etc/passwd', 'outside'),
        ('package://other_package/arm.urdf', 'cannot resolve'),
        ('https://example.org/arm.urdf', 'cannot resolve'),
        ('package://vla_alignment_ros/urdf/none.urdf', 'not found'),
        ('package://../urdf/arm.urdf', 'cannot resolve'),
        ('/nowhere/arm.urdf', 'VLA_RESOURCE_PATH'),
        ('../arm.urdf', 'VLA_RESOURCE_PATH'),
        ('none.urdf', 'not found'),
    ],
)
def test_a_resource_elsewhere_is_refused(uri, message):
    with pytest.raises(EmbodimentError, match=message):
        resolve_resource(uri)


def test_differences_name_every_field_that_another_robot_has_otherwise():
    mine = Embodiment.load('tabletop')
    assert mine.differences(mine) == []
    data = mine.to_dict()
    data['rate_hz'] = 20.0
    data['cameras'][1]['topic'] = 'hand/image_raw'
    data['action']['max_jerk'] = [1.0] * 7
    data['max_age_s'] = {'front': 0.5}
    found = mine.differences(Embodiment.from_dict(data))
    assert "cameras[1].topic is 'hand/image_raw' instead of 'wrist/image_raw'" in found
    assert 'rate_hz is 20.0 instead of 10.0' in found
    assert any(line.startswith('action.max_jerk is [1.0') for line in found)
    assert any(line.startswith('max_age_s.front is 0.5') for line in found)
    assert {line.split(' ')[0].split('.')[0] for line in found} == {
        'cameras[1]', 'rate_hz', 'action', 'max_age_s',
    }  # fmt: skip


def test_differences_name_a_list_of_another_length_as_one():
    mine = Embodiment.load('tabletop')
    data = mine.to_dict()
    data['cameras'] = data['cameras'][:1]
    data['max_age_s'] = {}
    found = mine.differences(Embodiment.from_dict(data))
    assert any(line.startswith('cameras is [') for line in found)


def test_a_resource_lies_under_the_working_folder_or_where_the_user_says(tmp_path, monkeypatch):
    here, listed = tmp_path / 'here', tmp_path / 'listed'
    for folder in (here, listed):
        (folder / 'urdf').mkdir(parents=True)
        (folder / 'urdf' / 'arm.urdf').write_text('<robot/>')
    monkeypatch.chdir(here)
    monkeypatch.delenv('VLA_RESOURCE_PATH', raising=False)
    assert resolve_resource('urdf/arm.urdf') == here / 'urdf' / 'arm.urdf'
    assert resolve_resource(str(here / 'urdf' / 'arm.urdf')) == here / 'urdf' / 'arm.urdf'
    there = str(listed / 'urdf' / 'arm.urdf')
    with pytest.raises(EmbodimentError, match='VLA_RESOURCE_PATH'):
        resolve_resource(there)
    monkeypatch.setenv('VLA_RESOURCE_PATH', os.pathsep.join(['', str(listed)]))
    assert resolve_resource(there) == listed / 'urdf' / 'arm.urdf'
    with pytest.raises(EmbodimentError, match='outside'):
        resolve_resource(f'{listed}/../secret.urdf')


def test_a_resource_of_another_ros_package_is_found(tmp_path, monkeypatch):
    share = tmp_path / 'share' / 'my_robot'
    share.mkdir(parents=True)
    (share / 'arm.urdf').write_text('<robot/>')
    monkeypatch.setenv('AMENT_PREFIX_PATH', os.pathsep.join(['', '/nowhere', str(tmp_path)]))
    assert resolve_resource('package://my_robot/arm.urdf') == share / 'arm.urdf'
    with pytest.raises(EmbodimentError, match='outside'):
        resolve_resource('package://my_robot/../../arm.urdf')


def test_a_link_that_was_installed_on_purpose_is_followed(tmp_path, monkeypatch):
    share = tmp_path / 'share' / 'my_robot'  # as colcon build --symlink-install lays it out
    share.mkdir(parents=True)
    (tmp_path / 'source.urdf').write_text('<robot/>')
    (share / 'arm.urdf').symlink_to(tmp_path / 'source.urdf')
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))
    assert resolve_resource('package://my_robot/arm.urdf').read_text() == '<robot/>'


def test_a_resource_too_large_for_a_robot_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open('arm.urdf', 'wb') as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(EmbodimentError, match='larger than'):
        resolve_resource('arm.urdf')


@pytest.mark.parametrize('name', ['../../x', 'a/b', '', 'a b', '\u202egnp', 'x' * 65, 'a.b', '\0'])
def test_a_camera_name_that_could_lead_a_file_name_astray_is_refused(name):
    data = Embodiment.load('tabletop').to_dict()
    data['cameras'][1]['name'] = name
    data['max_age_s'] = {}
    with pytest.raises(EmbodimentError, match='camera|must be a text'):
        Embodiment.from_dict(data)


def test_a_description_nested_without_end_is_refused(tmp_path):
    path = tmp_path / 'robot.yaml'
    path.write_text('name: ' + '[' * 5000)
    with pytest.raises(EmbodimentError, match='not valid YAML'):
        Embodiment.load(path)
