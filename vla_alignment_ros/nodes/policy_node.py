"""Acts: cameras, joint states and an instruction in, commands out (lifecycle).

Everything about the robot comes from the checkpoint's embodiment. Publishes the command codec's
topics, `~/action_chunk` (JointTrajectory: the seven action names, H points),
`~/alignment_score` (Float64MultiArray; dimensions labelled vl_score, action_score, margin),
`~/decision` and `~/status` (DiagnosticStatus), `/diagnostics`, and while somebody looks
`~/grounding/image` (Image) and `~/chunk_markers` (MarkerArray: where the chunk leads). `~/reload`
and the parameter `checkpoint` exchange the model.

A person takes over by commanding on the same topics under `teleop/` (`intervention_prefix`), and
the policy has the arm back once they are silent; `intervention` (Bool, latched) says who drives.

In mode `shadow` it scores the actions of another policy, from `~/input/…` (see `other_input`), and
has no command topics; in mode `inline` it passes them on, through the same gate and guard.

It holds while inputs are missing or too old, while the alignment gate says so, and when it is
deactivated or interrupted; a hold goes on being published.
"""

from __future__ import annotations

from functools import partial
import sys
from typing import Any

from rclpy.clock import Clock, ClockType

from vla_alignment_ros import wire
from vla_alignment_ros.control.codecs import encode_chunk
from vla_alignment_ros.control.decisions import Verdict
from vla_alignment_ros.embodiment import BOOL, Embodiment, INTERVENTION_TOPIC
from vla_alignment_ros.nodes.decision_loop import DecisionLoop
from vla_alignment_ros.nodes.diagnostics import ERROR, OK, status_message, StatusBoard, WARN
from vla_alignment_ros.nodes.lifecycle import ManagedNode
from vla_alignment_ros.nodes.models import load_model, Model
from vla_alignment_ros.nodes.parameters import Parameters
from vla_alignment_ros.nodes.pictures import Pictures, TOPICS
from vla_alignment_ros.nodes.policy_inputs import PolicyInputs
from vla_alignment_ros.nodes.qos import advertise, latched, RawPublishers, reliable
from vla_alignment_ros.nodes.reloads import Reloads
from vla_alignment_ros.nodes.runtime import run
from vla_alignment_ros.nodes.schemas import ACT, PolicyParameters, SHADOW
from vla_alignment_ros.nodes.serving import Serving
from vla_alignment_ros.nodes.timers import Timers

CHUNK_TOPIC = '~/action_chunk'
SCORE_TOPIC = '~/alignment_score'
SCORES = ('vl_score', 'action_score', 'margin')
STATUS = 'diagnostic_msgs/msg/DiagnosticStatus'
IDLE_STATUS_S = 4.0  # rarer than this, and aggregators take a node for dead (after 5 s)


