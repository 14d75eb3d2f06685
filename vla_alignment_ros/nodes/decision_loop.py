"""From raw messages to commands: newest bytes in, one inference thread, commands out.

No ROS in here. Callbacks only push bytes; they are decoded when a decision starts, so frames that
nobody decides on cost nothing. The steady clock judges ages, stamps are the time of the commands.

Two ways to run: at the control rate (`tick` sends the planned action that is due, decisions come
in beside it), or on arrival (every complete observation is answered with exactly one command that
carries its stamp). In both `watch`, called by the steady clock, holds when nothing else is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import threading
import time
import traceback

import numpy as np

from vla_alignment_ros.control.buffer import ObservationBuffer
from vla_alignment_ros.control.pipeline import Command, DecisionPipeline, Verdict
from vla_alignment_ros.errors import VlaError
from vla_alignment_ros.nodes.diagnostics import Causes, Percentiles
from vla_alignment_ros.observation import ObservationAssembler

SILENCE_S = 2.0  # wall time without a command: the source, or the clock of the ticks, stopped
STOP_STEPS = 50  # at most so many commands to come to rest
JOIN_S = 10.0


@dataclass(frozen=True)
class LoopConfig:
    """How the loop runs."""

    on_arrival: bool = False
    watchdog_s: float = 0.0  # 0: the embodiment's max_age_s, and SILENCE_S


class DecisionLoop:
    """Serves one policy pipeline between `start` and `stop`; close it at the end.

    Args:
        pipeline: policy, gate, plan, guard and codec.
        config: how to run.
        send: publishes a command; in the inference thread or that of `tick` and `watch`.
        report: is told every decision, after its command was sent.
        log: takes tracebacks of what should not happen.
    """

    def __init__(
        self,
        pipeline: DecisionPipeline,
        config: LoopConfig,
        send: Callable[[Command], None],
        report: Callable[[Verdict], None],
        log: Callable[[str], None],
    ) -> None:
        self.pipeline = pipeline
        self.embodiment = pipeline.embodiment
        self.buffer = ObservationBuffer(self.embodiment)
        if config.watchdog_s > 0.0:
            limits = self.buffer.max_age_s
            limits.update(dict.fromkeys(limits, config.watchdog_s))
        self.causes = Causes()
        self.decision_time = Percentiles()  # policy and everything around it
        self.answer_time = Percentiles()  # newest message in -> command out
        self.decisions = 0
        self.last: Command | None = None
        self.verdict: Verdict | None = None
        self._config = config
        self._send, self._report, self._log = send, report, log
        self._assembler = ObservationAssembler(self.embodiment)
        self._silence_ns = round((config.watchdog_s or SILENCE_S) * 1e9)
        self._answered_ns: int | None = None  # stamp of the last observation decided on
        self._answer: Command | None = None  # to it
        self._sent_ns = 0  # steady
        self._arrived_ns = 0  # steady
        self._serving = False
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name='inference', daemon=True)
        self._thread.start()

    # -- from the node --------------------------------------------------------------------------

    def push(self, topic: str, raw: bytes, now_ns: int) -> None:
        """Take one message, undecoded. now_ns: the node's clock, for what has no stamp."""
        arrived_ns = time.monotonic_ns()
        news = self.buffer.push(topic, raw, arrived_ns, now_ns)
        complete_ns = self.buffer.complete_ts_ns()
        if complete_ns is None:
            return
        if complete_ns != self._answered_ns:
            with self._changed:
                self._arrived_ns = arrived_ns
                self._changed.notify()
        elif not news and topic == self.embodiment.joint_states_topic:
            self._repeat()

    def start(self) -> None:
        """Begin to serve, from nothing but what the sensors say next."""
        self.pipeline.reset()
        self._answered_ns = None
        with self._sending:
            self._sent_ns = time.monotonic_ns()
            self.last = self._answer = None
            self._serving = True
        with self._changed:
            self._changed.notify()

    def stop(self, now_ns: int) -> None:
        """Stop serving and bring the arm to rest within its limits; returns when it holds."""
        with self._sending:
            was, self._serving = self._serving, False
        if not was:
            return
        period_s = 1.0 / self.embodiment.rate_hz
        previous = None
        pause = threading.Event()  # never set: a paced wait, not a sleep on the executor
        for step in range(STOP_STEPS):
            command = self.pipeline.hold(now_ns + round(step * period_s * 1e9), 'deactivated')
            self.last = command
            self._send(command)
            if command.action is None or np.array_equal(command.action, previous):
                return
            previous = command.action
            pause.wait(period_s)

    def tick(self, now_ns: int) -> None:
        """Send what is due: one control period has come. now_ns: the clock of the stamps."""
        if not self._serving or self._config.on_arrival:
            return
        reason = self.buffer.hold_reason(time.monotonic_ns())
        if reason:
            self._hold(now_ns, reason)
        else:
            self._emit(self.pipeline.command(now_ns))

    def watch(self, now_ns: int) -> None:
        """Hold when no command went out for too long; for a timer on the steady clock."""
        steady_ns = time.monotonic_ns()
        if self._serving and steady_ns - self._sent_ns > self._silence_ns:
            reason = self.buffer.hold_reason(steady_ns) or 'no new observation'
            self._hold(now_ns, reason, answers=False)

    def close(self) -> None:
        """End the inference thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(JOIN_S)

    def key_values(self) -> dict[str, str]:
        """What there is to know, for a diagnostic message."""
        last, verdict = self.last, self.verdict
        ages = self.buffer.ages(time.monotonic_ns())
        return {
            'state': last.state if last is not None else 'idle',
            'reason': last.reason if last is not None else '',
            'instruction': verdict.instruction if verdict is not None else '',
            'vl_score': f'{verdict.vl_score:.3f}' if verdict is not None else '',
            'decisions': str(self.decisions),
            **self.decision_time.snapshot('decision'),
            **self.answer_time.snapshot('answer'),
            **{f'age_{name}_s': f'{age:.3f}' for name, age in ages.items()},
            **{f'late: {name}': str(n) for name, n in self.buffer.late.items() if n},
            **{f'broken: {name}': str(n) for name, n in self.buffer.broken.items() if n},
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
            self._decide(arrived_ns)

    def _is_due(self) -> bool:
        """Whether there is a complete observation that nobody has looked at yet."""
        if not self._serving:
            return False
        complete_ns = self.buffer.complete_ts_ns()
        if complete_ns is None or complete_ns == self._answered_ns:
            return False
        # what is too old by now is not decided on; newer frames will wake this thread
        return not self.buffer.hold_reason(time.monotonic_ns())

    def _decide(self, arrived_ns: int) -> None:
        ts_ns = self.buffer.complete_ts_ns()
        if ts_ns is None:
            return
        self._answered_ns = ts_ns
        started = time.perf_counter()
        try:
            snapshot = self.buffer.snapshot(ts_ns)
            verdict = self.pipeline.decide(self._assembler.assemble(ts_ns, snapshot.raw))
        except VlaError as error:
            self._fail(ts_ns, type(error).__name__, str(error))
            return
        except Exception as error:  # noqa: BLE001 - a robot must not run on in silence
            self._log(traceback.format_exc())
            self._fail(ts_ns, type(error).__name__, f'{type(error).__name__}: {error}')
            return
        if self._config.on_arrival:
            self._emit(self.pipeline.command(ts_ns))
            self.answer_time.add((time.monotonic_ns() - arrived_ns) * 1e-9)
        self.decision_time.add(time.perf_counter() - started)
        self.decisions += 1
        self.verdict = verdict
        if verdict.refused:
            self.causes.add('refused chunk')
        self._report(verdict)

    def _fail(self, ts_ns: int, cause: str, reason: str) -> None:
        if self.causes.add(cause) == 1:
            self._log(f'no decision: {reason} (further ones are only counted)')
        self._emit(self.pipeline.hold(ts_ns, reason))

    # -- sending --------------------------------------------------------------------------------

    def _hold(self, ts_ns: int, reason: str, answers: bool = True) -> None:
        self.causes.add('watchdog')
        self._emit(self.pipeline.hold(ts_ns, reason), answers)

    def _emit(self, command: Command, answers: bool = True) -> None:
        with self._sending:  # so that nothing follows the hold of `stop`
            if not self._serving:
                return
            self.last = command
            if answers:
                self._answer = command
                self._sent_ns = time.monotonic_ns()
            self._send(command)

    def _repeat(self) -> None:
        """Say the answer again: the same observation came again, so it was lost."""
        with self._sending:
            if self._serving and self._config.on_arrival and self._answer is not None:
                self._sent_ns = time.monotonic_ns()
                self._send(self._answer)
