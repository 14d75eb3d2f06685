"""The one path from an observation to a command: policy, gate, plan, guard, codec.

The policy node and the evaluation's rollouts both run this object, so what is measured is what
runs on the robot. It is given its time and its policy; it starts no thread and asks no clock.

Thread-safe: `decide` (slow) belongs on an inference thread, `command` and `hold` (fast) on the
control rate's. The policy runs outside the lock, so a long decision never delays a command.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from vla_alignment_ros.control.arm import GuardedArm, Sent
from vla_alignment_ros.control.codecs import gripper_index
from vla_alignment_ros.control.continuation import Continuation
from vla_alignment_ros.control.decisions import (
    Command,
    DRIVEN,
    PipelineConfig,
    PolicyLike,
    Verdict,
)
from vla_alignment_ros.control.executor import ChunkExecutor, REALTIME
from vla_alignment_ros.control.gate import AlignmentGate, HOLD, SLOW
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.observation import Observation


class DecisionPipeline:
    """Runs one policy on one robot. See the module for its threads."""

    def __init__(self, embodiment: Embodiment, policy: PolicyLike, config: PipelineConfig) -> None:
        self.embodiment = embodiment
        self.policy = policy
        self.config = config
        self._arm = GuardedArm(embodiment)
        self.codec = self._arm.codec
        self._gate = _make_gate(config)
        self._executor = ChunkExecutor(
            embodiment.rate_hz,
            execution=config.execution,
            decay=config.ensemble_decay,
            gripper_index=gripper_index(embodiment),
        )
        self._lock = threading.Lock()
        self._epoch = 0  # counts resets, so that a decision begun before one is recognised
        self._instruction = ''
        self._instruction_id = 0
        self._told = False  # by set_instruction: then observations do not change it
        self._driven = False  # by a person
        self._handovers = 0  # counted, so that a decision begun before one is recognised
        self._start()

    @property
    def needs_help(self) -> str:
        """Why a person should look, in words; empty while nobody has to."""
        return self._gate.needs_help

    @property
    def delay_steps(self) -> int:
        """Control periods that pass between an observation and its chunk's first action."""
        with self._lock:
            return self._executor.delay_steps

    @property
    def unguarded(self) -> str:
        """Limits of the embodiment that cannot be kept, and why; empty where all are."""
        return self._arm.unguarded

    def reset(self) -> None:
        """Forget plan, gate, motion, who drives and how many decisions; not the instruction."""
        with self._lock:
            self._arm.guard.reset()
            self._driven = False
            self._start()

    def set_instruction(self, instruction: str) -> None:
        """Take a new instruction over as soon as it is known, before any decision for it.

        What was planned for the one before stops within the limits, and a decision that is being
        made for it is discarded when it ends. instruction: normalised, as in an Observation; the
        same one again changes nothing. Once this was called, observations do not change it.
        """
        with self._lock:
            self._told = True
            self._adopt(instruction)

    def exchange(self, policy: PolicyLike, config: PipelineConfig) -> None:
        """Go on with another policy of the same embodiment; of config the gate and what is asked.

        The motion keeps its limits, and the old plan is executed until the new policy has decided.
        The gate begins anew: what another policy believed opens nothing.
        """
        gate = _make_gate(config)
        policy.reset()
        with self._lock:
            self._epoch += 1
            self.policy, self.config, self._gate = policy, config, gate
            self._plan_is_foreign = True

    def decide(self, observation: Observation, grounding: bool = False) -> Verdict:
        """
        Ask the policy about an observation and plan its answer in.

        grounding: also ask which regions the words mean (slower; nothing depends on it).

        Starts anew by itself where the observations' time runs backwards or jumps (a restarted
        simulation, another bag). A chunk that holds a value that is not finite is refused: the
        plan is dropped and the robot holds until the next decision. What a reset, another
        instruction or a person overtook is refused too, and changes nothing. What is
        planned while a person drives is dropped when they let go.
        """
        with self._lock:
            if self._is_new_stream(observation.ts_ns):
                self._start()
            if not self._told:
                self._adopt(observation.instruction)
            fresh = self._decisions == 0
            if fresh and self._arm.guard.at_rest and not self._driven:
                # else it brakes, or a person moves it: only clocks jump, no arm does
                self._arm.guard.reset(observation.state)
            fresh, self._is_back = fresh or self._is_back, False
            self._newest_ts_ns = observation.ts_ns
            seed = self.config.seed * 1_000_003 + self._decisions
            self._decisions += 1
            epoch, instruction_id = self._epoch, self._instruction_id
            handovers = self._handovers
            timely = observation.instruction == self._instruction
            plan = self._plan_ahead(observation.ts_ns)
        if fresh:
            self.policy.reset()
        asked: dict[str, Any] = {'seed': seed}
        if self.config.candidates is not None:
            asked['candidates'] = self.config.candidates
        if grounding:
            asked['grounding'] = True
        if plan is not None:
            asked['plan'] = plan
        decided = self.policy.step(observation, **asked)
        with self._lock:
            overtaken = ''
            if epoch != self._epoch:
                overtaken = 'a reset came while it was being made'
            elif not timely or instruction_id != self._instruction_id:
                overtaken = 'another instruction came meanwhile'
            elif handovers != self._handovers:
                overtaken = 'a person took over or let go meanwhile'
            if overtaken:
                return Verdict.of(decided, HOLD, overtaken, outdated=True)
            if self._plan_is_foreign:
                self._executor.flush()
                self._plan_is_foreign = False
            refused = self._arm.guard.check(decided.chunk.actions)
            gate = self._gate.update(
                decided.vl_score, observation.instruction, observation.ts_ns
            )
            if refused is not None:
                self._executor.flush()
                gate = HOLD
            else:
                self._executor.submit(decided.chunk)
            self._state, self._reason = gate, refused or ''
            if gate == HOLD and not refused:
                self._reason = f'alignment score {decided.vl_score:.2f}: {gate}'
            self._arm.see(observation.ts_ns, observation.state)
            return Verdict.of(decided, gate, refused)

    def command(self, ts_ns: int) -> Command:
        """Return the command for the control step that begins at ts_ns."""
        with self._lock:
            if self._state == HOLD:
                return self._stop(ts_ns, self._reason)
            action = self._executor.next(ts_ns)
            if action is None:
                return self._stop(ts_ns, 'the planned actions are used up')
            speed = self.config.slow_speed if self._state == SLOW else 1.0
            return self._moved(self._arm.step(ts_ns, action, speed), self._state)

    def drive(
        self, ts_ns: int, wish: np.ndarray, measured: tuple[int, np.ndarray] | None = None
    ) -> Command:
        """Return the command for what a person wants now (7,), for the step that begins at ts_ns.

        From here to `release` the person has the arm: the plan is dropped, and neither gate nor
        watchdogs have a say, but the limits do. Decisions go on being made, and move nothing.

        measured: stamp and state (S,) of the newest joint states, where they are known.
        """
        with self._lock:
            if not self._driven:
                self._hand_over(True)
            if measured is not None:
                if not self._arm.guard.knows_hold:
                    self._arm.guard.reset(measured[1])
                self._arm.see(*measured)
            self._gate.interrupt()  # there is somebody who looks
            return self._moved(self._arm.step(ts_ns, wish), DRIVEN)

    def release(self) -> None:
        """A person lets go, if one drives: the arm holds until a decision begun after this."""
        with self._lock:
            if self._driven:
                self._hand_over(False)

    def opening(self) -> float | None:
        """What the gripper was commanded last, 1 = open; None where that is not known."""
        with self._lock:
            return self._arm.guard.opening

    def hold(self, ts_ns: int, reason: str) -> Command:
        """Drop the plan and return the next step of a stop; for watchdogs."""
        with self._lock:
            self._executor.flush()
            self._gate.interrupt()
            self._state, self._reason = HOLD, reason
            return self._stop(ts_ns, reason)

    # -- inside, the lock held ------------------------------------------------------------------

    def _start(self) -> None:
        self._epoch += 1
        self._decisions = 0
        self._newest_ts_ns: int | None = None
        self._plan_is_foreign = False  # made by the policy before this one
        self._is_back = False  # the policy, after a person drove: it begins anew
        self._state, self._reason = HOLD, 'no decision yet'
        self._gate.reset()
        self._executor.reset()
        self._arm.forget()

    def _adopt(self, instruction: str) -> None:
        if instruction == self._instruction and self._instruction_id:
            return
        self._instruction = instruction
        self._instruction_id += 1
        self._gate.reset()
        self._executor.flush()
        self._state, self._reason = HOLD, f"no decision yet for '{instruction}'"

    def _hand_over(self, driven: bool) -> None:
        self._driven, self._is_back = driven, not driven
        self._handovers += 1
        self._executor.flush()
        self._state, self._reason = HOLD, 'no decision yet since a person drove'

    def _plan_ahead(self, ts_ns: int) -> Continuation | None:
        """What a policy has to go on from; nothing where the arm stands still."""
        if self.config.execution != REALTIME or self._state == HOLD:
            return None
        return self._executor.ahead(ts_ns)

    def _is_new_stream(self, ts_ns: int) -> bool:
        if self._newest_ts_ns is None:
            return False
        gap_s = (ts_ns - self._newest_ts_ns) * 1e-9
        return gap_s < 0.0 or gap_s > self.config.max_gap_s

    def _stop(self, ts_ns: int, reason: str) -> Command:
        return self._command(self._arm.stop(ts_ns), HOLD, reason)

    def _moved(self, sent: Sent, state: str) -> Command:
        if sent.refused is not None:
            return self._command(sent, HOLD, sent.refused)
        return self._command(sent, state)

    def _command(self, sent: Sent, state: str, reason: str = '') -> Command:
        return Command(
            sent.messages,
            sent.action,
            state,
            reason,
            sent.clipped,
            instruction=self._instruction,
            instruction_id=self._instruction_id,
            needs_help=self._gate.needs_help,
        )


def _make_gate(config: PipelineConfig) -> AlignmentGate:
    return AlignmentGate(
        go_threshold=config.go,
        hold_threshold=config.hold,
        hysteresis=config.hysteresis,
        confirm=config.confirm,
        dwell=config.dwell,
        help_s=config.help_s,
    )
