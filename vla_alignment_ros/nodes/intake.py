"""The receiving end of a command codec: parts come in on several topics, whole commands go out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.control.codecs import CommandCodec


@dataclass(frozen=True)
class ReceivedCommand:
    """One whole command: the stamp it carries (ns, 0 without a header) and its action (7,)."""

    ts_ns: int
    action: np.ndarray


class CommandIntake:
    """Joins the parts of a command. Not thread-safe.

    The stamped part (the codec's `trigger`) completes a command. The others have no stamp; they
    are published before it, so the newest of each is taken. Strict, for lock-step: a command is
    whole only when every part has come anew since the last one; so it does not matter which part
    was faster. Otherwise the last known part stands, and a gripper that nobody ever commanded is
    open. A trigger whose stamp (ns) is not wanted is dropped at once and joins nothing.
    """

    def __init__(
        self,
        codec: CommandCodec,
        strict: bool,
        wanted: Callable[[int], bool] = lambda ts_ns: True,
    ) -> None:
        self._codec = codec
        self._strict = strict
        self._wanted = wanted
        self.unwanted = 0  # triggers dropped
        self._stamp = 0  # of the trigger in `_parts`
        self._parts: dict[str, bytes] = {}
        if not strict and codec.gripper_topic is not None:
            self._parts[codec.gripper_topic] = wire.encode_float64(1.0)

    def push(self, topic: str, raw: bytes) -> ReceivedCommand | None:
        """Take one part; the command it completes, if it does.

        Raises:
            WireError, ControlError: the parts are not a command; they are forgotten.
        """
        trigger = self._codec.trigger
        if topic == trigger:
            stamp = wire.stamp_ns(raw, self._codec.topics[trigger]) or 0
            if not self._wanted(stamp):
                self.unwanted += 1
                return None
            self._stamp = stamp
        self._parts[topic] = raw
        if not set(self._codec.topics) <= set(self._parts):
            return None
        parts = dict(self._parts)
        if self._strict:
            self._parts.clear()
        else:
            del self._parts[trigger]
        return ReceivedCommand(self._stamp, self._codec.decode(parts))
