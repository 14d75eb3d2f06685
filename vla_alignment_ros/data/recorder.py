"""Episodes onto the disk without ever making a callback wait: a bounded queue and one thread.

No ROS in here. What is received, written and dropped is counted exactly, per topic. A slow disk
drops messages visibly; it never blocks whoever delivers them. Whatever goes wrong while writing
costs the rest of that episode, with the reason in `error`, and never the thread; what was saved
until then stays beside the episodes, for `vla_bag recover`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
import time

from vla_alignment_ros import wire
from vla_alignment_ros.data.bag import OfferedQos
from vla_alignment_ros.data.bag_format import custom_data
from vla_alignment_ros.data.disk_thread import DiskThread, RecorderOptions
from vla_alignment_ros.data.recent import BROKEN, ENDS, HOLDS, RecentMessages
from vla_alignment_ros.data.session import Arrivals, Session, TopicCount
from vla_alignment_ros.data.take_overs import TakeOvers
from vla_alignment_ros.embodiment import Embodiment, INTERVENTION_TOPIC
from vla_alignment_ros.errors import BagError, WireError

__all__ = ['EpisodeRecorder', 'RecorderOptions', 'TopicCount']


class EpisodeRecorder:
    """Records one episode at a time. Thread-safe; close it at the end.

    Args:
        root: the folder that receives the episodes.
        embodiment: whose topics are recorded.
        options: see there.
        offered: is asked, in the writer's thread, what the publishers of a topic offer.
    """

    def __init__(
        self,
        root: Path | str,
        embodiment: Embodiment,
        options: RecorderOptions | None = None,
        offered: Callable[[str], Sequence[OfferedQos] | None] = lambda topic: None,
    ) -> None:
        self.embodiment = embodiment
        self.options = options or RecorderOptions()
        self.last_kept = ''  # name of the last bag of `save_last`
        self._types = embodiment.recorded_topics()
        self._said = embodiment.instruction_topic
        self._holding = (self._said, INTERVENTION_TOPIC)  # what they say is so until the next
        self.disk = DiskThread(Path(root), embodiment, self.options, offered, self._on_low_disk)
        self._lock = self.disk.lock
        self._session: Session | None = None
        self._last: Session | None = None
        self._kept: Session | None = None  # of the last `save_last`
        self._instruction = ''  # the newest that can be read
        self._take_overs = TakeOvers()
        keep_s = max(self.options.keep_last_s, self.options.lead_s)
        self._recent = RecentMessages(keep_s, self.options.keep_last_bytes)
        self._arrivals = Arrivals(self._types)
        self._newest: dict[str, int] = {}  # topic -> stamp, whether recorded or not
        self._before: dict[str, int] = {}  # the same as it was when the episode began

    # -- episodes -------------------------------------------------------------------------------

    def start(self, now_ns: int, lead_s: float = 0.0) -> str:
        """Begin an episode; the name of its folder.

        lead_s: so much of what is kept in memory becomes its beginning.

        Raises:
            BagError: one is being recorded already, or the folder cannot be written.
        """
        with self._lock:
            if self._session is not None:
                raise BagError('an episode is being recorded: stop or discard it first')
            session = self._session = self._last = Session.of(self._types)
            self._kept = None
            ready = self.disk.command('open', session)  # what comes from now on waits behind it
            self._before = dict(self._newest)
            session.held, messages = self._recent.take(lead_s, time.monotonic())
            self._take_overs = _take_overs(session.held, messages)
            for topic, raw in messages:
                self._take(session, topic, raw, self._stamp(topic, raw))
        try:
            return ready.result()
        except BagError:
            with self._lock:
                self._session = None
            raise

    def push(self, topic: str, raw: bytes) -> None:
        """Take one message; never waits. Without an episode it is kept in memory for a while.

        A broken instruction is recorded and counted, but the one before it stays the label.
        """
        now_s, stamp = time.monotonic(), self._stamp(topic, raw)
        with self._lock:
            self._arrivals.came(topic, now_s)
            session, holding = self._session, topic in self._holding
            meaning = self._meaning(topic, raw) if holding else ''
            if session is None:
                self._recent.push(topic, raw, now_s, meaning)
            else:
                if holding:
                    self._recent.pass_by(topic, raw, meaning)
                if meaning == HOLDS and topic == self._said:
                    self.disk.command('say', session, self._instruction)
                # said before the episode and now repeated: not part of it
                if stamp is None or stamp != self._before.get(topic):
                    self._take(session, topic, raw, stamp)
            if stamp is not None:
                self._newest[topic] = stamp

    def note(self, key: str, value: str) -> bool:
        """Write a note into the bag of the running episode; whether there is one."""
        with self._lock:
            if self._session is None:
                return False
            self.disk.command('note', self._session, key, value)
            return True

    def stop(self, success: bool | None, extra: Mapping[str, str], now_ns: int) -> Path:
        """Finish the episode: everything that was received is on the disk when this returns.

        Raises:
            BagError: a name in `extra` is not allowed: the episode goes on. Or none is being
                recorded, nothing came, or the disk failed: what was saved is left for
                `vla_bag recover`.
        """
        custom_data(self.embodiment, '', success, extra)
        with self._lock:
            done = self._end(success, extra, now_ns)
        return done.result()

    def discard(self) -> None:
        """Forget the episode; nothing of it stays. BagError if none is being recorded."""
        with self._lock:
            session, self._session = self._running(), None
            done = self.disk.command('discard', session)
        done.result()

    def save_last(self, success: bool | None, extra: Mapping[str, str], now_ns: int) -> Path:
        """Make a bag of what is kept in memory, which is then forgotten there.

        Raises:
            BagError: nothing is kept, an episode is being recorded, or the disk failed.
        """
        with self._lock:
            if self._session is not None:
                raise BagError('an episode is being recorded: the last seconds are part of it')
            if not self.options.keep_last_s:
                raise BagError('nothing is kept in memory: set keep_last_s')
            said = self._said
            held, messages = self._recent.take(self.options.keep_last_s, time.monotonic())
            if all(topic in (said, INTERVENTION_TOPIC) for topic, _ in messages):
                raise BagError(f'nothing came in the last {self.options.keep_last_s:g} s')
            session = self._kept = Session.of(self._types)
            placed = []
            for topic, raw in (*held, *messages):
                session.counts[topic].received += 1
                placed += session.times.place(topic, raw, self._stamp(topic, raw))
            placed += session.times.rest(now_ns)
            notes = {**_take_overs(held, messages).notes(), **extra}
            done = self.disk.command('keep', session, placed, success, notes, self._instruction)
        path = done.result()
        self.last_kept = path.name
        return path

    def close(self) -> None:
        """End the thread; an episode that still runs is finished, with success unknown."""
        if self.recording:
            with suppress(BagError):  # it is in `error`
                self.stop(None, {}, time.time_ns())
        self.disk.close()

    # -- what is known --------------------------------------------------------------------------

    @property
    def recording(self) -> bool:
        """Whether an episode is being recorded."""
        return self._session is not None

    @property
    def error(self) -> str:
        """Why the present or last recording is not whole; empty when it is."""
        return next((str(s) for s in (self._last, self._kept) if s is not None and str(s)), '')

    def counts(self) -> dict[str, TopicCount]:
        """Per topic of the present or last episode."""
        with self._lock:
            if self._last is None:
                return {}
            return {topic: replace(count) for topic, count in self._last.counts.items()}

    def missing(self) -> list[str]:
        """Topics that have not come for some seconds; the instruction where none is known."""
        with self._lock:
            silent = self._arrivals.silent(time.monotonic())
        said = self._said
        latched = {INTERVENTION_TOPIC, said if self._instruction else ''}
        return [topic for topic in silent if topic not in latched]

    def key_values(self) -> dict[str, str]:
        """Everything as text, for a diagnostic message."""
        disk, now_s = self.disk, time.monotonic()
        with self._lock:
            last, waiting = self._last, self.disk.waiting_bytes
            writer = last.writer if last is not None else None
            rates = self._arrivals.rates_hz(now_s)
            kept_s, kept_bytes = self._recent.span(now_s)
        values = {
            'state': 'recording' if self.recording else 'idle',
            'folder': str(disk.root),
            'episode': writer.path.name if writer is not None else '',
            'label': self._instruction,
            'duration_s': f'{last.times.duration_s if last is not None else 0.0:.2f}',
            'bytes': str(writer.bytes_written if writer is not None else 0),
            'bytes_waiting': str(waiting),
            'free_bytes': '' if disk.free_bytes is None else str(disk.free_bytes),
            'missing': ', '.join(self.missing()),
            'unfinished': ', '.join(path.name for path in disk.unfinished),
            'kept_s': f'{kept_s:.1f}',
            'kept_bytes': str(kept_bytes),
            'last_kept': self.last_kept,
            'error': self.error,
        }
        for topic, count in self.counts().items():
            values[topic] = (
                f'received {count.received}, written {count.written}, dropped {count.dropped}'
            ) + (f', broken {count.broken}' if count.broken else '')
        return values | {f'rate_{topic}_hz': f'{rate:.1f}' for topic, rate in rates.items()}

    # -- the lock held --------------------------------------------------------------------------

    def _running(self) -> Session:
        if self._session is None:
            ended = self._last.ended if self._last is not None else ''
            raise BagError(f'no episode is being recorded: {ended or "start one first"}')
        return self._session

    def _end(self, success: bool | None, extra: Mapping[str, str], now_ns: int) -> Future:
        session, self._session = self._running(), None
        if any(count.received for count in session.counts.values()):
            self._take_held(session)
        for placed in session.times.rest(now_ns):
            self.disk.write(session, *placed)
        notes = {**self._take_overs.notes(), **extra}
        return self.disk.command('finish', session, success, notes, self._instruction)

    def _stamp(self, topic: str, raw: bytes) -> int | None:
        try:
            stamp = wire.stamp_ns(raw, self._types[topic])
        except WireError:  # recorded as it came: what is broken shows when it is checked
            return None
        return stamp if stamp is not None and stamp > 0 else None

    def _meaning(self, topic: str, raw: bytes) -> str:
        if topic == self._said:
            text = _text(raw)
            self._instruction = self._instruction if text is None else text
            return BROKEN if text is None else HOLDS
        if topic == INTERVENTION_TOPIC:
            return {True: HOLDS, False: ENDS, None: ''}[self._take_overs.hear(raw)]
        return ''

    def _take(self, session: Session, topic: str, raw: bytes, stamp: int | None) -> None:
        if session.held:
            said = self._said
            if topic == said and _text(raw) is not None:
                # said anew before anything was seen: the old one tells nothing
                session.held = [(other, old) for other, old in session.held if other != said]
            elif stamp is not None or topic in self._holding:
                self._take_held(session)
        self._count(session, topic, raw, stamp)

    def _take_held(self, session: Session) -> None:
        held, session.held = session.held, []
        for topic, raw in held:
            self._count(session, topic, raw, None)

    def _count(self, session: Session, topic: str, raw: bytes, stamp: int | None) -> None:
        count = session.counts[topic]
        count.received += 1
        if topic == self._said and _text(raw) is None:
            count.broken += 1
        for placed in session.times.place(topic, raw, stamp):
            self.disk.write(session, *placed)

    # -- from the disk's thread -----------------------------------------------------------------

    def _on_low_disk(self, session: Session, reason: str) -> None:
        """Finish the episode while there is room for that."""
        with self._lock:
            if self._session is session:
                session.ended = reason
                self._end(None, {'ended': reason}, time.time_ns())


def _take_overs(
    held: Sequence[tuple[str, bytes]], messages: Sequence[tuple[str, bytes]]
) -> TakeOvers:
    """Who drives after what held and what came then, and how often a person took over."""
    found = TakeOvers()
    found.begin(dict(held).get(INTERVENTION_TOPIC))
    for topic, raw in messages:
        if topic == INTERVENTION_TOPIC:
            found.hear(raw)
    return found


def _text(raw: bytes) -> str | None:
    """What an instruction says; None where it is broken."""
    try:
        return wire.decode_string(raw)
    except WireError:
        return None
