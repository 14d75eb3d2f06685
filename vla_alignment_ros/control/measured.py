"""Where an arm is measured to be now, from the newest joint states in its buffer."""

from __future__ import annotations

import threading

import numpy as np

from vla_alignment_ros.control.buffer import ObservationBuffer
from vla_alignment_ros.errors import WireError
from vla_alignment_ros.observation import ObservationAssembler

SOURCE = 'joint_states'


class MeasuredArm:
    """Reads the joint states of a buffer. Thread-safe.

    Args:
        buffer: receives them, beside whatever else.
    """

    def __init__(self, buffer: ObservationBuffer) -> None:
        self._buffer = buffer
        self._topic = buffer.embodiment.joint_states_topic
        self._assembler = ObservationAssembler(buffer.embodiment)
        self._lock = threading.Lock()

    def state(self, steady_ns: int, ts_ns: int | None = None) -> tuple[int, np.ndarray] | None:
        """Return stamp and state (S,); None where there is none, or it is too old or broken.

        steady_ns: the steady clock. ts_ns: time of the command that it is for; where it is given,
        a stamp that is further off than the age limit is of another clock, and of no use.
        """
        found = self._find(steady_ns, ts_ns)
        return None if isinstance(found, str) else found

    def unknown(self, steady_ns: int, ts_ns: int | None = None) -> str:
        """Why `state` is None, in words; empty where it is not."""
        found = self._find(steady_ns, ts_ns)
        return found if isinstance(found, str) else ''

    def _find(self, steady_ns: int, ts_ns: int | None) -> tuple[int, np.ndarray] | str:
        limit_s = self._buffer.max_age_s[SOURCE]
        age_s = self._buffer.ages(steady_ns).get(SOURCE, 0.0)
        raw = self._buffer.snapshot().raw.get(self._topic)
        if raw is None:
            return f'no {SOURCE} yet'
        if age_s > limit_s:
            return f'{SOURCE} are {age_s:.2f} s old (limit {limit_s:.2f} s)'
        try:
            with self._lock:
                state, stamp = self._assembler.state(raw)
        except WireError as error:
            return f'{SOURCE}: {error}'
        if ts_ns is not None and abs(ts_ns - stamp) * 1e-9 > limit_s:
            return (
                f"the stamps of {SOURCE} and the node's clock are over {limit_s:.2f} s apart: "
                "against a simulation set use_sim_time, else check the robot's clock"
            )
        return stamp, state
