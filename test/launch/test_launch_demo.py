"""demo.launch.py: simulator, policy and recorder find each other, act, fail safely and end."""

from __future__ import annotations

from node_messages import listen, moves, until_active
import pytest
from rclpy.qos import qos_check_compatible, QoSCompatibility
import yaml

from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.nodes.client import Client

launch_pytest = pytest.importorskip(
    'launch_pytest', reason='launch_pytest comes with a ROS 2 installation only'
)
TWISTS = 'servo/delta_twist_cmds', 'geometry_msgs/msg/TwistStamped'


@pytest.fixture
def arguments(checkpoint, tmp_path):
    """What a demo is given: a policy that moves whatever is said."""
    file = tmp_path / 'moving.yaml'
    values = {'gate.enabled': False, 'status_period_s': 0.1, 'threads': 1}
    file.write_text(yaml.safe_dump({'/**': {'ros__parameters': values}}))
    return {
        'checkpoint': checkpoint,
        'device': 'cpu',
        'policy_params': file,
        'folder': tmp_path / 'demonstrations',
        'seed': '3',
    }


@launch_pytest.fixture
def demo(launched, arguments):
    return launched.describe(('demo', arguments))


@pytest.mark.timeout(1200)
@pytest.mark.launch(fixture=demo)
def test_the_demo_acts_and_records_and_holds_when_its_robot_dies(
    launched, client, arguments
):
    said: list[dict[str, str]] = []
    client.on_values('policy_node/status', said.append)
    scene: list[dict[str, str]] = []
    client.on_values('simulator_node/status', scene.append)
    twists = listen(client, *TWISTS)
    until_active(client, 'policy_node', 'training_node')
    client.until(lambda: twists and moves(twists[-1]), 'motion')
    client.until(lambda: scene, 'the simulator')
    assert scene[-1]['seed'] == '3'

    tabletop = Embodiment.load('tabletop')
    for topic in tabletop.topics():
        _connected(client, topic)
    assert client.node.count_publishers('/clock') == 1

    client.trigger('training_node/start_episode')
    start = len(twists)
    client.until(lambda: len(twists) > start + 3, 'commands that are recorded')
    client.trigger('training_node/discard_episode')

    launched.kill('simulator_node')
    client.until(lambda: 'time has stood still' in said[-1].get('reason', ''), 'the reason')
    start = len(twists)
    client.until(lambda: len(twists) > start + 2, 'holds')
    assert not any(moves(raw) for raw in twists[start:])
    yield
    launched.clean_end()


@launch_pytest.fixture
def two_demos(launched, arguments):
    arguments = {**arguments, 'training': 'false'}
    sides = ('left', 'right')
    return launched.describe(*(('demo', {**arguments, 'namespace': side}) for side in sides))


@pytest.mark.timeout(1200)
@pytest.mark.launch(fixture=two_demos)
def test_two_demos_in_two_namespaces_do_not_meet(launched, client):
    twists = {side: listen(client, f'{side}/{TWISTS[0]}', TWISTS[1]) for side in ('left', 'right')}
    until_active(client, 'left/policy_node', 'right/policy_node')
    for side, raws in twists.items():
        client.until(lambda raws=raws: raws and moves(raws[-1]), f'motion on the {side}')
        assert client.node.count_publishers(f'/{side}/clock') == 1
    assert client.node.count_publishers('/clock') == 0
    client.deactivate('left/policy_node')
    for raws in twists.values():
        raws.clear()
    client.until(lambda: len(twists['right']) > 3 and moves(twists['right'][-1]), 'the right one')
    assert not any(moves(raw) for raw in twists['left'])
    yield
    launched.clean_end()


def _connected(client: Client, topic: str) -> None:
    """Assert that whoever publishes and whoever subscribes to a topic understand each other."""
    node = client.node
    name = node.resolve_topic_name(topic)
    client.until(lambda: node.count_publishers(name) and node.count_subscribers(name), name)
    for offered in node.get_publishers_info_by_topic(name):
        for asked in node.get_subscriptions_info_by_topic(name):
            assert offered.topic_type == asked.topic_type, name
            found, reason = qos_check_compatible(offered.qos_profile, asked.qos_profile)
            assert found != QoSCompatibility.ERROR, f'{name}: {reason}'
