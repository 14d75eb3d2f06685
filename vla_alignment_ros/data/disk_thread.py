"""The one thread of a recorder that may wait for the disk, and the bounded queue before it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
import logging
import os
from pathlib import Path
import threading
import time
from typing import Any

from vla_alignment_ros.data.bag import EpisodeWriter, OfferedQos
from vla_alignment_ros.data.bag_places import remove_shells, unfinished
from vla_alignment_ros.data.session import Session
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import BagError

JOIN_S = 10.0
LOOK_S = 0.125  # between two looks at the disk
WAKE_BYTES = 64 * 2**10  # of messages that wait for the disk; fewer do so until the next look
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecorderOptions:
    """How an EpisodeRecorder records."""

    storage: str = 'mcap'
    compression: str | None = None
    queue_bytes: int = 256 * 2**20  # that may wait for the disk
    split_bytes: int = 0  # of a storage file; 0: one file an episode
    min_free_bytes: int = 0  # on the disk; below that nothing is recorded
    keep_last_s: float = 0.0  # of messages that `save_last` makes a bag of; 0: none
    lead_s: float = 0.0  # of messages that `start` may begin with
    keep_last_bytes: int = 256 * 2**20  # of either, in memory while nothing is recorded


class DiskThread:
    """Does for sessions what they ask for, in order; close it at the end.

    `write` and `command` are called with `lock` held and return at once.

    Args:
        root: the folder that receives the episodes.
        embodiment: whose topics are recorded.
        options: see there.
        offered: is asked in the thread what the publishers of a topic offer.
        on_low_disk: is told in the thread, without the lock, of a session that has to end.
    """

    def __init__(
        self,
        root: Path,
        embodiment: Embodiment,
        options: RecorderOptions,
        offered: Callable[[str], Sequence[OfferedQos] | None],
        on_low_disk: Callable[[Session, str], None],
    ) -> None:
        self.root = root
        self.lock = threading.RLock()
        self.waiting_bytes = 0
        self.free_bytes: int | None = None  # of the disk; None: not known
        remove_shells(root)
        self.unfinished = unfinished(root)  # recordings that were cut off
        self._embodiment, self._options = embodiment, options
        self._offered, self._on_low_disk = offered, on_low_disk
        self._types = embodiment.recorded_topics()
        self._queue: deque[tuple[Any, ...]] = deque()
        self._session: Session | None = None  # that is open
        self._looked_s = -LOOK_S
        self._closing = False
        # held while nothing needs the thread; a Condition costs more, with a lock for every wait
        self._bell = threading.Lock()
        self._bell.acquire()
        self._thread = threading.Thread(target=self._run, name='recorder', daemon=True)
        self._thread.start()

    def write(self, session: Session, topic: str, ts_ns: int, raw: bytes) -> None:
        """Take a message, or drop and count it where too much waits already."""
        if session.error or self.waiting_bytes + len(raw) > self._options.queue_bytes:
            session.counts[topic].dropped += 1
            return
        self.waiting_bytes += len(raw)
        self._queue.append(('write', None, session, topic, ts_ns, raw))
        if self.waiting_bytes >= WAKE_BYTES:
            self._ring()

    def command(self, kind: str, session: Session, *arguments: Any) -> Future:
        """Ask for 'open', 'say', 'note', 'finish', 'discard' or 'keep', behind what waits."""
        done: Future = Future()
        self._queue.append((kind, done, session, *arguments))
        self._ring()
        return done

    def close(self) -> None:
        """End the thread, after all that waits."""
        with self.lock:
            self._closing = True
            self._ring()
        self._thread.join(JOIN_S)

    def _ring(self) -> None:
        if self._bell.locked():
            self._bell.release()

    # -- in the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        closing = False
        while True:
            self._bell.acquire(timeout=0.0 if closing else LOOK_S)
            with self.lock:
                items, self._queue = self._queue, deque()
                closing = self._closing
            for item in items:
                self._do(*item)
                if time.monotonic() - self._looked_s >= LOOK_S:
                    self._look()
            if not items:
                if closing:
                    return
                self._look()

    def _do(self, kind: str, done: Future | None, session: Session, *arguments: Any) -> None:
        try:
            result = getattr(self, f'_{kind}')(session, *arguments)
        except Exception as error:  # noqa: BLE001 - the thread outlives any episode
            failure = self._fail(session, error)
            if done is not None:
                done.set_exception(failure)
            return
        if done is not None:
            done.set_result(result)

    def _fail(self, session: Session, error: Exception) -> BagError:
        failure = _as_bag_error(error)
        if not session.error:
            session.fail(str(failure))
            self._session = None
            self.unfinished = unfinished(self.root)
            with self.lock:
                session.settle()
        if session.left is None:
            return failure
        told = BagError(f'the episode is not whole: {session}')
        told.__cause__ = failure
        return told

    def _look(self) -> None:
        """See how the disk does."""
        self._looked_s = time.monotonic()
        session = self._session
        self.free_bytes = free_bytes(self.root)
        if session is None:
            return
        low = self._low()
        if low and not session.ended:
            self._on_low_disk(session, low)
        self._do('flush', None, session)

    def _low(self) -> str:
        free, least = self.free_bytes, self._options.min_free_bytes
        if free is None or free >= least:
            return ''
        return (
            f'the disk of {self.root} has {free / 1e6:.1f} MB left, and {least / 1e6:.1f} MB are '
            'to stay free (min_free_bytes)'
        )

    def _open(self, session: Session) -> str:
        self.free_bytes = free_bytes(self.root)
        if low := self._low():
            raise BagError(f'nothing can be recorded: {low}')
        options = self._options
        session.writer = EpisodeWriter(
            self.root,
            self._embodiment,
            storage=options.storage,
            compression=options.compression,
            offered=self._offered,
            split_bytes=options.split_bytes,
        )
        self._session = session
        return session.writer.path.name

    def _write(self, session: Session, topic: str, ts_ns: int, raw: bytes) -> None:
        written = False
        try:
            if not session.error:
                session.writer.write(topic, self._types[topic], ts_ns, raw)
                written = True
        finally:
            with self.lock:
                self.waiting_bytes -= len(raw)
                count = session.counts[topic]
                count.written += written
                count.dropped += not written

    def _flush(self, session: Session) -> None:
        session.writer.flush_if_late()

    def _say(self, session: Session, instruction: str) -> None:
        if not session.error:
            session.writer.set_instruction(instruction)

    def _note(self, session: Session, key: str, value: str) -> None:
        if not session.error:
            session.writer.note(key, value)

    def _finish(
        self, session: Session, success: bool | None, extra: Mapping[str, str], instruction: str
    ) -> Path:
        self._session = None
        if session.error:
            raise BagError(f'the episode is not whole: {session.error}')
        session.writer.set_instruction(instruction)
        return session.writer.finish(success, extra)

    def _discard(self, session: Session) -> None:
        self._session = None
        session.writer.discard()
        if session.left is not None:
            session.left = None
            self.unfinished = unfinished(self.root)

    def _keep(
        self, session: Session, messages: Sequence[tuple[str, int, bytes]], *how: Any
    ) -> Path:
        self._open(session)
        for topic, ts_ns, raw in messages:
            session.writer.write(topic, self._types[topic], ts_ns, raw)
            with self.lock:
                session.counts[topic].written += 1
        return self._finish(session, *how)


def free_bytes(folder: Path) -> int | None:
    """Bytes that the disk of a folder, which need not be there yet, has for this process."""
    for place in (folder, *folder.absolute().parents):
        try:
            found = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return found.f_bavail * found.f_frsize
    return None


def _as_bag_error(error: Exception) -> BagError:
    if isinstance(error, BagError):
        return error
    _LOG.error('the recorder failed', exc_info=error)
    failure = BagError(f'the recorder failed: {type(error).__name__}: {error}')
    failure.__cause__ = error
    return failure
