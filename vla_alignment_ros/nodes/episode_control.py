"""Begins and ends episodes: by service, with the robot's motion, or where the policy needs help.

What may wait for the disk runs in a worker's thread, in order; callbacks never do.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
import threading
import time

from vla_alignment_ros import wire
from vla_alignment_ros.data.bag_format import custom_data
from vla_alignment_ros.data.motion import AutoEpisodes, AutoRule, DISCARD, START
from vla_alignment_ros.data.recorder import EpisodeRecorder
from vla_alignment_ros.errors import ConfigError, VlaError, WireError
from vla_alignment_ros.nodes.runtime import Worker
from vla_alignment_ros.nodes.training_parameters import TrainingParameters

HELP = 'asked_for_help'
STATUS = 'diagnostic_msgs/msg/DiagnosticStatus'


class EpisodeControl:
    """What a training node's services, its joint states and the policy's status ask for.

    Args:
        recorder: the one that records now; a VlaError where none does.
        settings: the node's parameters now.
        now_ns: the node's clock.
        wiring: held while an episode begins, so that subscriptions stay as they are.
        log: takes what nobody is answered with.
    """

    def __init__(
        self,
        recorder: Callable[[], EpisodeRecorder],
        settings: Callable[[], TrainingParameters],
        now_ns: Callable[[], int],
        wiring: threading.Lock,
        log: Callable[[str], None],
    ) -> None:
        self.worker = Worker('episode')
        self._recorder, self._settings, self._now_ns = recorder, settings, now_ns
        self._wiring, self._log = wiring, log
        self._auto = AutoEpisodes()
        self._under_way: Future | None = None  # what motion asked for last
        self._help = ''  # what the policy says it needs
        self._helped_s = float('-inf')  # steady: when a bag was last made for it

    # -- in the worker --------------------------------------------------------------------------

    def start(self, lead_s: float = 0.0) -> str:
        """Begin an episode, with the last seconds; its name."""
        with self._wiring:
            return self._recorder().start(self._now_ns(), lead_s)

    def stop(self, success: bool | None) -> str:
        """Finish the episode with the notes of now; its folder."""
        notes = parse_notes(self._settings().notes)
        return str(self._recorder().stop(success, notes, self._now_ns()))

    def discard(self) -> str:
        """Forget the episode."""
        self._recorder().discard()
        return 'discarded'

    def save_last(self, success: bool | None = None, **why: str) -> str:
        """Make a bag of the last seconds; its folder."""
        notes = parse_notes(self._settings().notes)
        return str(self._recorder().save_last(success, notes | why, self._now_ns()))

    # -- in callbacks ---------------------------------------------------------------------------

    def on_joints(self, recorder: EpisodeRecorder, raw: bytes) -> None:
        """Joint states came: begin or end an episode with the motion, where that is wanted."""
        if not self._settings().auto_enabled:
            return
        try:
            sample = wire.decode_joint_state(raw)
        except WireError:  # recorded as it came; it says nothing about motion
            return
        recording = None if self._busy() else recorder.recording
        self._ask(self._auto.push(sample, time.monotonic(), recording, self._rule()))

    def on_timer(self, recorder: EpisodeRecorder) -> None:
        """Time passes: without joint states nobody knows whether the robot moves."""
        if self._settings().auto_enabled and not self._busy():
            now_s = time.monotonic()
            self._ask(self._auto.silence(now_s, recorder.recording, self._rule()))

    def on_policy_status(self, recorder: EpisodeRecorder, raw: bytes) -> None:
        """The policy says how it fares: what led to a request for help is kept."""
        try:
            values = wire.decode(raw, STATUS).values
        except WireError:
            return
        text = next((item.value for item in values if item.key == 'needs_help'), '')
        begins, self._help = bool(text) and not self._help, text
        if not begins or recorder.note(HELP, text):
            return
        settings, now_s = self._settings(), time.monotonic()
        if settings.keep_last_s and now_s - self._helped_s >= settings.help_interval_s:
            self._helped_s = now_s
            # the policy could not do it: not an example to learn from
            self._submit(self.save_last, False, reason=HELP, asked_for_help=text)

    def _busy(self) -> bool:
        return self._under_way is not None and not self._under_way.done()

    def _rule(self) -> AutoRule:
        settings = self._settings()
        return AutoRule(settings.auto_speed, settings.auto_idle_s, settings.auto_min_s)

    def _ask(self, what: str | None) -> None:
        if what == START:
            self._under_way = self._submit(self.start, self._settings().auto_lead_s)
        elif what is not None:
            discard = what == DISCARD
            self._under_way = self._submit(*((self.discard,) if discard else (self.stop, None)))

    def _submit(self, action: Callable[..., str], *arguments: object, **why: str) -> Future:
        def run() -> None:
            try:
                self._log(f'{action.__name__}: {action(*arguments, **why)}')
            except VlaError as error:
                self._log(f'{action.__name__} failed: {error}')

        return self.worker.submit(run)


def parse_notes(notes: tuple[str, ...]) -> dict[str, str]:
    """Custom data of `key=value` texts.

    Raises:
        ConfigError: one is none, or its name is not allowed.
    """
    found = {}
    for text in notes:
        key, mark, value = text.partition('=')
        if not mark or not key:
            raise ConfigError(f'notes are key=value, got {text!r}')
        found[key] = value
    custom_data(None, '', None, found)  # refuses reserved names
    return found
