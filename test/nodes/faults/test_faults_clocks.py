"""Clocks that jump, stop or never begin: a hold with the reason, within the limits, then on."""

from __future__ import annotations

import dataclasses
import threading

from decision_bench import Bench, OPEN_GATE, SightedPolicy, Steady, STEP, T0
import numpy as np
import pytest
from tabletop_robot import GRIPPER, moves, NODE, Robot, STATUS, TWIST

from vla_alignment_ros import wire
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.nodes.policy_node import PolicyNode

HOUR, SECOND, NS = 3600 * 10**9, 10**9, 1e-9
TABLETOP = Embodiment.load('tabletop')
# from the fastest motion to a standstill takes four steps
GENTLE = dataclasses.replace(
    TABLETOP, action=dataclasses.replace(TABLETOP.action, max_acceleration=(0.5,) * 6 + (400.0,))
)


class Run:
    """A loop whose two clocks, and the sensors' clock, are the test's."""

    def __init__(self, bench: Bench, steady: Steady) -> None:
        self.bench, self.steady = bench, steady
        self.now_ns = self.stamps_ns = T0 + 2 * HOUR
        bench.loop.start()
        bench.say(now_ns=self.now_ns)

    def step(self, decided: bool = True):
        """One control period; whether what is shown is decided on. The newest command."""
        for clock in ('now_ns', 'stamps_ns'):
            setattr(self, clock, getattr(self, clock) + STEP)
        self.steady.ns += STEP
        (self.bench.go_on if decided else self.bench.show)(self.stamps_ns, self.now_ns)
        self.bench.loop.tick(self.now_ns)
        return self.bench.commands[-1]

    def moving(self) -> None:
        for _ in range(8):
            command = self.step()
        assert command.state == 'go' and abs(command.action[0]) == pytest.approx(0.02)

    def within_limits(self) -> None:
        actions = np.array([c.action for c in self.bench.commands if c.action is not None])
        v = actions[:, :6] / (STEP * NS)
        most = np.array(self.bench.embodiment.action.max_acceleration[:6]) * STEP * NS
        change = np.abs(np.diff(v, axis=0)).max(axis=0)
        assert (change <= most * (1 + 1e-6)).all(), f'changes of speed {change}, allowed {most}'


@pytest.fixture
def run(make_bench, steady) -> Run:
    bench = make_bench(
        on_arrival=False, watchdog_s=0.0, policy=SightedPolicy(), embodiment=GENTLE
    )
    return Run(bench, steady)


@pytest.mark.parametrize(
    ('jump_ns', 'reason'),
    [(5 * SECOND, 's old by its stamp'), (HOUR, 'set use_sim_time'),
     (-5 * SECOND, "s ahead of the node's clock"), (-HOUR, 'set use_sim_time')],
)  # fmt: skip
def test_a_jump_of_the_nodes_clock_holds_until_the_sensors_follow(run, jump_ns, reason):
    run.moving()
    run.now_ns += jump_ns
    for _ in range(6):
        held = run.step(decided=False)
        assert held.state == 'hold' and reason in held.reason
    assert reason in run.bench.loop.key_values()['reason']
    assert not held.action[:6].any()
    run.stamps_ns = run.now_ns
    run.moving()
    run.within_limits()


@pytest.mark.parametrize('jump_ns', [5 * SECOND, HOUR, -SECOND, -5 * SECOND, -HOUR])
def test_a_jump_of_all_clocks_at_once_leaves_the_motion_within_its_limits(run, jump_ns):
    """A machine that is set to the right time: everybody's stamps jump, and the arm is moving."""
    run.moving()
    run.now_ns += jump_ns
    run.stamps_ns += jump_ns
    run.bench.loop.tick(run.now_ns)
    run.moving()
    run.within_limits()


def test_a_clock_that_stops_and_goes_on_is_a_hold_and_then_motion(run):
    run.moving()
    run.steady.ns += 3 * SECOND
    for _ in range(6):
        run.steady.ns += STEP
        run.bench.show(run.stamps_ns + 1, run.now_ns)  # sensors speak, but no tick comes
        run.bench.loop.watch(run.now_ns)
        held = run.bench.commands[-1]
        assert held.state == 'hold' and 'time has stood still for' in held.reason
    assert not held.action[:6].any()
    run.moving()
    run.within_limits()


def test_a_clock_that_begins_late_is_a_hold_and_then_motion(run):
    begin_ns, run.now_ns = run.now_ns, 0
    run.steady.ns += 3 * SECOND
    run.bench.loop.watch(0)
    assert 'nothing has come on /clock' in run.bench.commands[-1].reason
    run.now_ns = begin_ns
    run.moving()


class Simulation:
    """A simulated clock and sensors by it, told by a thread until it is closed."""

    def __init__(self, ros, robot: Robot) -> None:
        self.robot, self.now_ns = robot, 100 * SECOND
        self.ticks = True
        self.lag_ns = 0  # of the sensors
        self._clock = ros.speak('/clock', 'rosgraph_msgs/msg/Clock')
        ros.matched(self._clock)
        self._lock, self._done = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def jump(self, by_ns: int, lag_ns: int = 0) -> None:
        with self._lock:
            self.now_ns += by_ns
            self.lag_ns = lag_ns

    def _run(self) -> None:
        while not self._done.wait(0.02):
            with self._lock:
                if self.ticks:
                    self.now_ns += STEP // 2
                    self._clock.publish(wire.encode_clock(self.now_ns))
                self.robot.show(self.now_ns - self.lag_ns)

    def close(self) -> None:
        self._done.set()
        self._thread.join()


def test_a_node_in_simulated_time_holds_for_every_trouble_with_its_clock_and_goes_on(
    ros, checkpoint
):
    robot = Robot(ros)
    node = ros.add(
        PolicyNode, checkpoint=str(checkpoint), threads=1, use_sim_time=True, watchdog_s=5.0,
        status_period_s=0.1, **{'gate.enabled': False},
    )  # fmt: skip
    assert node.bring_up(), node.last_error
    node._loop.pipeline.exchange(SightedPolicy(), OPEN_GATE)
    robot.matched()
    for topic in (TWIST, GRIPPER):
        ros.until(lambda topic=topic: ros.client.count_publishers(topic) == 1, topic)
    statuses = ros.listen(f'{NODE}/status', STATUS, raw=False)
    robot.say()

    def says(text: str) -> None:
        seen = len(statuses.messages)
        statuses.wait_for(lambda found: any(text in m.message for m in found[seen:]))

    def moving() -> None:
        seen = len(robot.twists.messages)
        robot.twists.wait_for(lambda raws: any(
            moves(wire.decode_twist_stamped(raw)) for raw in raws[seen:]
        ))  # fmt: skip
        says('go')

    robot.show(100 * SECOND)
    node._loop._silence_ns = SECOND // 2  # patience of the watchdog; ages keep the 5 s
    says('nothing has come on /clock yet')
    simulation = Simulation(ros, robot)
    try:
        moving()
        simulation.jump(8 * SECOND, lag_ns=8 * SECOND)
        says('s old by its stamp')
        simulation.jump(0)
        moving()
        simulation.jump(-9 * SECOND, lag_ns=-9 * SECOND)
        says("s ahead of the node's clock")
        simulation.jump(0)
        moving()
        simulation.ticks = False
        says('time has stood still')
        assert not moves(wire.decode_twist_stamped(robot.twists.messages[-1]))
        simulation.ticks = True
        moving()
        simulation.jump(-60 * SECOND)  # everything at once, as when it is reset
        moving()
    finally:
        simulation.close()
    assert max(robot.stamps()) < 1e12
