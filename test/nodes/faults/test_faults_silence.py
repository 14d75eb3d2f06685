"""Whatever source falls silent: the arm holds in time, and says which it was."""

from __future__ import annotations

from decision_bench import Bench, SightedPolicy, Steady, STEP, T0
import pytest

SOURCES = ('front', 'wrist', 'joint_states')
REACTION_S = 0.1


class Hours:
    """Time in small steps, in which sensors speak and the control rate ticks."""

    GRAIN_NS = 10_000_000

    def __init__(self, bench: Bench, steady: Steady, phase: int) -> None:
        self.bench, self.steady = bench, steady
        self.now_ns, self.grains = T0, phase
        bench.loop.start()

    def go_on(self, silent: tuple[str, ...] = ()) -> None:
        """One grain; every tenth the sensors speak, and every tenth, in between, a tick comes."""
        self.now_ns += self.GRAIN_NS
        self.steady.ns += self.GRAIN_NS
        self.grains += 1
        if self.now_ns % STEP == 0:
            decided, loop = len(self.bench.verdicts), self.bench.loop
            self.bench.show(self.now_ns, but=silent)
            if not silent and not loop.buffer.missing():
                self.bench.until(lambda: len(self.bench.verdicts) > decided)
        if self.grains % 10 == 0:
            self.bench.loop.tick(self.now_ns)
            self.bench.loop.watch(self.now_ns)


@pytest.mark.parametrize('watchdog_s', [0.0, 0.25, 1.0])
@pytest.mark.parametrize('phase', [0, 3, 9])
@pytest.mark.parametrize('silent', SOURCES)
def test_silence_of_one_source_is_a_hold_in_time_that_names_it(
    make_bench, steady, silent, watchdog_s, phase
):
    bench = make_bench(on_arrival=False, watchdog_s=watchdog_s, policy=SightedPolicy())
    hours = Hours(bench, steady, phase)
    bench.say()
    for _ in range(40):
        hours.go_on()
    assert bench.commands[-1].state == 'go'
    last_ns, counted = hours.now_ns, bench.loop.causes.snapshot().get('watchdog', 0)
    limit_s = bench.loop.buffer.max_age_s[silent]
    assert limit_s == (watchdog_s or bench.embodiment.max_age_s[silent])
    while bench.commands[-1].state == 'go':
        hours.go_on(silent=(silent,))
        assert hours.now_ns - last_ns < 5e9
    waited_s = (hours.now_ns - last_ns) * 1e-9
    assert limit_s < waited_s <= limit_s + REACTION_S + STEP * 1e-9
    values = bench.loop.key_values()
    assert values['state'] == 'hold' and values['held: watchdog'] == str(counted + 1)
    assert f'{silent} is' in values['reason'] and f'limit {limit_s:.2f} s' in values['reason']
    assert not any(f'{other} is' in values['reason'] for other in SOURCES if other != silent)
    while bench.commands[-1].state == 'hold':  # it speaks again
        hours.go_on()
        assert hours.now_ns - last_ns < 10e9


@pytest.mark.parametrize('never', [*SOURCES, 'instruction'])
def test_what_was_never_said_holds_and_is_named(make_bench, steady, never):
    bench = make_bench(on_arrival=False, watchdog_s=0.0)
    hours = Hours(bench, steady, 0)
    if never != 'instruction':
        bench.say()
    for _ in range(60):
        hours.go_on(silent=(never,))
    assert {c.state for c in bench.commands} == {'hold'}
    assert bench.loop.key_values()['reason'] == f'no {never} yet'
    assert not bench.policy.entered.is_set()


@pytest.mark.parametrize(
    ('on_arrival', 'reason'), [(False, 'time has stood still'), (True, 'front is 0.70 s old')]
)
def test_silence_of_everything_is_a_hold_though_no_tick_comes(
    make_bench, steady, on_arrival, reason
):
    """A simulation that died takes its clock with it; the steady clock goes on."""
    bench = make_bench(on_arrival=on_arrival, watchdog_s=0.5, policy=SightedPolicy())
    bench.loop.start()
    bench.say()
    bench.show(T0)
    bench.until(lambda: bench.verdicts)
    bench.loop.tick(T0)
    bench.until(lambda: bench.commands and bench.commands[-1].state == 'go')
    for tenth in range(1, 8):
        steady.ns += STEP
        bench.loop.watch(T0)
        held = bench.commands[-1].state == 'hold'
        assert held == (tenth > 5), f'{tenth / 10} s after the last command'
    assert reason in bench.commands[-1].reason
    count = len(bench.commands)
    bench.loop.watch(T0)
    assert len(bench.commands) == count + 1  # the hold goes on being said
