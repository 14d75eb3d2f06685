"""Command codecs: one 7-DoF action to the bytes of a robot's command topics, and back.

The policy encodes what it decided; the dataset decodes what a teleoperator or an expert sent,
through the same codec. Frame, units, joint order and gripper sign come from the embodiment and
nowhere else, so a command cannot mean one thing when it is recorded and another when it is sent.

Actions are (7,) in physical units, the gripper last and absolute: 1 is open, 0 is closed.

=================  ==========================  ==================================================
codec              action space                on the wire
=================  ==========================  ==================================================
twist              ee_delta                    TwistStamped = delta * rate_hz (m/s, rad/s) in
                                               ``action.frame``; Float64 gripper opening 0..1
joint_trajectory   joint_position              JointTrajectory, one point, ``time_from_start`` one
                                               control period; arm joints, then the gripper joint
multi_array        joint_position or           Float64MultiArray, arm joints (rad or rad/s), then
                   joint_velocity              the gripper joint's position
=================  ==========================  ==================================================

``joint_trajectory`` and ``multi_array`` carry the gripper joint's position (closed_position to
open_position). Where the hand has a driver of its own, give it a ``gripper`` topic: the array or
trajectory then holds the arm only, and the opening 0..1 goes out as a Float64. An arm that is
commanded by seven joints has no gripper in its action: all seven are joints. One of fewer than
six leaves the numbers between its joints and the gripper at 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.embodiment import (
    ACTION_DIM,
    Embodiment,
    FLOAT64,
    FLOAT64_MULTI_ARRAY,
    JOINT_TRAJECTORY,
    TWIST_STAMPED,
)
from vla_alignment_ros.errors import ControlError
from vla_alignment_ros.observation import ActionChunk

GRIPPER = 6  # index of the gripper in an action that has one


def gripper_index(embodiment: Embodiment) -> int | None:
    """Index of the gripper in an action; None for a joint space of seven arm joints."""
    if embodiment.action.space != 'ee_delta' and len(embodiment.joint_names) == ACTION_DIM:
        return None
    return GRIPPER


def checked_action(action: np.ndarray) -> np.ndarray:
    """Return one action as float64 (7,); ControlError where it is not seven finite numbers."""
    values = np.asarray(action, dtype=np.float64)
    if values.shape != (ACTION_DIM,):
        raise ControlError(f'an action has shape ({ACTION_DIM},), got {values.shape}')
    if not np.isfinite(values).all():
        bad = [int(i) for i in np.flatnonzero(~np.isfinite(values))]
        raise ControlError(f'an action must be finite, dimensions {bad} are not: {values}')
    return values


class CommandCodec(ABC):
    """What one embodiment's command looks like on the wire.

    `topics` maps each command topic to its message type. `trigger` is the topic whose message
    completes a command: encode() lists it last, and it alone carries the header stamp, if any.
    """

    spaces: tuple[str, ...] = ()
    main_topic = 'command'
    main_type = ''

    def __init__(self, embodiment: Embodiment) -> None:
        spec = embodiment.action
        codec = embodiment.command.codec
        if spec.space not in self.spaces:
            raise ControlError(
                f"embodiment '{embodiment.name}': codec '{codec}' cannot carry action space "
                f"'{spec.space}'; it carries {', '.join(self.spaces)}. Change action.space or "
                'command.codec'
            )
        named = embodiment.command.topics
        if self.main_topic not in named:
            raise ControlError(
                f"embodiment '{embodiment.name}': codec '{codec}' needs command.topics."
                f'{self.main_topic}, got {sorted(named)}'
            )
        self.embodiment = embodiment
        self.rate_hz = float(embodiment.rate_hz)
        self.frame_id = spec.frame
        self.trigger: str = named[self.main_topic]
        self.gripper_topic: str | None = named.get('gripper')
        self.gripper_index = gripper_index(embodiment)
        if self.gripper_topic is not None and self.gripper_index is None:
            raise ControlError(
                f"embodiment '{embodiment.name}': all {ACTION_DIM} action dimensions are arm "
                'joints, so nothing can be sent to command.topics.gripper: remove it'
            )
        self.topics: dict[str, str] = {}
        if self.gripper_topic is not None:
            self.topics[self.gripper_topic] = FLOAT64
        self.topics[self.trigger] = self.main_type

    def encode(self, action: np.ndarray, ts_ns: int) -> dict[str, bytes]:
        """Encode one action (7,), physical units per control step, stamped ts_ns, as CDR bytes.

        The topics come in the order in which they are to be published: the trigger is the last.
        """
        values = checked_action(action)
        raw: dict[str, bytes] = {}
        if self.gripper_topic is not None:
            raw[self.gripper_topic] = wire.encode_float64(float(values[GRIPPER]))
        raw[self.trigger] = self._encode_main(values, ts_ns)
        return raw

    def decode(self, raw: Mapping[str, bytes]) -> np.ndarray:
        """Decode the newest message of every command topic to an action (7,) float32.

        Raises ControlError for a topic that is missing, another frame, other joints, a wrong
        length or numbers that are not finite.
        """
        values = self._decode_main(self._bytes(raw, self.trigger))
        if self.gripper_topic is not None:
            values[GRIPPER] = wire.decode_float64(self._bytes(raw, self.gripper_topic))
        return checked_action(values).astype(np.float32)

    def hold(
        self,
        ts_ns: int,
        last_action: np.ndarray | None = None,
        state: np.ndarray | None = None,
    ) -> dict[str, bytes]:
        """Encode the command that keeps the robot where it is.

        last_action: (7,) what was last commanded: keeps the gripper's command, so that an object
        is not dropped. state: (S,) Observation.state: gives the gripper where nothing was
        commanded yet, and the positions to hold for `joint_position` (latch it when the hold
        begins: an arm that holds its newest measured position creeps under load).
        With neither, a gripper that has its own topic is left alone.
        """
        action, gripper_known = self.hold_action(last_action, state)
        if gripper_known:
            return self.encode(action, ts_ns)
        if self.gripper_topic is not None:
            return {self.trigger: self._encode_main(action, ts_ns)}
        raise ControlError(
            f"codec '{self.embodiment.command.codec}' sends the gripper with the arm, so a hold "
            'needs last_action or state to know where the gripper is'
        )

    def hold_action(
        self, last_action: np.ndarray | None = None, state: np.ndarray | None = None
    ) -> tuple[np.ndarray, bool]:
        """Return the action (7,) float64 that hold() encodes, and whether its gripper is known."""
        action = np.zeros(ACTION_DIM)
        known = state is not None or last_action is not None
        last = None if last_action is None else checked_action(last_action)
        measured = None if state is None else self._measured(state)  # (joints + 1,)
        if self.embodiment.action.space == 'joint_position':
            if not known:
                raise ControlError(
                    'holding a joint_position robot needs state or last_action: without them '
                    'the positions to hold are unknown'
                )
            if measured is None:
                action = last.copy()
            else:
                arm = len(self.embodiment.joint_names)
                action[:arm] = measured[:arm]
        if self.gripper_index is None:
            return checked_action(action), True
        if last is not None:
            action[GRIPPER] = last[GRIPPER]
        elif measured is not None:
            action[GRIPPER] = np.clip(measured[-1], 0.0, 1.0)
        return checked_action(action), known

    def _measured(self, state: np.ndarray) -> np.ndarray:
        count = len(self.embodiment.joint_names) + 1
        values = np.asarray(state, dtype=np.float64)
        if values.ndim != 1 or len(values) < count:
            raise ControlError(
                f'state begins with {count - 1} joint positions and the gripper opening, '
                f'got shape {values.shape}'
            )
        return values[:count]

    @staticmethod
    def _bytes(raw: Mapping[str, bytes], topic: str) -> bytes:
        try:
            return raw[topic]
        except KeyError:
            raise ControlError(
                f"no message of command topic '{topic}'; got {sorted(raw)}"
            ) from None

    @abstractmethod
    def _encode_main(self, values: np.ndarray, ts_ns: int) -> bytes:
        """Encode the trigger's message from a checked action (7,) float64."""

    @abstractmethod
    def _decode_main(self, raw: bytes) -> np.ndarray:
        """Decode the trigger's message to (7,) float64; its gripper may still be missing."""


