"""The client that drives other nodes: an answer that gets lost is asked for again."""

from __future__ import annotations

from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
import pytest
from rclpy.task import Future

from vla_alignment_ros.errors import SimulationError
from vla_alignment_ros.nodes.client import Client

NODE = 'forgetful'


@pytest.fixture
def forgetful(ros):
    """Requests to a node that never answers the first one."""
    requests = []

    async def answer(request, response):
        requests.append(request)
        if len(requests) == 1:
            await Future()  # never done
        response.current_state.id = State.PRIMARY_STATE_ACTIVE
        return response

    ros.client.create_service(GetState, f'{NODE}/get_state', answer)
    return requests


@pytest.fixture
def client(ros_domain):
    client = Client('asking', ros_domain, lambda: None, timeout_s=30.0)
    yield client
    client.close()


def test_a_state_whose_answer_is_lost_is_asked_for_again(forgetful, client):
    assert client.lifecycle_state(NODE) == State.PRIMARY_STATE_ACTIVE
    assert len(forgetful) == 2


def test_other_requests_are_sent_once(forgetful, client):
    request = GetState.Request()
    with pytest.raises(SimulationError, match='waited 3 s for forgetful/get_state to answer'):
        client.call(GetState, f'{NODE}/get_state', request, timeout_s=3.0)
    assert len(forgetful) == 1
