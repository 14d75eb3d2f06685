"""Viewers' files: every topic and every field in them is what our nodes publish."""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path
import re
from typing import Any

import pytest
from rclpy.qos import (
    DurabilityPolicy,
    qos_check_compatible,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
)
import yaml

from vla_alignment_ros.nodes.policy_node import PolicyNode
from vla_alignment_ros.nodes.qos import message_class
from vla_alignment_ros.nodes.simulator_node import SimulatorNode
from vla_alignment_ros.nodes.training_node import TrainingNode

ROOT = Path(__file__).resolve().parents[2]
# robot_state_publisher's, which launch/viewer.launch.py starts
OTHERS = {'/robot_description': 'std_msgs/msg/String'}
RVIZ_TYPES = {
    'rviz_default_plugins/Image': 'sensor_msgs/msg/Image',
    'rviz_default_plugins/MarkerArray': 'visualization_msgs/msg/MarkerArray',
    'rviz_default_plugins/RobotModel': 'std_msgs/msg/String',
}
PATH = re.compile(r'(?P<topic>(/\w+)+)(?P<fields>(\.\w+(\[(:|\d+)\])?)*)')


@pytest.fixture
def published(ros, checkpoint, tmp_path) -> dict[str, str]:
    """Topic → type of everything that a demo publishes."""
    policy = ros.add(PolicyNode, checkpoint=str(checkpoint), threads=1, device='cpu')
    others = [
        ros.add(SimulatorNode, reset_on_start=False),
        ros.add(TrainingNode, folder=str(tmp_path)),
    ]
    assert ros.transition('policy_node', 'configure')
    found = dict(OTHERS)
    for node in (policy, *others):
        for publisher in node.publishers:
            kind = publisher.msg_type
            package = kind.__module__.partition('.')[0]
            found[publisher.topic_name] = f'{package}/msg/{kind.__name__}'
    return found


def values(data: Any, key: str) -> Iterator[Any]:
    """Every value of a key, however deep."""
    if isinstance(data, dict):
        for name, value in data.items():
            if name == key:
                yield value
            yield from values(value, key)
    elif isinstance(data, list):
        for item in data:
            yield from values(item, key)


def panels(layout: Any) -> Iterator[str]:
    if isinstance(layout, str):
        yield layout
    else:
        yield from panels(layout['first'])
        yield from panels(layout['second'])


def check_path(path: str, published: dict[str, str]) -> str:
    """Follow '/topic.field[0].field'; the type at its end."""
    match = PATH.fullmatch(path)
    assert match, path
    assert match['topic'] in published, path
    kind = published[match['topic']]
    for field in filter(None, match['fields'].split('.')):
        name, _, index = field.partition('[')
        fields = message_class(_full(kind)).get_fields_and_field_types()
        assert name in fields, f'{path}: {kind} has {list(fields)}'
        kind = fields[name]
        element = re.fullmatch(r'sequence<(.+?)(, \d+)?>|(.+)\[\d+\]', kind)
        assert bool(element) == bool(index) or path.endswith(f'.{name}'), path
        if index:
            kind = element[1] or element[3]
    return kind


def _full(kind: str) -> str:
    return kind if kind.count('/') == 2 else kind.replace('/', '/msg/')


def test_foxglove_shows_what_is_published(published):
    layout = json.loads((ROOT / 'foxglove' / 'policy.json').read_text())
    config = layout['configById']
    assert sorted(panels(layout['layout'])) == sorted(config)
    for name, settings in config.items():
        kind = name.split('!')[0]
        if kind == 'Image':
            assert check_path(settings['imageMode']['imageTopic'], published) == RVIZ_TYPES[
                'rviz_default_plugins/Image'
            ]
            info = settings['imageMode'].get('calibrationTopic')
            assert info is None or published[info] == 'sensor_msgs/msg/CameraInfo'
        elif kind == '3D':
            for topic in [*settings['topics'], *values(settings['layers'], 'topic')]:
                assert topic in published
    plotted = [p for name in config if name.startswith('Plot') for p in config[name]['paths']]
    assert {check_path(path['value'], published) for path in plotted} == {'double'}
    for path in [*values(config, 'value'), *values(config, 'topicPath'),
                 *values(config, 'topicToRender')]:  # fmt: skip
        check_path(path, published)


@pytest.mark.parametrize(
    'wrong', ['/policy_node/score.data[0]', '/policy_node/alignment_score.values[0]',
              '/policy_node/action_chunk.points.positions[0]'],
)  # fmt: skip
def test_a_path_that_leads_nowhere_is_found(wrong):
    published = {
        '/policy_node/alignment_score': 'std_msgs/msg/Float64MultiArray',
        '/policy_node/action_chunk': 'trajectory_msgs/msg/JointTrajectory',
    }
    check_path('/policy_node/action_chunk.points[:].positions[0]', published)
    with pytest.raises(AssertionError):
        check_path(wrong, published)


def test_rviz_shows_what_is_published_and_can_receive_it(ros, published):
    config = yaml.safe_load((ROOT / 'rviz' / 'policy.rviz').read_text())
    manager = config['Visualization Manager']
    assert manager['Global Options']['Fixed Frame'] == 'base_link'
    shown = {d['Class']: d for d in manager['Displays']}
    offers = ros.client.get_publishers_info_by_topic
    assert set(RVIZ_TYPES) <= set(shown)
    for display in manager['Displays']:
        topic = display.get('Topic') or display.get('Description Topic')
        if topic is None:
            continue
        name = f'/{topic["Value"]}'  # relative: of the viewer's namespace
        assert published[name] == RVIZ_TYPES[display['Class']]
        asked = QoSProfile(
            depth=topic['Depth'],
            reliability=ReliabilityPolicy[_key(topic, 'Reliability')],
            durability=DurabilityPolicy[_key(topic, 'Durability')],
        )
        if name in OTHERS:
            continue
        ros.until(lambda name=name: offers(name), f'somebody who publishes {name}')
        for offered in offers(name):
            found, reason = qos_check_compatible(offered.qos_profile, asked)
            assert found != QoSCompatibility.ERROR, f'{name}: {reason}'


def _key(topic: dict[str, Any], kind: str) -> str:
    return topic[f'{kind} Policy'].upper().replace(' ', '_')