class TwistCodec(CommandCodec):
    """ee_delta as a TwistStamped velocity (MoveIt Servo's input) and a Float64 gripper."""

    spaces = ('ee_delta',)
    main_topic = 'twist'
    main_type = TWIST_STAMPED

    def __init__(self, embodiment: Embodiment) -> None:
        super().__init__(embodiment)
        if self.gripper_topic is None:
            raise ControlError(
                f"embodiment '{embodiment.name}': codec 'twist' needs command.topics.gripper: "
                'a TwistStamped has no room for the gripper'
            )

    def _encode_main(self, values: np.ndarray, ts_ns: int) -> bytes:
        velocity = values[:GRIPPER] * self.rate_hz  # m/s, rad/s
        return wire.encode_twist_stamped(ts_ns, self.frame_id, velocity[:3], velocity[3:])

    def _decode_main(self, raw: bytes) -> np.ndarray:
        twist = wire.decode_twist_stamped(raw)
        if twist.frame_id != self.frame_id:
            raise ControlError(
                f"twist on '{self.trigger}' is in frame '{twist.frame_id}', the embodiment's "
                f"action.frame is '{self.frame_id}': send it in that frame or correct the "
                'embodiment'
            )
        values = np.zeros(ACTION_DIM)
        values[:3] = np.asarray(twist.linear, dtype=np.float64) / self.rate_hz
        values[3:GRIPPER] = np.asarray(twist.angular, dtype=np.float64) / self.rate_hz
        return values


