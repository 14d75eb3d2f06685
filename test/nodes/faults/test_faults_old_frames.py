"""No command is made from a frame that is too old: each source in turn, by either clock.

A SightedPolicy's commands tell which frames they were made from. What is old carries marks of its
own, so that a command from it would be known.
"""

from __future__ import annotations

from decision_bench import Bench, SightedPolicy, Steady, STEP, T0, way_of
import numpy as np
import pytest

SOURCES = ('front', 'wrist', 'joint_states')
CLOCKS = {'simulated time': T0, 'system time': 1_790_000_000 * 10**9}
FEW, ALL = 15, 1000  # trials of each test
counts = pytest.mark.parametrize('trials', [FEW, pytest.param(ALL, marks=pytest.mark.long)])


class Trials:
    """Shows a loop fresh frames and old ones, on clocks that stand still in between."""

    def __init__(self, bench: Bench, steady: Steady, now_ns: int) -> None:
        self.bench, self.steady, self.now_ns = bench, steady, now_ns
        self.rng = np.random.default_rng(3)
        self.looked = 0  # how often the inference thread had something old to decide on
        bench.loop.start()
        bench.say(now_ns=now_ns)

    def limit_s(self, source: str) -> float:
        return self.bench.loop.buffer.max_age_s[source]

    def pass_by(self, seconds: float, steady_s: float | None = None) -> None:
        self.now_ns += round(seconds * 1e9)
        self.steady.ns += round((seconds if steady_s is None else steady_s) * 1e9)

    def marks(self, old: str | None = None) -> tuple[int, ...]:
        """Of fresh frames even, of old ones odd."""
        return tuple(2 * int(self.rng.integers(127)) + (name == old) for name in SOURCES)

    def show(self, source: str, ts_ns: int) -> None:
        """Only this source, with an old one's mark."""
        others = tuple(name for name in SOURCES if name != source)
        self.bench.show(ts_ns, self.now_ns, but=others, marks=self.marks(old=source))

    def fresh(self) -> None:
        """What is fresh is acted on, whatever was before; and on nothing else."""
        self.pass_by(STEP * 1e-9)
        marks, decided, sent = self.marks(), len(self.bench.verdicts), len(self.bench.commands)
        self.bench.show(self.now_ns, marks=marks)
        self.bench.until(lambda: len(self.bench.verdicts) > decided)
        self.bench.loop.tick(self.now_ns)
        moved = self.bench.commands[-1]
        assert len(self.bench.commands) == sent + 1 and moved.state == 'go', moved.reason
        np.testing.assert_allclose(moved.action[:3], way_of(marks), atol=1e-7)
        self.fresh_ns, self.fresh_marks = self.now_ns, marks

    def refused(self, source: str) -> None:
        """Nobody decides on what was shown, and what goes out is a hold that says why."""
        bench, loop = self.bench, self.bench.loop
        complete_ns = loop.buffer.complete_ts_ns()
        if complete_ns not in (None, loop._answered_ns):
            bench.until(lambda: bench.looks[-1][0] == complete_ns)
            assert not bench.looks[-1][1], 'an old frame is decided on'
            self.looked += 1
        sent = len(bench.commands)
        loop.tick(self.now_ns)
        assert len(bench.commands) == sent + 1
        hold = bench.commands[-1]
        assert hold.state == 'hold', f'a command from an old frame: {hold.action}'
        assert source in hold.reason
        assert source in loop.key_values()['reason']


def late(trials: Trials, source: str) -> None:
    """Old by its stamp: it was under way for too long, while the others spoke."""
    age_s = trials.limit_s(source) + 10 ** trials.rng.uniform(-3, -0.3)
    stamp_ns = trials.now_ns + STEP // 10
    steps = int(np.ceil(age_s / 0.1))
    for _ in range(steps):
        trials.pass_by(age_s / steps)
        trials.bench.show(trials.now_ns, but=(source,), marks=trials.marks())
    trials.pass_by(STEP // 10 * 1e-9)
    trials.show(source, stamp_ns)


def overtaken(trials: Trials, source: str) -> None:
    """Old by its stamp: one from before comes again, of any age."""
    age_s = trials.limit_s(source) + 10 ** trials.rng.uniform(-3, 2)
    trials.show(source, trials.now_ns - round(age_s * 1e9))
    trials.bench.show(trials.now_ns, but=(source,), marks=trials.marks())


def left_lying(trials: Trials, source: str) -> None:
    """Old by its receipt, though its stamp is young: time is slow, as in a slow simulation."""
    wait_s = trials.limit_s(source) + 10 ** trials.rng.uniform(-3, 0)
    trials.pass_by(0.05)
    slow_s = trials.rng.uniform(0.0, 0.1)
    trials.show(source, trials.now_ns + round(trials.rng.uniform(0.0, slow_s) * 1e9))
    steps = int(np.ceil(wait_s / 0.1))
    for _ in range(steps):  # the others say the same again: they are alive
        trials.pass_by(slow_s / steps, steady_s=wait_s / steps)
        trials.bench.show(
            trials.fresh_ns, trials.now_ns, but=(source,), marks=trials.fresh_marks
        )
    trials.bench.show(trials.now_ns, but=(source,), marks=trials.marks())


@counts
@pytest.mark.timeout(600)
@pytest.mark.parametrize('clock', CLOCKS)
@pytest.mark.parametrize('old', [late, overtaken, left_lying], ids=lambda way: way.__name__)
def test_no_command_comes_from_a_frame_that_is_too_old(make_bench, steady, clock, old, trials):
    bench = make_bench(on_arrival=False, watchdog_s=0.0, policy=SightedPolicy())
    run = Trials(bench, steady, CLOCKS[clock])
    run.fresh()
    for trial in range(trials):
        source = SOURCES[trial % len(SOURCES)]
        old(run, source)
        run.refused(source)
        run.fresh()
    seen = np.array(bench.policy.seen)  # (N, 3)
    assert not (seen % 2).any(), 'the policy was asked about a frame that was too old'
    assert len(seen) == len(bench.verdicts) == trials + 1
    assert [c.state for c in bench.commands].count('hold') == trials
    assert run.looked == trials or old is overtaken  # of that, the loop looks at nothing at all


def test_what_a_source_said_before_a_silence_is_not_mixed_with_what_others_said_after(
    make_bench, steady
):
    """The front camera speaks again; the newest instant that all have reached is before that."""
    bench = make_bench(on_arrival=False, watchdog_s=0.0, policy=SightedPolicy())
    run = Trials(bench, steady, T0)
    run.fresh()
    for _ in range(9):
        run.pass_by(STEP * 1e-9)
        bench.show(run.now_ns, but=('front',), marks=(1, 1, 1))
    run.pass_by(STEP * 1e-9 / 2)
    bench.show(run.now_ns, but=('wrist', 'joint_states'), marks=(3, 1, 1))
    assert bench.loop.buffer.complete_ts_ns() is None
    run.fresh()
    assert len(bench.policy.seen) == 2
