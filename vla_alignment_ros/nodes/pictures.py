"""Pictures of where the words look and of what is planned, for those who look.

No ROS in here. They are made beside the decisions, in a thread of their own: a decision that
finds it busy goes without. The maps for a picture come with a decision (a hundredth of its time).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import threading
import time
import traceback
from typing import Any

from vla_alignment_ros import wire
from vla_alignment_ros.control.decisions import PipelineConfig, Verdict
from vla_alignment_ros.control.preview import ChunkPreview, MARKER_ARRAY
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ControlError
from vla_alignment_ros.evaluation.overlay import grounding_picture
from vla_alignment_ros.nodes.runtime import Worker
from vla_alignment_ros.observation import Observation

PICTURE_TOPIC = '~/grounding/image'
MARKERS_TOPIC = '~/chunk_markers'
TOPICS = {PICTURE_TOPIC: 'sensor_msgs/msg/Image', MARKERS_TOPIC: MARKER_ARRAY}
FRAME = 'grounding'  # frame_id of the pictures


class Pictures:
    """Draws some decisions; close it at the end.

    Args:
        embodiment: whose decisions they are.
        rate_hz: pictures a second, at most; 0: none. Markers come with every decision.
        wanted: whether anybody looks at one of TOPICS.
        publish: takes CDR bytes by topic: an rgb8 image or markers, stamped as their observation;
            in the drawing thread.
        log: takes tracebacks of what should not happen.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        rate_hz: float,
        wanted: Callable[[str], bool],
        publish: Callable[[Mapping[str, bytes]], None],
        log: Callable[[str], None],
    ) -> None:
        self.drawn = 0
        self._period_s = 1.0 / rate_hz if rate_hz > 0.0 else float('inf')
        self._wanted, self._publish, self._log = wanted, publish, log
        self._next_s = 0.0 if rate_hz > 0.0 else float('inf')  # steady
        # each held from the offer until it is published
        self._drawing, self._marking = threading.Lock(), threading.Lock()
        self._worker = Worker('pictures')
        try:
            self._preview = ChunkPreview(embodiment)
        except ControlError:  # this robot's chunks lead nobody knows where
            self._preview = None

    def due(self) -> bool:
        """Whether the decision that begins now is to be drawn."""
        free = time.monotonic() >= self._next_s and not self._drawing.locked()
        return free and self._wanted(PICTURE_TOPIC)

    def offer(self, observation: Observation, verdict: Verdict, config: PipelineConfig) -> None:
        """Draw a decision: where its words point, if it knows, and its plan; returns at once."""
        if self._preview is not None and not verdict.refused and self._wanted(MARKERS_TOPIC):
            self._submit(self._marking, self._mark, observation, verdict)
        if verdict.grounding and self._submit(
            self._drawing, self._draw, observation, verdict, config
        ):
            self._next_s = time.monotonic() + self._period_s

    def close(self) -> None:
        """Finish the picture under way and draw no more."""
        self._worker.close()

    def _submit(self, busy: threading.Lock, job: Callable[..., None], *args: Any) -> bool:
        if not busy.acquire(blocking=False):
            return False
        self._worker.submit(self._guarded, job, *args).add_done_callback(
            lambda done: busy.release()
        )
        return True

    def _guarded(self, job: Callable[..., None], *args: Any) -> None:
        try:
            job(*args)
        except Exception:  # noqa: BLE001 - a picture is never worth a decision
            self._log(traceback.format_exc())

    def _draw(self, observation: Observation, verdict: Verdict, config: PipelineConfig) -> None:
        self._publish({PICTURE_TOPIC: _encoded(observation, verdict, config)})
        self.drawn += 1

    def _mark(self, observation: Observation, verdict: Verdict) -> None:
        self._publish({MARKERS_TOPIC: self._preview.markers(observation.state, verdict)})


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