class _JointCodec(CommandCodec):
    """What the joint codecs share: which joints are sent and how the gripper joint is scaled."""

    def __init__(self, embodiment: Embodiment) -> None:
        super().__init__(embodiment)
        self.sent_names = tuple(embodiment.joint_names)
        self._sends_gripper = self.gripper_index is not None and self.gripper_topic is None
        if self._sends_gripper:
            self.sent_names = (*self.sent_names, embodiment.gripper.joint)

    def _to_joints(self, values: np.ndarray) -> np.ndarray:
        arm = values[: len(self.embodiment.joint_names)]
        if not self._sends_gripper:
            return arm.copy()
        return np.append(arm, self.embodiment.gripper.position(values[GRIPPER]))

    def _from_joints(self, joints: np.ndarray) -> np.ndarray:
        values = np.zeros(ACTION_DIM)
        count = len(self.embodiment.joint_names)
        values[:count] = joints[:count]
        if self._sends_gripper:
            values[GRIPPER] = self.embodiment.gripper.opening(joints[count])
        return values


class JointTrajectoryCodec(_JointCodec):
    """joint_position as a one-point JointTrajectory (ros2_control's joint_trajectory_controller).

    The stamp is carried through: that controller refuses a trajectory whose end has passed, so
    stamp commands to it with the time they are sent, or 0 for "on arrival".
    """

    spaces = ('joint_position',)
    main_type = JOINT_TRAJECTORY

    def _encode_main(self, values: np.ndarray, ts_ns: int) -> bytes:
        return wire.encode_joint_trajectory(
            ts_ns,
            self.frame_id,
            self.sent_names,
            self._to_joints(values)[None],  # (1, J)
            np.array([1.0 / self.rate_hz]),
        )

    def _decode_main(self, raw: bytes) -> np.ndarray:
        sample = wire.decode_joint_trajectory(raw)
        if sorted(sample.names) != sorted(self.sent_names):
            raise ControlError(
                f"trajectory on '{self.trigger}' moves joints {list(sample.names)}, the "
                f'embodiment has {list(self.sent_names)}'
            )
        if sample.frame_id not in ('', self.frame_id):
            raise ControlError(
                f"trajectory on '{self.trigger}' is in frame '{sample.frame_id}', the "
                f"embodiment's action.frame is '{self.frame_id}'"
            )
        positions = np.asarray(sample.positions, dtype=np.float64)
        if positions.shape != (1, len(self.sent_names)):
            raise ControlError(
                f"a command on '{self.trigger}' is one point with {len(self.sent_names)} "
                f'positions, got shape {positions.shape}: send one point per control step'
            )
        order = [sample.names.index(name) for name in self.sent_names]
        return self._from_joints(positions[0, order])


