"""The SROS 2 policy allows what the nodes really use in the graph, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
import itertools
from xml.etree import ElementTree

import pytest
from std_msgs.msg import String

from vla_alignment_ros.embodiment import package_path
from vla_alignment_ros.nodes.expert_node import ExpertNode
from vla_alignment_ros.nodes.policy_node import PolicyNode
from vla_alignment_ros.nodes.servo_node import ServoNode
from vla_alignment_ros.nodes.simulator_node import SimulatorNode
from vla_alignment_ros.nodes.teleop_node import TeleopNode
from vla_alignment_ros.nodes.training_node import TrainingNode

POLICY = package_path('config', 'security', 'policy.xml')
# (element, attribute) -> how a node is asked for what it uses
USES = {
    ('topics', 'publish'): 'get_publisher_names_and_types_by_node',
    ('topics', 'subscribe'): 'get_subscriber_names_and_types_by_node',
    ('services', 'reply'): 'get_service_names_and_types_by_node',
    ('services', 'request'): 'get_client_names_and_types_by_node',
}
# Schema 0.2.0: what an element may hold, and which attributes it must and may have.
CHILDREN = {
    'policy': {'enclaves'},
    'enclaves': {'enclave'},
    'enclave': {'profiles'},
    'profiles': {'profile'},
    'profile': {'topics', 'services'},
    'topics': {'topic'},
    'services': {'service'},
}
OTHERS = ('training_node', 'simulator_node', 'servo_node', 'expert_node')
ATTRIBUTES = {
    'policy': {'version'},
    'enclave': {'path'},
    'profile': {'ns', 'node'},
}


def profiles() -> Iterator[tuple[str, ElementTree.Element]]:
    """(enclave, profile) of the whole file."""
    for enclave in ElementTree.parse(POLICY).iter('enclave'):
        for profile in enclave.iter('profile'):
            yield enclave.get('path'), profile


def allowed(enclave: str) -> dict[tuple[str, str], set[str]]:
    """What the enclave's nodes may use, by the fully qualified name."""
    found = {use: set() for use in USES}
    for path, profile in profiles():
        if path == enclave:
            for rules in profile:
                for attribute, qualifier in rules.attrib.items():
                    assert qualifier == 'ALLOW'
                    names = {_absolute(profile, item.text) for item in rules}
                    assert not names & found[rules.tag, attribute], 'named twice'
                    found[rules.tag, attribute] |= names
    return found


def _absolute(profile: ElementTree.Element, name: str) -> str:
    namespace = profile.get('ns').rstrip('/')
    if name.startswith('/'):
        return name
    if name.startswith('~/'):
        return f'{namespace}/{profile.get("node")}{name[1:]}'
    return f'{namespace}/{name}'


def used(node) -> dict[tuple[str, str], set[str]]:
    """What a node has in the graph now."""
    name, namespace = node.get_name(), node.get_namespace()
    return {
        use: {topic for topic, _ in getattr(node, method)(name, namespace)}
        for use, method in USES.items()
    }


def _made(node) -> set[str]:
    """Names of all that a node itself knows to have made."""
    topics = {part.topic_name for part in (*node.publishers, *node.subscriptions)}
    services = {part.srv_name for part in (*node.services, *node.clients)}
    return topics | {node.resolve_service_name(name) for name in services}


def test_the_file_keeps_to_the_schema():
    for element in ElementTree.parse(POLICY).iter():
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
        if element.tag in ('topics', 'services'):
            assert len(element.attrib) == 1 and (element.tag, *element.attrib) in USES
        else:
            assert set(element.attrib) == ATTRIBUTES.get(element.tag, set())
        if element.tag in ('topic', 'service'):
            assert element.text == element.text.strip() != ''
        else:
            assert len(element), f'{element.tag} is empty'
    assert ElementTree.parse(POLICY).getroot().get('version') == '0.2.0'


def test_every_node_and_mode_has_an_enclave_of_its_own():
    modes = [('policy_node', f'policy_node{mode}') for mode in ('', '_inline', '_shadow')]
    others = [(name, name) for name in OTHERS]
    others += [('teleop_node', 'teleop_node'), ('teleop_node', 'teleop_node_takeover')]
    found = [(path, profile.get('node'), profile.get('ns')) for path, profile in profiles()]
    assert found == [(f'/vla_alignment_ros/{path}', name, '/') for name, path in modes + others]


@pytest.mark.parametrize(
    ('kind', 'mode'),
    [(PolicyNode, 'act'), (PolicyNode, 'inline'), (PolicyNode, 'shadow'), (TrainingNode, ''),
     (SimulatorNode, ''), (ServoNode, ''), (ExpertNode, ''), (TeleopNode, ''),
     (TeleopNode, 'takeover')],
)  # fmt: skip
def test_a_node_is_allowed_exactly_what_it_uses(ros, checkpoint, tmp_path, kind, mode):
    given = {
        PolicyNode: {'checkpoint': str(checkpoint), 'use_sim_time': True, 'mode': mode},
        TrainingNode: {
            'folder': str(tmp_path), 'use_sim_time': True, 'training.offer_to': 'policy_node',
        },
        SimulatorNode: {'reset_on_start': False},  # it is the clock
        ServoNode: {'use_sim_time': True},
        ExpertNode: {'use_sim_time': True},
        TeleopNode: {'use_sim_time': True, 'prefix': 'teleop' if mode else ''},
    }
    node = ros.add(kind, **given[kind])
    if hasattr(node, 'bring_up'):
        assert node.bring_up(), node.last_error
    enclave = f'/vla_alignment_ros/{node.get_name()}'
    rules = allowed(enclave if mode in ('', 'act') else f'{enclave}_{mode}')
    polls = itertools.count(1)

    def known() -> bool:
        # the graph learns of a node's parts one by one. On a busy machine the middleware can take
        # an older list of them for the newest; it says all of it anew when anything is made
        if next(polls) % 100 == 0:
            ros.client.destroy_publisher(ros.client.create_publisher(String, 'anything', 1))
        return _made(node) <= set().union(*used(node).values())

    ros.until(known, 'the graph')
    ros.until(lambda: all(rules[use] <= used(node)[use] for use in USES), 'all that is allowed')
    found = used(node)
    for use in USES:
        assert found[use] == rules[use], f'{node.get_name()}: {" ".join(use)}'
    assert found['topics', 'publish'] and found['services', 'reply']  # the graph did answer
