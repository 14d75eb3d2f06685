"""training.launch.py and simulation.launch.py: each node alone, as its arguments say."""

from __future__ import annotations

from node_messages import until_active
import pytest

from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.nodes.client import Client

launch_pytest = pytest.importorskip(
    'launch_pytest', reason='launch_pytest comes with a ROS 2 installation only'
)


@launch_pytest.fixture
def training(launched, tmp_path):
    arguments = {'embodiment': 'tabletop', 'folder': tmp_path / 'here', 'namespace': 'cell'}
    return launched.describe(('training', arguments))


@pytest.mark.timeout(1200)
@pytest.mark.launch(fixture=training)
def test_the_recorder_comes_up_and_records_where_it_was_told(launched, client, tmp_path):
    until_active(client, 'cell/training_node')
    client.trigger('cell/training_node/start_episode')
    assert list((tmp_path / 'here').iterdir())
    assert client.node.count_subscribers('/cell/front/image_raw') == 1
    yield
    launched.clean_end()


@launch_pytest.fixture
def simulation(launched):
    arguments = {'split': 'absent', 'seed': 5, 'publish_instruction': 'true', 'namespace': 'sim'}
    return launched.describe(('simulation', arguments))


@pytest.mark.timeout(1200)
@pytest.mark.launch(fixture=simulation)
def test_the_simulated_robot_begins_the_episode_that_was_asked_for(launched, client: Client):
    scene: list[dict[str, str]] = []
    client.on_values('sim/simulator_node/status', scene.append)
    client.until(lambda: scene, 'the episode')
    assert (scene[0]['split'], scene[0]['seed']) == ('absent', '5')
    tabletop, graph = Embodiment.load('tabletop'), client.node
    for topic in (*tabletop.observation_topics(), *tabletop.segmentation_topics()):
        client.until(lambda name=f'/sim/{topic}': graph.count_publishers(name) == 1, topic)
    for topic in tabletop.command_topics():
        client.until(lambda name=f'/sim/{topic}': graph.count_subscribers(name) == 1, topic)
    yield
    launched.clean_end()
