"""Episodes onto the disk without ever making a callback wait: a bounded queue and one thread.

No ROS in here. What is received, written and dropped is counted exactly, per topic. A slow disk
drops messages visibly; it never blocks whoever delivers them. Whatever goes wrong while writing
costs that episode, with the reason in `error`, and never the thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
import logging
from pathlib import Path
import threading
from typing import Any

from vla_alignment_ros import wire
from vla_alignment_ros.data.bag import EpisodeWriter
from vla_alignment_ros.data.take_overs import TakeOvers
from vla_alignment_ros.embodiment import Embodiment, INTERVENTION_TOPIC
from vla_alignment_ros.errors import BagError, WireError

JOIN_S = 10.0
_LOG = logging.getLogger(__name__)


@dataclass
class TopicCount:
    """Messages of one topic in one episode: received = written + dropped + those waiting."""

    received: int = 0
    written: int = 0
    dropped: int = 0
    broken: int = 0  # of those received: instructions that cannot be read, and label nothing


@dataclass
class _Session:
    """One episode being recorded."""

    counts: dict[str, TopicCount]
    started_ns: int
    newest_ns: int | None = None  # newest header stamp so far
    early: list[tuple[str, bytes]] = field(default_factory=list)  # unstamped, before any stamp
    writer: EpisodeWriter | None = None
    error: str = ''


class EpisodeRecorder:
    """Records one episode at a time. Thread-safe; close it at the end.

    Log times: the header stamp; for a message without one (instruction, gripper) the newest
    header stamp of the episode so far, so that a bag has a single clock also in simulated time,
    whatever clock the node is on. Where nothing carries a stamp it is the time of receipt.
    """

    def __init__(
        self,
        root: Path | str,
        embodiment: Embodiment,
        storage: str = 'mcap',
        compression: str | None = None,
        queue_bytes: int = 256 * 2**20,
    ) -> None:
        self.embodiment = embodiment
        self._root = Path(root)
        self._options = {'storage': storage, 'compression': compression}
        self._types = embodiment.recorded_topics()
        self._limit = queue_bytes
        self._changed = threading.Condition()
        self._queue: deque[tuple[Any, ...]] = deque()
        self._queued_bytes = 0
        self._session: _Session | None = None
        self._last: _Session | None = None
        self._instruction = ''  # the newest that can be read
        self._said: bytes | None = None  # its message
        self._broken: bytes | None = None  # a broken one since then, outside of any episode
        self._take_overs = TakeOvers()
        self._newest: dict[str, int] = {}  # topic -> stamp, whether recorded or not
        self._before: dict[str, int] = {}  # the same as it was when the episode began
        self._closing = False
        self._thread = threading.Thread(target=self._run, name='recorder', daemon=True)
        self._thread.start()

    # -- episodes -------------------------------------------------------------------------------

    def start(self, now_ns: int) -> str:
        """Begin an episode; the name of its folder.

        Raises:
            BagError: one is being recorded already, or the folder cannot be written.
        """
        with self._changed:
            if self._session is not None:
                raise BagError('an episode is being recorded: stop or discard it first')
            counts = {topic: TopicCount() for topic in self._types}
            session = self._session = self._last = _Session(counts, now_ns)
            self._before = dict(self._newest)
            ready = self._command('open', session)
        try:
            name = ready.result()
        except BagError:
            with self._changed:
                self._session = None
            raise
        with self._changed:
            for raw in (self._said, self._broken):
                if raw is not None:
                    self._take(self.embodiment.instruction_topic, raw, now_ns)
            self._broken = None
            self._take_overs.begin()
            if self._take_overs.driving is not None:
                self._take(INTERVENTION_TOPIC, self._take_overs.driving, now_ns)
        return name

    def push(self, topic: str, raw: bytes, now_ns: int) -> None:
        """Take one message; never waits. Without an episode only the instruction is kept.

        A broken instruction is recorded and counted, but the one before it stays the label.
        """
        with self._changed:
            if topic == self.embodiment.instruction_topic:
                self._hear(raw)
            elif topic == INTERVENTION_TOPIC:
                self._take_overs.hear(raw)
            stamp = self._stamp(topic, raw)
            if self._session is not None and self._session.writer is not None:
                # said before the episode and now repeated: not part of it
                if stamp is None or stamp != self._before.get(topic):
                    self._take(topic, raw, now_ns)
            if stamp is not None:
                self._newest[topic] = stamp

    def stop(self, success: bool | None, extra: Mapping[str, str], now_ns: int) -> Path:
        """Finish the episode: everything that was received is on the disk when this returns.

        Raises:
            BagError: none is being recorded, nothing came, or the disk failed; then nothing is
                left behind.
        """
        with self._changed:
            session = self._end()
            for topic, raw in session.early:
                self._enqueue(session, topic, now_ns, raw)
            notes = {**self._take_overs.notes(), **extra}
            done = self._command('finish', session, success, notes, self._instruction)
        return done.result()

    def discard(self) -> None:
        """Forget the episode; nothing of it stays. BagError if none is being recorded."""
        with self._changed:
            done = self._command('discard', self._end())
        done.result()

    def close(self) -> None:
        """End the thread; an episode that still runs is finished, with success unknown."""
        if self.recording:
            with suppress(BagError):  # it is in `error`
                self.stop(None, {}, self._last.started_ns)
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(JOIN_S)

    # -- what is known --------------------------------------------------------------------------

    @property
    def recording(self) -> bool:
        """Whether an episode is being recorded."""
        return self._session is not None

    @property
    def error(self) -> str:
        """Why the present or last episode is not whole; empty when it is."""
        return self._last.error if self._last is not None else ''

    def counts(self) -> dict[str, TopicCount]:
        """Per topic of the present or last episode."""
        with self._changed:
            if self._last is None:
                return {}
            return {topic: replace(count) for topic, count in self._last.counts.items()}

    def key_values(self) -> dict[str, str]:
        """Everything as text, for a diagnostic message."""
        with self._changed:
            last, waiting = self._last, self._queued_bytes
            name = last.writer.path.name if last is not None and last.writer else ''
            written = last.writer.bytes_written if last is not None and last.writer else 0
        values = {
            'state': 'recording' if self.recording else 'idle',
            'folder': str(self._root),
            'episode': name,
            'bytes_written': str(written),
            'bytes_waiting': str(waiting),
            'error': self.error,
        }
        for topic, count in self.counts().items():
            values[topic] = (
                f'received {count.received}, written {count.written}, dropped {count.dropped}'
            ) + (f', broken {count.broken}' if count.broken else '')
        return values

    # -- the lock held --------------------------------------------------------------------------

    def _end(self) -> _Session:
        if self._session is None:
            raise BagError('no episode is being recorded: start one first')
        session, self._session = self._session, None
        return session

    def _hear(self, raw: bytes) -> None:
        text = _text(raw)
        if text is not None:
            self._instruction, self._said, self._broken = text, raw, None
        elif self._session is None:
            self._broken = raw

    def _stamp(self, topic: str, raw: bytes) -> int | None:
        try:
            return wire.stamp_ns(raw, self._types[topic]) or None
        except WireError:  # recorded as it came: what is broken shows when it is checked
            return None

    def _take(self, topic: str, raw: bytes, now_ns: int) -> None:
        session, stamp = self._session, self._stamp(topic, raw)
        count = session.counts[topic]
        count.received += 1
        if topic == self.embodiment.instruction_topic and _text(raw) is None:
            count.broken += 1
        if stamp:
            session.newest_ns = max(stamp, session.newest_ns or stamp)
            early, session.early = session.early, []
            for early_topic, early_raw in early:
                self._enqueue(session, early_topic, stamp, early_raw)
        elif session.newest_ns is not None:
            stamp = session.newest_ns
        else:
            session.early.append((topic, raw))
            return
        self._enqueue(session, topic, stamp, raw)

    def _enqueue(self, session: _Session, topic: str, ts_ns: int, raw: bytes) -> None:
        if session.error or self._queued_bytes + len(raw) > self._limit:
            session.counts[topic].dropped += 1
            return
        self._queued_bytes += len(raw)
        self._queue.append(('write', None, session, topic, ts_ns, raw))
        self._changed.notify()

    def _command(self, kind: str, *arguments: Any) -> Future:
        done: Future = Future()
        self._queue.append((kind, done, *arguments))
        self._changed.notify()
        return done

    # -- the writer's thread --------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    return
                kind, done, session, *arguments = self._queue.popleft()
            result = failure = None
            try:
                result = getattr(self, f'_{kind}')(session, *arguments)
            except Exception as error:  # noqa: BLE001 - the thread outlives any episode
                failure = _as_bag_error(error)
                session.error = session.error or str(failure)
            if done is None:
                continue
            if failure is not None:
                done.set_exception(failure)
            else:
                done.set_result(result)

    def _write(self, session: _Session, topic: str, ts_ns: int, raw: bytes) -> None:
        written = False
        try:
            if not session.error:
                session.writer.write(topic, self._types[topic], ts_ns, raw)
                written = True
        finally:
            with self._changed:
                self._queued_bytes -= len(raw)
                count = session.counts[topic]
                count.written += written
                count.dropped += not written

    def _open(self, session: _Session) -> str:
        session.writer = EpisodeWriter(self._root, self.embodiment, **self._options)
        return session.writer.path.name

    def _finish(
        self, session: _Session, success: bool | None, extra: dict[str, str], instruction: str
    ) -> Path:
        with session.writer as writer:  # whatever goes wrong, nothing is left behind
            if session.error:
                raise BagError(f'the episode is not whole: {session.error}')
            writer.set_instruction(instruction)
            return writer.finish(success, extra)

    def _discard(self, session: _Session) -> None:
        session.writer.discard()


def _text(raw: bytes) -> str | None:
    """What an instruction says; None where it is broken."""
    try:
        return wire.decode_string(raw)
    except WireError:
        return None


def _as_bag_error(error: Exception) -> BagError:
    if isinstance(error, BagError):
        return error
    _LOG.error('the recorder failed', exc_info=error)
    failure = BagError(f'the recorder failed: {type(error).__name__}: {error}')
    failure.__cause__ = error
    return failure
