"""Pictures of where the words look, drawn beside the decisions and only for those who look.

No ROS in here. The maps come with a decision (a hundredth of its time); drawing and encoding have
a thread of their own, and a decision that finds it busy goes without a picture.
"""

from __future__ import annotations

from collections.abc import Callable
import threading
import time
import traceback
from typing import Any

from vla_alignment_ros import wire
from vla_alignment_ros.control.decisions import PipelineConfig, Verdict
from vla_alignment_ros.evaluation.overlay import grounding_picture
from vla_alignment_ros.nodes.runtime import Worker
from vla_alignment_ros.observation import Observation

FRAME = 'grounding'  # frame_id of the pictures


class Pictures:
    """Draws some decisions; close it at the end.

    Args:
        rate_hz: pictures a second, at most; 0: none.
        wanted: whether anybody looks.
        publish: takes the CDR bytes of an rgb8 image, stamped as its observation; in the drawing
            thread.
        log: takes tracebacks of what should not happen.
    """

    def __init__(
        self,
        rate_hz: float,
        wanted: Callable[[], bool],
        publish: Callable[[bytes], None],
        log: Callable[[str], None],
    ) -> None:
        self.drawn = 0
        self._period_s = 1.0 / rate_hz if rate_hz > 0.0 else float('inf')
        self._wanted, self._publish, self._log = wanted, publish, log
        self._next_s = 0.0 if rate_hz > 0.0 else float('inf')  # steady
        self._busy = threading.Lock()  # held from a picture's offer until it is published
        self._worker = Worker('pictures')

    def due(self) -> bool:
        """Whether the decision that begins now is to be drawn."""
        return time.monotonic() >= self._next_s and not self._busy.locked() and self._wanted()

    def offer(self, observation: Observation, verdict: Verdict, config: PipelineConfig) -> None:
        """Draw a decision that knows where its words point; returns at once."""
        if not verdict.grounding or not self._busy.acquire(blocking=False):
            return
        self._next_s = time.monotonic() + self._period_s
        job = self._worker.submit(self._draw, observation, verdict, config)
        job.add_done_callback(lambda done: self._busy.release())

    def close(self) -> None:
        """Finish the picture under way and draw no more."""
        self._worker.close()

    def _draw(self, observation: Observation, verdict: Verdict, config: PipelineConfig) -> None:
        try:
            self._publish(_encoded(observation, verdict, config))
            self.drawn += 1
        except Exception:  # noqa: BLE001 - a picture is never worth a decision
            self._log(traceback.format_exc())


def _encoded(observation: Observation, verdict: Verdict, config: PipelineConfig) -> bytes:
    grounding: Any = verdict.grounding
    reason = verdict.refused or ('' if verdict.gate == 'go' else _why(verdict, config))
    picture = grounding_picture(
        observation.images,
        grounding,
        verdict.instruction,
        verdict.vl_score,
        verdict.gate,
        (config.hold, config.go),
        reason,
    )
    return wire.encode_image(picture, verdict.ts_ns, FRAME)


def _why(verdict: Verdict, config: PipelineConfig) -> str:
    if verdict.vl_score >= config.go:
        return 'the score is being confirmed'
    if verdict.vl_score < config.hold:
        return 'the words do not fit what is seen'
    return 'not sure that the words fit what is seen'
