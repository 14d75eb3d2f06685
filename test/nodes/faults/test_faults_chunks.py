"""A chunk with one value that is not finite: refused whole, counted, held, recovered from."""

from __future__ import annotations

from itertools import product

from decision_bench import Bench, OPEN_GATE, SightedPolicy, STEP, T0, way_of
import numpy as np
import pytest

from vla_alignment_ros.control.decisions import PipelineConfig
from vla_alignment_ros.control.executor import EXECUTIONS

HORIZON = 8
BAD = (np.nan, np.inf, -np.inf)
PLACES = list(product(range(HORIZON), range(7), BAD))  # row, dimension, value
SAMPLE = PLACES[::8]  # every dimension with every value


def spoiled(row: int, dimension: int, value: float):
    def spoil(chunk: np.ndarray) -> np.ndarray:
        chunk[row, dimension] = value
        return chunk

    return spoil


class Steps:
    """A loop that is shown one observation per control period."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.now_ns = bench, T0
        bench.loop.start()
        bench.say()

    def go_on(self):
        self.now_ns += STEP
        self.bench.go_on(self.now_ns)
        return self.tick()

    def tick(self):
        self.bench.loop.tick(self.now_ns)
        return self.bench.commands[-1]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ('execution', 'places'),
    [pytest.param('newest', SAMPLE, id='newest-sampled'),
     *(pytest.param(name, PLACES, marks=pytest.mark.long, id=name) for name in EXECUTIONS)],
)  # fmt: skip
def test_one_value_that_is_not_finite_refuses_its_chunk_and_the_next_good_one_moves(
    make_bench, steady, execution, places
):
    assert {(dim, str(value)) for _, dim, value in places} == set(
        product(range(7), map(str, BAD))
    )
    policy = SightedPolicy(horizon=HORIZON)
    config = PipelineConfig(**{**vars(OPEN_GATE), 'execution': execution})
    bench = make_bench(on_arrival=False, watchdog_s=0.0, policy=policy, config=config)
    steps = Steps(bench)
    for number, (row, dimension, value) in enumerate(places, start=1):
        policy.spoil = None
        for _ in range(3):  # so that there are plans which the bad chunk could be mixed with
            good = steps.go_on()
        assert good.state == 'go', (row, dimension, value, good.reason)
        np.testing.assert_allclose(good.action[:3], way_of((0, 0, 255)), atol=1e-7)
        policy.spoil = spoiled(row, dimension, value)
        bad = steps.go_on()
        name = bench.embodiment.action.names[dimension]
        refused = bench.verdicts[-1].refused or 'nothing was refused'
        assert f'{name} of step {row} is not finite' in refused
        for held in (bad, steps.tick(), steps.tick()):
            assert held.state == 'hold' and f'{name} of step {row}' in held.reason
        assert bench.loop.key_values()['held: refused chunk'] == str(number)
    actions = np.array([command.action for command in bench.commands])
    decoded = [bench.loop.pipeline.codec.decode(c.messages) for c in bench.commands]
    assert np.isfinite(actions).all() and np.isfinite(decoded).all()
    holds = [c for c in bench.commands if c.state == 'hold']
    assert len(holds) == 3 * len(places) and not np.array([c.action[:6] for c in holds]).any()
    assert bench.logged == [] and bench.loop.decisions == 4 * len(places)
