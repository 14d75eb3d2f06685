"""The truth survives its trip over a topic to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

from vla_alignment_ros.errors import SimulationError
from vla_alignment_ros.nodes.truth import encode_truth, TruthView
from vla_alignment_ros.sim.expert import Expert
from vla_alignment_ros.sim.tasks import sample_episode
from vla_alignment_ros.sim.world import TabletopWorld


def test_an_expert_behind_the_topic_acts_as_one_beside_the_world():
    spec = sample_episode(5, 'train')
    with TabletopWorld() as world:
        view = TruthView()
        world.reset(spec)
        beside, behind = Expert(world), Expert(view)
        view.update(encode_truth(world, 1))
        beside.reset(spec)
        behind.reset(view.spec)
        assert view.spec == spec
        for _ in range(12):
            view.update(encode_truth(world, 1))
            assert behind.done == beside.done
            action = beside.action()
            np.testing.assert_array_equal(behind.action(), action)
            world.step(action[:3] * 10.0, action[3:6] * 10.0, action[6])


@pytest.mark.parametrize('text', ['', '{}', '[1]', '{"spec": 3}'])
def test_other_texts_are_refused_by_name(text: str):
    with pytest.raises(SimulationError, match='not a '):
        TruthView().update(text)