class PolicyNode(ManagedNode):
    """Plumbing around a DecisionLoop."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('policy_node', **kwargs)
        self._serving: Serving | None = None
        self._reloads = Reloads(self, lambda: self._serving, self._publish_status)
        self.settings = Parameters(
            self, PolicyParameters, self._reloads.approve, self._reloads.changed
        )
        self._commands: RawPublishers | None = None
        self._inputs: PolicyInputs | None = None
        mode = self.settings.current.mode
        self._acts = mode == ACT
        told = {SCORE_TOPIC: 'std_msgs/msg/Float64MultiArray'}
        if self._acts:
            told[CHUNK_TOPIC] = 'trajectory_msgs/msg/JointTrajectory'
        self._scores = RawPublishers(self, told)
        self._pictures = RawPublishers(self, TOPICS)
        driver = {INTERVENTION_TOPIC: BOOL} if mode != SHADOW else {}
        self._driver = RawPublishers(self, driver, lambda topic: latched())
        self._decision = advertise(self, '~/decision', STATUS, reliable(50))
        self._board = StatusBoard(self)
        # never the node's clock: what watches over silence must not stop with a simulation
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._ticking = Timers(self)
        self._rest()
        self._publish_status()

    def begin(self) -> None:
        """Come up by itself, where that is wanted."""
        if self.settings.current.autostart:
            self.bring_up()

    # -- lifecycle ------------------------------------------------------------------------------

    def configure(self) -> None:
        """Load the checkpoint, warm it up and listen; nothing is commanded yet."""
        self._reloads.loading = True
        try:
            chosen = self.settings.current
            model = load_model(chosen.checkpoint, chosen.device, chosen.threads)
            self._serve(chosen, model)
        finally:
            self._reloads.loading = False
        self.get_logger().info(f'serving {model}')

    def _serve(self, chosen: PolicyParameters, model: Model) -> None:
        embodiment = model.policy.embodiment
        # bound here: a decision may still be under way when the node forgets all of this
        mute = chosen.mode == SHADOW
        topics = {} if mute else embodiment.command_topics()
        commands = self._commands = RawPublishers(self, topics)
        self._serving = Serving(
            chosen,
            model,
            send=lambda command: commands.publish({} if mute else command.messages),
            report=partial(self._tell, embodiment),
            pictures=Pictures(
                embodiment,
                chosen.picture_hz,
                self._pictures.wanted,
                self._pictures.publish,
                self.get_logger().error,
            ),
            log=self.get_logger().error,
            handed=lambda drives: self._driver.publish(
                {INTERVENTION_TOPIC: wire.encode_bool(drives)} if not mute else {}
            ),
        )
        self._inputs = PolicyInputs(self, chosen, self._serving, self._now_ns)

    def activate(self) -> None:
        """Begin to command."""
        self._serving.start()
        period_s = 1.0 / self._serving.embodiment.rate_hz
        self._ticking.set(
            (period_s, self._on_tick, None),  # the robot's time, or a simulation's
            (period_s, self._on_watch, self._steady),
            (self.settings.current.status_period_s, self._publish_status, self._steady),
        )

    def deactivate(self) -> None:
        """Bring the arm to rest; the last thing said is a hold."""
        self._serving.loop.stop(self._now_ns())
        self._rest()

    def _rest(self) -> None:
        """Have nothing to do but to say now and then that the node is there."""
        period_s = max(self.settings.current.status_period_s, IDLE_STATUS_S)
        self._ticking.set((period_s, self._board.nod, self._steady))

    def release(self) -> None:
        """Stop listening and forget the model."""
        if self._inputs is not None:
            self._inputs.destroy()
            self._inputs = None
        self._rest()  # where an activation failed half-way
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.close()
        if self._commands is not None:
            self._commands.destroy()
            self._commands = None

    def entered(self) -> None:
        """Say at once what has become of the node: while it is idle it says so but rarely."""
        self._publish_status()

    def close(self) -> None:
        """Leave the arm held, free everything, and end all threads."""
        super().close()
        self._reloads.close()

    # -- time ----------------------------------------------------------------------------

    @property
    def _loop(self) -> DecisionLoop | None:
        serving = self._serving
        return None if serving is None else serving.loop

    def _on_tick(self) -> None:
        loop = self._loop
        if loop is not None:
            loop.tick(self._now_ns())

    def _on_watch(self) -> None:
        loop = self._loop
        if loop is not None:
            loop.watch(self._now_ns())

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    # -- messages out ---------------------------------------------------------------------------

    def _tell(self, embodiment: Embodiment, verdict: Verdict) -> None:
        """Publish one decision; the command went out before."""
        scores = [verdict.vl_score, verdict.action_score, verdict.margin]
        messages = {SCORE_TOPIC: wire.encode_float64_multi_array(scores, SCORES)}
        if not verdict.refused and self._acts:
            messages[CHUNK_TOPIC] = encode_chunk(embodiment, verdict.chunk)
        self._scores.publish(messages)
        name = self.get_fully_qualified_name()
        level = OK if verdict.gate == 'go' else WARN
        self._decision.publish(
            status_message(name, level, verdict.gate, verdict.key_values())
        )

    def _publish_status(self) -> Any:
        serving, name = self._serving, self.get_fully_qualified_name()
        values = {k: str(n) for k, n in self._reloads.causes.snapshot('reload refused: ').items()}
        if serving is None:
            level = ERROR if self.last_error else OK
            status = status_message(name, level, self.last_error or 'not configured', values)
        else:
            level, text = serving.judge() if self.is_active else (OK, 'inactive')
            inputs = self._inputs
            values |= serving.key_values() | (inputs.key_values() if inputs is not None else {})
            status = status_message(name, level, text, values, serving.embodiment.name)
        self._board.tell(status)
        return status


def main(args: list[str] | None = None) -> int:
    """Entry point."""
    return run(PolicyNode, args)


if __name__ == '__main__':
    sys.exit(main())
