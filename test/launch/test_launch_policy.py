"""policy.launch.py: the node comes up by itself, where and as the arguments say."""

from __future__ import annotations

from lifecycle_msgs.msg import State
from node_messages import listen, moves, until_active
import pytest
from rcl_interfaces.srv import GetParameters
import yaml

launch_pytest = pytest.importorskip(
    'launch_pytest', reason='launch_pytest comes with a ROS 2 installation only'
)
NODE = 'left/policy_node'
TWIST = 'geometry_msgs/msg/TwistStamped'


@launch_pytest.fixture
def policy(launched, checkpoint, tmp_path):
    values = {'device': 'cpu', 'status_period_s': 0.1, 'checkpoint': 'nowhere'}
    file = tmp_path / 'mine.yaml'
    file.write_text(yaml.safe_dump({'/**': {'ros__parameters': values}}))
    return launched.describe(
        (
            'policy',
            {
                'namespace': 'left',
                'checkpoint': checkpoint,
                'params_file': file,
                'remap': 'joint_states:=/arm/joint_states wrist/image_raw:=/hand/image',
                'respawn': 'true',
            },
        )
    )


@pytest.mark.timeout(1200)
@pytest.mark.launch(fixture=policy)
def test_a_policy_comes_up_as_told_again_and_again(launched, client, checkpoint):
    until_active(client, NODE)
    names = ['device', 'status_period_s', 'checkpoint', 'autostart', 'use_sim_time']
    request = GetParameters.Request(names=names)
    values = client.call(GetParameters, f'{NODE}/get_parameters', request).values
    assert [values[0].string_value, values[1].double_value] == ['cpu', 0.1]  # as in the file
    assert values[2].string_value == str(checkpoint)  # an argument comes before the file
    assert [values[3].bool_value, values[4].bool_value] == [True, False]
    for topic in ('/left/front/image_raw', '/arm/joint_states', '/hand/image'):
        client.until(lambda topic=topic: client.node.count_subscribers(topic) == 1, topic)
    twists = listen(client, 'left/servo/delta_twist_cmds', TWIST)
    client.until(lambda: len(twists) > 2, 'holds')
    assert not any(moves(raw) for raw in twists)

    launched.kill('policy_node')
    client.until(lambda: len(launched.pids('policy_node')) == 2, 'the respawn')
    del twists[:]
    client.until(lambda: len(twists) > 2, 'holds again')
    yield
    launched.clean_end()


@launch_pytest.fixture
def waiting_policy(launched, checkpoint):
    return launched.describe(('policy', {'checkpoint': checkpoint, 'autostart': 'false'}))


@pytest.mark.timeout(1200)
@pytest.mark.launch(fixture=waiting_policy)
def test_without_autostart_a_lifecycle_manager_brings_it_up(launched, client):
    assert client.lifecycle_state('policy_node') == State.PRIMARY_STATE_UNCONFIGURED
    client.configure('policy_node', timeout_s=300.0)
    client.activate('policy_node')
    until_active(client, 'policy_node')
    yield
    launched.clean_end()


@pytest.mark.parametrize('rule', ['instruction', 'instruction:=', ':=/voice/text'])
def test_a_remapping_that_is_none_says_how_one_looks(rule):
    from vla_alignment_ros.nodes.launching import remappings

    assert remappings(' a:=b  c:=/d ') == [('a', 'b'), ('c', '/d')]
    with pytest.raises(ValueError, match='from:=to'):
        remappings(f'a:=b {rule}')
