"""What is known of one episode while it is recorded: counts, log times, and what went wrong."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vla_alignment_ros.data.bag import EpisodeWriter

SET_BACK_NS = 1_000_000_000  # a stamp so far behind the newest: a clock was set back
WINDOW_S = 5.0  # of rates


@dataclass
class TopicCount:
    """Messages of one topic in one episode: received = written + dropped + those waiting."""

    received: int = 0
    written: int = 0
    dropped: int = 0
    broken: int = 0  # of those received: instructions that cannot be read, and label nothing


class LogTimes:
    """Log times of an episode's messages, in the one clock that its header stamps are of.

    The header stamp; for a message without one (instruction, gripper) the newest header stamp so
    far, whatever clock the node is on. What comes before any stamp waits for the first. Where a
    clock is set back by more than `SET_BACK_NS`, the newest stamp is the latest that came.
    """

    def __init__(self) -> None:
        self.first_ns: int | None = None
        self.newest_ns: int | None = None  # newest header stamp
        self._early: list[tuple[str, bytes]] = []

    def place(
        self, topic: str, raw: bytes, stamp_ns: int | None
    ) -> list[tuple[str, int, bytes]]:
        """(topic, log time, raw) of this message, and of those that waited for its stamp."""
        if stamp_ns is None and self.newest_ns is None:
            self._early.append((topic, raw))
            return []
        if stamp_ns is None:
            return [(topic, self.newest_ns, raw)]
        newest = stamp_ns if self.newest_ns is None else self.newest_ns
        self.newest_ns = stamp_ns if stamp_ns < newest - SET_BACK_NS else max(stamp_ns, newest)
        if self.first_ns is None:
            self.first_ns = stamp_ns
        placed = [(topic, stamp_ns, raw)]
        return [*self.rest(stamp_ns), *placed] if self._early else placed

    def rest(self, ts_ns: int) -> list[tuple[str, int, bytes]]:
        """What still waits for a stamp, all at one time."""
        early, self._early = self._early, []
        return [(topic, ts_ns, raw) for topic, raw in early]

    @property
    def duration_s(self) -> float:
        """First to newest stamp."""
        if self.first_ns is None:
            return 0.0
        return max(0, self.newest_ns - self.first_ns) * 1e-9


@dataclass
class Session:
    """One episode being recorded."""

    counts: dict[str, TopicCount]
    times: LogTimes = field(default_factory=LogTimes)
    held: list[tuple[str, bytes]] = field(default_factory=list)  # before it; not taken yet
    writer: EpisodeWriter | None = None
    error: str = ''  # why it is not whole
    ended: str = ''  # why it was finished by itself
    left: Path | None = None  # what an error left of it

    @classmethod
    def of(cls, topics: Iterable[str]) -> Session:
        return cls({topic: TopicCount() for topic in topics})

    def fail(self, reason: str) -> None:
        """Keep what was saved; every message that was not is a dropped one."""
        self.error = reason
        if self.writer is not None:
            self.left = self.writer.abandon(reason)

    def settle(self) -> None:
        """After `fail`: written is what the disk has, and not what it was given."""
        saved = self.writer.saved_counts() if self.writer is not None else {}
        for topic, count in self.counts.items():
            lost = count.written - saved.get(topic, 0)
            count.written -= lost
            count.dropped += lost

    def __str__(self) -> str:
        """What became of it, in words; empty while nothing did."""
        if self.error and self.left is not None:
            return f'{self.error}; `vla_bag recover {self.left}` makes a bag of what was saved'
        return self.error or self.ended


class Arrivals:
    """How often each topic comes, whether recorded or not. Not thread-safe; steady seconds."""

    def __init__(self, topics: Iterable[str]) -> None:
        self._counts: Counter[str] = Counter(dict.fromkeys(topics, 0))
        self._last_s: dict[str, float] = {}
        self._history: deque[tuple[float, Counter[str]]] = deque()

    def came(self, topic: str, now_s: float) -> None:
        self._counts[topic] += 1
        self._last_s[topic] = now_s

    def rates_hz(self, now_s: float) -> dict[str, float]:
        """Topic -> messages a second, between calls that are up to `WINDOW_S` apart."""
        history = self._history
        while len(history) > 1 and history[0][0] < now_s - WINDOW_S:
            history.popleft()
        then_s, then = history[0] if history else (now_s, self._counts)
        passed_s = now_s - then_s
        if not history or now_s > history[-1][0]:
            history.append((now_s, self._counts.copy()))
        return {
            topic: (count - then[topic]) / passed_s if passed_s > 0 else 0.0
            for topic, count in self._counts.items()
        }

    def silent(self, now_s: float) -> list[str]:
        """Topics that have not come for `WINDOW_S`, or never."""
        oldest = now_s - WINDOW_S
        return [t for t in self._counts if self._last_s.get(t, oldest - 1.0) < oldest]
