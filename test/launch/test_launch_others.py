"""gazebo.launch.py and viewer.launch.py: what other packages' programs are started with.

Those programs are replaced by stand-ins that only wait: wiring is tested here, not Gazebo, RViz
or Foxglove. Our own nodes are the real ones.
"""

from __future__ import annotations

import os
from pathlib import Path
import shutil
from typing import Any
import xml.etree.ElementTree as ElementTree

from node_messages import until_active
import pytest
from rcl_interfaces.srv import GetParameters
import yaml

launch_pytest = pytest.importorskip(
    'launch_pytest', reason='launch_pytest comes with a ROS 2 installation only'
)
WAITS = """#!/bin/sh
trap 'kill $waiting; exit 0' INT TERM
sleep 600 &
waiting=$!
wait
"""
ENDS = '#!/bin/sh\nexit 0\n'
XACRO = "#!/bin/sh\necho '<robot name=\"stand_in\"/>'\n"
GAZEBO = """
from launch import LaunchDescription
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node


def generate_launch_description():
    arguments = [LaunchConfiguration('gz_args')]
    return LaunchDescription([
        Node(package='ros_gz_sim', executable='gazebo', arguments=arguments)
    ])
"""
PROGRAMS = {
    'controller_manager': {'spawner': ENDS},
    'foxglove_bridge': {'foxglove_bridge': WAITS},
    'robot_state_publisher': {'robot_state_publisher': WAITS},
    'ros_gz_bridge': {'parameter_bridge': WAITS},
    'ros_gz_sim': {'create': ENDS, 'gazebo': WAITS},
    'rviz2': {'rviz2': WAITS},
}


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages of other people, before those that may be installed."""
    prefix = tmp_path / 'stand_ins'

    def write(text: str, *parts: str) -> None:
        path = prefix.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    for package, programs in PROGRAMS.items():
        write('', 'share', 'ament_index', 'resource_index', 'packages', package)
        for name, text in programs.items():
            write(text, 'lib', package, name)
    write(GAZEBO, 'share', 'ros_gz_sim', 'launch', 'gz_sim.launch.py')
    if shutil.which('xacro') is None:
        write(XACRO, 'bin', 'xacro')
        monkeypatch.setenv('PATH', f'{prefix / "bin"}{os.pathsep}{os.environ["PATH"]}')
    others = os.environ['AMENT_PREFIX_PATH']
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'{prefix}{os.pathsep}{others}')


def started(launched: Any, client: Any, executable: str) -> list[str]:
    """The arguments of a program, once it is started."""
    client.until(lambda: launched.pids(executable), f'{executable} to start')
    return launched.commands[launched.pids(executable)[0]][1:]


def parameters(arguments: list[str]) -> dict[str, Any]:
    """Parameters from the files that are named on a command line."""
    found: dict[str, Any] = {}
    for flag, value in zip(arguments, arguments[1:]):
        if flag == '--params-file':
            text = Path(value).read_text().replace('!!python/tuple', '')  # launch writes it
            for node in yaml.safe_load(text).values():
                found |= node['ros__parameters']
    return found


def after(arguments: list[str], flag: str) -> str:
    return arguments[arguments.index(flag) + 1]


@launch_pytest.fixture
def gazebo(launched, checkpoint, stand_ins):
    launched.short |= {'create', 'spawner'}
    arguments = {'checkpoint': checkpoint, 'device': 'cpu', 'gui': 'false'}
    return launched.describe(('gazebo', arguments))


@pytest.mark.timeout(1200)
@pytest.mark.launch(fixture=gazebo)
def test_gazebo_gets_world_arm_bridge_controllers_servo_and_policy(launched, client):
    server = started(launched, client, 'gazebo')[0].split()
    assert server[:3] == ['-r', '-s', '--headless-rendering']
    assert ElementTree.parse(server[3]).getroot().tag == 'sdf'
    arm = parameters(started(launched, client, 'robot_state_publisher'))
    assert ElementTree.fromstring(arm['robot_description']).tag == 'robot'
    assert arm['use_sim_time'] is True
    create = started(launched, client, 'create')
    assert create[:4] == ['-topic', 'robot_description', '-name', 'tabletop_arm']
    bridge = parameters(started(launched, client, 'parameter_bridge'))
    assert {item['ros_topic_name'] for item in yaml.safe_load(Path(bridge['config_file']).open())}
    spawner = started(launched, client, 'spawner')
    controllers = yaml.safe_load(Path(after(spawner, '--param-file')).read_text())
    names = spawner[: spawner.index('--param-file')]
    broadcaster = 'joint_state_broadcaster'
    assert set(names) == {*controllers, broadcaster} - {'controller_manager'}
    assert broadcaster in controllers['controller_manager']['ros__parameters']

    until_active(client, 'servo_node', 'policy_node')
    for node in ('servo_node', 'policy_node'):
        request = GetParameters.Request(names=['use_sim_time'])
        assert client.call(GetParameters, f'{node}/get_parameters', request).values[0].bool_value
    graph = client.node
    for topic in ('servo/delta_twist_cmds', 'gripper/command'):  # from the policy to the servo
        name = f'/{topic}'
        client.until(
            lambda name=name: graph.count_publishers(name) and graph.count_subscribers(name), name
        )
    for name in names:
        if name != broadcaster:
            offered = dict(graph.get_topic_names_and_types())
            assert any(topic.startswith(f'/{name}/') for topic in offered), name
    assert not launched.pids('rviz2')
    yield
    launched.clean_end()


@launch_pytest.fixture
def rviz(launched, stand_ins):
    return launched.describe(('viewer', {'namespace': 'left', 'use_sim_time': 'true'}))


@pytest.mark.timeout(1200)
@pytest.mark.launch(fixture=rviz)
def test_rviz_gets_our_configuration_and_the_arm_in_the_policys_namespace(launched, client):
    looking = started(launched, client, 'rviz2')
    assert yaml.safe_load(Path(after(looking, '-d')).read_text())['Visualization Manager']
    arm = started(launched, client, 'robot_state_publisher')
    description = ElementTree.fromstring(parameters(arm)['robot_description'])
    assert description.get('name') == 'tabletop_arm'
    for arguments in (looking, arm):
        assert parameters(arguments)['use_sim_time'] is True
        assert {'__ns:=/left', '/tf:=tf', '/tf_static:=tf_static'} <= set(arguments)
    assert not launched.pids('foxglove_bridge')
    yield
    launched.clean_end()


@launch_pytest.fixture
def foxglove(launched, stand_ins):
    return launched.describe(('viewer', {'viewer': 'foxglove', 'description': 'false'}))


@pytest.mark.timeout(1200)
@pytest.mark.launch(fixture=foxglove)
def test_the_bridge_for_foxglove_looks_at_this_machine_only_and_commands_nothing(
    launched, client
):
    given = parameters(started(launched, client, 'foxglove_bridge'))
    assert given['address'] == '127.0.0.1'
    assert not {'clientPublish', 'services', 'parameters'} & set(given['capabilities'])
    assert not launched.pids('rviz2')
    assert not launched.pids('robot_state_publisher')
    yield
    launched.clean_end()
