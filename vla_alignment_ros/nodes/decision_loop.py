"""From raw messages to commands: newest bytes in, one inference thread, commands out.

No ROS in here. Callbacks only push bytes; they are decoded when a decision starts, so frames that
nobody decides on cost nothing. The steady clock judges silence, commands have the time of stamps.

Two ways to run: at the control rate (`tick` sends the planned action that is due, decisions come
in beside it; what is old by its stamp is not acted on either), or on arrival (every complete
observation is answered with exactly one command that carries its stamp). In both `watch`, called
by the steady clock, holds when nothing else is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
import threading
import time

from vla_alignment_ros.control.buffer import ObservationBuffer
from vla_alignment_ros.control.decisions import Command, Verdict
from vla_alignment_ros.control.pipeline import DecisionPipeline
from vla_alignment_ros.errors import WireError
from vla_alignment_ros.nodes.diagnostics import Percentiles
from vla_alignment_ros.nodes.failsafe import FailSafe
from vla_alignment_ros.nodes.interventions import Interventions
from vla_alignment_ros.nodes.outlet import CommandOutlet
from vla_alignment_ros.nodes.timekeeper import TimeKeeper
from vla_alignment_ros.observation import ObservationAssembler

SILENCE_S = 2.0  # wall time without a command: the source, or the clock of the ticks, stopped
JOIN_S = 10.0


@dataclass(frozen=True)
class LoopConfig:
    """How the loop runs."""

    on_arrival: bool = False
    watchdog_s: float = 0.0  # 0: the embodiment's max_age_s, and SILENCE_S
    intervention_timeout_s: float = 0.5  # a person who is silent for so long has let go


class DecisionLoop:
    """Serves a policy pipeline between `start` and `stop`; close it at the end.

    Args:
        pipeline: policy, gate, plan, guard and codec.
        config: how to run.
        send: publishes a command; in the inference thread or that of `tick` and `watch`.
        report: is told every decision while serving, after its command was sent.
        log: takes tracebacks of what should not happen.
        handed: is told True when a person takes the arm over, False when the policy has it.

    Whatever goes wrong with a decision, its command or its report is counted by cause, logged
    and answered with a hold; the inference thread lives on. While a person drives, what they want
    goes out in place of the policy's commands and of all holds.
    """

    def __init__(
        self,
        pipeline: DecisionPipeline,
        config: LoopConfig,
        send: Callable[[Command], None],
        report: Callable[[Verdict], None],
        log: Callable[[str], None],
        handed: Callable[[bool], None] = lambda drives: None,
    ) -> None:
        self.pipeline = pipeline
        self.embodiment = pipeline.embodiment
        self.buffer = ObservationBuffer(self.embodiment)
        if config.watchdog_s > 0.0:
            limits = self.buffer.max_age_s
            limits.update(dict.fromkeys(limits, config.watchdog_s))
        self._failsafe = FailSafe(self._hold, log)
        self.causes = self._failsafe.causes  # of holds
        self.decision_time = Percentiles()  # policy and everything around it
        self.answer_time = Percentiles()  # newest message in -> command out
        self.decisions = 0
        self.verdict: Verdict | None = None
        self._config = config
        self._outlet = CommandOutlet(send)
        timeout_s = config.intervention_timeout_s
        self.interventions = Interventions(pipeline, self.buffer, self._outlet, timeout_s, handed)
        self._report = report
        self._assembler = ObservationAssembler(self.embodiment)
        self._silence_ns = round((config.watchdog_s or SILENCE_S) * 1e9)
        self._answered_ns: int | None = None  # stamp of the last observation decided on
        self._arrived_ns = 0  # steady
        self._clock = TimeKeeper()
        self.deciding = threading.Lock()  # held while a decision is made
        self._changed = threading.Condition()
        self._closing = False
        if pipeline.unguarded:
            log(pipeline.unguarded)
        self._thread = threading.Thread(target=self._run, name='inference', daemon=True)
        self._thread.start()

    @property
    def last(self) -> Command | None:
        """The newest command; None before the first since `start`."""
        return self._outlet.last

    def push(self, topic: str, raw: bytes, now_ns: int) -> None:
        """Take one message, undecoded. now_ns: the node's clock, for what has no stamp."""
        arrived_ns = time.monotonic_ns()
        self._clock.note(now_ns, arrived_ns)
        if topic == self.embodiment.instruction_topic:
            with suppress(WireError):  # decisions on it will fail, and say why
                self.pipeline.set_instruction(self._assembler.instruction(raw))
        news = self.buffer.push(topic, raw, arrived_ns, now_ns)
        complete_ns = self.buffer.complete_ts_ns()
        if complete_ns is None:
            return
        if complete_ns != self._answered_ns:
            with self._changed:
                self._arrived_ns = arrived_ns
                self._changed.notify()
        elif self._config.on_arrival and not news and topic == self.embodiment.joint_states_topic:
            self._outlet.repeat()  # the same observation came again, so the answer was lost

    def start(self) -> None:
        """Begin to serve, from nothing but the instruction and what the sensors say next.

        Waits for a decision that was begun before `stop`: it must not reach into the new time.
        """
        with self.deciding:
            self.pipeline.reset()
            self.buffer.clear(keep_instruction=True)
            self._answered_ns = None
            self.verdict = None
            self.interventions.person.begin()
            self._outlet.open()

    def stop(self, now_ns: int) -> None:
        """Stop serving and bring the arm to rest within its limits; returns when it holds."""
        if self._outlet.shut():
            self.interventions.person.end(time.monotonic_ns())
            period_ns = round(1e9 / self.embodiment.rate_hz)
            self._outlet.rest(
                lambda step: self.pipeline.hold(now_ns + step * period_ns, 'deactivated'),
                period_ns * 1e-9,
            )

    def tick(self, now_ns: int) -> None:
        """Send what is due: one control period has come. now_ns: the clock of the stamps."""
        if not self._outlet.is_open or self._config.on_arrival:
            return
        steady_ns = time.monotonic_ns()
        self._clock.note(now_ns, steady_ns)
        with self._failsafe.during(now_ns):
            if self.interventions.drive(now_ns):
                return
            if reason := self.buffer.hold_reason(steady_ns, now_ns):
                self.causes.add('watchdog')
                self._hold(now_ns, reason)
            else:
                command = self.pipeline.command(now_ns)
                self._outlet.emit(command.explained(self.buffer.too_rare()))

    def watch(self, now_ns: int) -> None:
        """Hold when no command went out for too long; for a timer on the steady clock."""
        steady_ns = time.monotonic_ns()
        self._clock.note(now_ns, steady_ns)
        self.interventions.drives()  # where nothing else asks, a person lets go here
        if not self._outlet.is_open or steady_ns - self._outlet.sent_ns <= self._silence_ns:
            return
        with self._failsafe.during(now_ns):
            if self.interventions.drive(now_ns, answers=False):
                return
            reason = self.buffer.hold_reason(steady_ns, self._stamp_clock_ns())
            if not self._config.on_arrival:  # else nothing waits for the node's clock
                reason = self._clock.trouble(steady_ns, self._silence_ns) or reason
            reason = reason or self.buffer.too_rare() or 'no new observation'
            self.causes.add('watchdog')
            self._hold(now_ns, reason, answers=False)

    def close(self) -> None:
        """End the inference thread, and with it all commands."""
        self._outlet.shut()
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(JOIN_S)

    def key_values(self) -> dict[str, str]:
        """What there is to know, for a diagnostic message."""
        last, verdict = self.last or Command({}, None, 'idle'), self.verdict
        return {
            **last.key_values(),
            'vl_score': f'{verdict.vl_score:.3f}' if verdict is not None else '',
            'decisions': str(self.decisions),
            'delay_steps': str(self.pipeline.delay_steps),
            **self.interventions.person.key_values(time.monotonic_ns()),
            **self.decision_time.snapshot('decision'),
            **self.answer_time.snapshot('answer'),
            **self.buffer.key_values(time.monotonic_ns()),
            **{k: str(n) for k, n in self.causes.snapshot('held: ').items()},
        }

    # -- the inference thread -------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._is_due())
                if self._closing:
                    return
                arrived_ns = self._arrived_ns
            with self.deciding:
                ts_ns = self.buffer.complete_ts_ns()
                if ts_ns is None:  # `start` came in between
                    continue
                self._answered_ns = ts_ns
                with self._failsafe.during(ts_ns, steered=self.interventions.drives):
                    self._decide(ts_ns, arrived_ns)

    def _is_due(self) -> bool:
        """Whether there is a complete observation that nobody has looked at yet."""
        if not self._outlet.is_open:
            return False
        complete_ns = self.buffer.complete_ts_ns()
        if complete_ns is None or complete_ns == self._answered_ns:
            return False
        # what is too old by now is not decided on; newer frames will wake this thread
        return not self.buffer.hold_reason(time.monotonic_ns(), self._stamp_clock_ns())

    def _stamp_clock_ns(self) -> int | None:
        """What stamps are judged by; None where time is theirs, on arrival."""
        return None if self._config.on_arrival else self._clock.now_ns

    def _decide(self, ts_ns: int, arrived_ns: int) -> None:
        started = time.perf_counter()
        # a person does not wait for the policy
        unanswered = self._config.on_arrival and not self.interventions.drive(ts_ns)
        snapshot = self.buffer.snapshot(ts_ns)
        verdict = self.pipeline.decide(self._assembler.assemble(ts_ns, snapshot.raw))
        if unanswered:
            if not self.interventions.drive(ts_ns):
                self._outlet.emit(self.pipeline.command(ts_ns))
            self.answer_time.add((time.monotonic_ns() - arrived_ns) * 1e-9)
        self.decision_time.add(time.perf_counter() - started)
        self.decisions += 1
        self.verdict = verdict
        if verdict.refused:
            self.causes.add('outdated decision' if verdict.outdated else 'refused chunk')
        self._outlet.tell(self._report, verdict)

    def _hold(self, ts_ns: int, reason: str, answers: bool = True) -> None:
        self._outlet.emit(self.pipeline.hold(ts_ns, reason), answers)