class MultiArrayCodec(_JointCodec):
    """Joint positions or velocities as a Float64MultiArray (ros2_control's forward controllers).

    Those controllers have no time-out: whoever publishes must publish a hold when it stops.
    """

    spaces = ('joint_position', 'joint_velocity')
    main_type = FLOAT64_MULTI_ARRAY

    def _encode_main(self, values: np.ndarray, ts_ns: int) -> bytes:
        return wire.encode_float64_multi_array(self._to_joints(values))

    def _decode_main(self, raw: bytes) -> np.ndarray:
        joints = np.asarray(wire.decode_float64_multi_array(raw), dtype=np.float64)
        if joints.shape != (len(self.sent_names),):
            raise ControlError(
                f"array on '{self.trigger}' has shape {joints.shape}, the embodiment sends "
                f'{len(self.sent_names)} values: {list(self.sent_names)}'
            )
        return self._from_joints(joints)


CODECS: dict[str, type[CommandCodec]] = {
    'twist': TwistCodec,
    'joint_trajectory': JointTrajectoryCodec,
    'multi_array': MultiArrayCodec,
}


def make_codec(embodiment: Embodiment) -> CommandCodec:
    """Return the codec that the embodiment names; ControlError lists the known ones."""
    try:
        codec = CODECS[embodiment.command.codec]
    except KeyError:
        raise ControlError(
            f"embodiment '{embodiment.name}': unknown command codec "
            f"'{embodiment.command.codec}'; known are {', '.join(sorted(CODECS))}"
        ) from None
    return codec(embodiment)


def encode_chunk(embodiment: Embodiment, chunk: ActionChunk) -> bytes:
    """Encode an action chunk for ``~/action_chunk`` as CDR bytes of a JointTrajectory.

    Header stamp: the observation that the chunk answers. Joint names: the seven action names,
    not joints of the robot. Positions: actions (H, 7) in physical units per control step, as
    they are. Point i is what holds from i/rate_hz to (i+1)/rate_hz after the stamp, so its
    time_from_start is (i+1)/rate_hz seconds.
    """
    actions = np.asarray(chunk.actions, dtype=np.float64)
    if actions.ndim != 2 or actions.shape[1] != ACTION_DIM:
        raise ControlError(f'a chunk has shape (H, {ACTION_DIM}), got {actions.shape}')
    times_s = (np.arange(len(actions)) + 1) / chunk.rate_hz
    names = embodiment.action.names
    return wire.encode_joint_trajectory(
        chunk.ts_ns, embodiment.action.frame, names, actions, times_s
    )


def decode_chunk(embodiment: Embodiment, raw: bytes, instruction: str = '') -> ActionChunk:
    """Decode what encode_chunk() made; the instruction is not on the wire, so it is given.

    Raises ControlError for other names, another frame or no points.
    """
    sample = wire.decode_joint_trajectory(raw)
    if tuple(sample.names) != tuple(embodiment.action.names):
        raise ControlError(
            f"chunk names {list(sample.names)} are not the embodiment's action names "
            f'{list(embodiment.action.names)}'
        )
    if sample.frame_id != embodiment.action.frame:
        raise ControlError(
            f"chunk is in frame '{sample.frame_id}', the embodiment's action.frame is "
            f"'{embodiment.action.frame}'"
        )
    if not len(sample.positions) or sample.time_from_start_s[0] <= 0:
        raise ControlError('a chunk needs at least one point, its time_from_start above 0')
    return ActionChunk(
        ts_ns=sample.ts_ns,
        actions=np.asarray(sample.positions, dtype=np.float32),
        rate_hz=1.0 / float(sample.time_from_start_s[0]),
        instruction=instruction,
    )
