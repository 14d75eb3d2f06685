"""The last seconds of a robot, kept in memory while no episode is recorded."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

# what a message means for the time after it: it holds until the next of its topic that does,
# ends what held, or cannot be read; '' where only the moment counts
HOLDS, ENDS, BROKEN = 'holds', 'ends', 'broken'


class _Message(NamedTuple):
    came_s: float  # steady
    topic: str
    raw: bytes
    meaning: str


class RecentMessages:
    """Messages of the last seconds, bounded by time and bytes. Not thread-safe.

    Of those that hold it also knows what held before the oldest message that is kept.

    Args:
        keep_s: how long a message is kept, s of the steady clock; 0: not at all.
        keep_bytes: of all messages together; beyond that the oldest go first.
    """

    def __init__(self, keep_s: float, keep_bytes: int) -> None:
        self.keep_s = keep_s
        self._limit = keep_bytes
        self._kept: deque[_Message] = deque()
        self._bytes = 0
        self._held: dict[str, bytes] = {}  # topic -> what held before the oldest that is kept
        self._broken: dict[str, bytes] = {}  # topic -> a later one that cannot be read

    def push(self, topic: str, raw: bytes, now_s: float, meaning: str) -> None:
        """Take a message."""
        if self.keep_s <= 0:
            self._hear(topic, raw, meaning)
            return
        self._kept.append(_Message(now_s, topic, raw, meaning))
        self._bytes += len(raw)
        self._evict(now_s)

    def pass_by(self, topic: str, raw: bytes, meaning: str) -> None:
        """Take a message that belongs to an episode: what holds is known afterwards."""
        if meaning != BROKEN:
            self._hear(topic, raw, meaning)

    def take(
        self, last_s: float, now_s: float
    ) -> tuple[list[tuple[str, bytes]], list[tuple[str, bytes]]]:
        """What came in the last seconds, as (topic, raw), in order; then nothing is kept.

        Before it stands what held then, with what could not be read after it.
        """
        self._evict(now_s)
        while self._kept and self._kept[0].came_s < now_s - last_s:
            self._bytes -= len(self._kept[0].raw)
            self._forget(self._kept.popleft())
        held = [*self._held.items(), *self._broken.items()]
        taken = [(message.topic, message.raw) for message in self._kept]
        for message in self._kept:
            self._forget(message)
        self._kept.clear()
        self._broken.clear()
        self._bytes = 0
        return held, taken

    def span(self, now_s: float) -> tuple[float, int]:
        """How far back it reaches, s, and how many bytes it holds."""
        return (now_s - self._kept[0].came_s if self._kept else 0.0), self._bytes

    def _evict(self, now_s: float) -> None:
        kept = self._kept
        while kept and (now_s - kept[0].came_s > self.keep_s or self._bytes > self._limit):
            self._bytes -= len(kept[0].raw)
            self._forget(kept.popleft())

    def _forget(self, message: _Message) -> None:
        self._hear(message.topic, message.raw, message.meaning)

    def _hear(self, topic: str, raw: bytes, meaning: str) -> None:
        if meaning == BROKEN:
            self._broken[topic] = raw
        elif meaning:
            self._broken.pop(topic, None)
            self._held.pop(topic, None)
            if meaning == HOLDS:
                self._held[topic] = raw
