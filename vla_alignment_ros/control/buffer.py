"""ObservationBuffer: the newest bytes of every source, and how old they are.

Subscriptions push what arrives, undecoded; the policy takes a snapshot when it has time. Two
clocks are kept apart: ages and the watchdog use the steady clock, which nobody can set, and
as-of assembly uses header stamps, which belong to whoever published.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
import threading

from vla_alignment_ros import wire
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ConfigError, ControlError, WireError

# a source without an entry in max_age_s may be this many control periods old
DEFAULT_MAX_AGE_PERIODS = 5
NS = 1_000_000_000


@dataclass(frozen=True)
class Message:
    """One received message: its bytes, its stamp, and when it came in on the steady clock."""

    raw: bytes
    ts_ns: int
    receipt_ns: int


@dataclass(frozen=True)
class Snapshot:
    """One message per source that has any, as of `ts_ns`."""

    ts_ns: int
    raw: dict[str, bytes]  # topic -> CDR bytes: what ObservationAssembler.assemble() takes
    stamps_ns: dict[str, int]  # source -> header stamp (receipt time for the instruction)
    missing: tuple[str, ...]  # sources that have nothing as of then


class ObservationBuffer:
    """Newest raw messages per observation topic of one embodiment. Thread-safe.

    A stamp that runs backwards by a control period or more means that the publisher's clock was
    set back (a simulation was reset): everything stamped later belongs to the old time and is
    forgotten. Smaller steps back are messages that were overtaken on the way, and are dropped.

    Args:
        embodiment: whose observation topics, age limits and control rate hold.
        depth: messages kept per topic, for snapshots as of an earlier stamp.
    """

    def __init__(self, embodiment: Embodiment, depth: int = 8) -> None:
        if depth < 1:
            raise ConfigError(f'the buffer keeps at least 1 message per topic, got depth {depth}')
        self.embodiment = embodiment
        self._types = embodiment.observation_topics()
        self._sources = embodiment.source_topics()  # source -> topic
        self._topic_sources = {topic: source for source, topic in self._sources.items()}
        self._period_ns = int(NS / embodiment.rate_hz)
        default_s = DEFAULT_MAX_AGE_PERIODS / embodiment.rate_hz
        self.max_age_s = {
            source: float(embodiment.max_age_s.get(source, default_s))
            for source in self._sources
            # an instruction stands until the next one, unless the embodiment says otherwise
            if source != 'instruction' or source in embodiment.max_age_s
        }
        self._depth = depth
        self._lock = threading.Lock()
        self._messages: dict[str, deque[Message]] = {}
        self.clock_resets = 0
        self.late: dict[str, int] = dict.fromkeys(self._sources, 0)
        self.broken: dict[str, int] = dict.fromkeys(self._sources, 0)
        self.clear(keep_instruction=False)

    def clear(self, keep_instruction: bool = True) -> None:
        """Forget all messages, but by default not the instruction: it is sent only once."""
        with self._lock:
            for topic in self._types:
                if not (keep_instruction and topic == self.embodiment.instruction_topic):
                    self._messages[topic] = deque(maxlen=self._depth)

    def push(self, topic: str, raw: bytes, receipt_ns: int, ts_ns: int | None = None) -> bool:
        """Take one message as it came in; return whether it is news.

        receipt_ns: steady clock. ts_ns: the node's time, used where the message has no header or
        its stamp is zero; without it such a message is stamped with receipt_ns.
        The same bytes with the same stamp again only show that the source is alive. Bytes too
        short for a header are counted in `broken` and otherwise ignored: the source grows stale.

        Raises ControlError for a topic that is not the embodiment's.
        """
        try:
            msgtype = self._types[topic]
        except KeyError:
            raise ControlError(
                f"'{topic}' is not an observation topic; those are {sorted(self._types)}"
            ) from None
        source = self._topic_sources[topic]
        try:
            stamp = wire.stamp_ns(raw, msgtype)
        except WireError:
            with self._lock:
                self.broken[source] += 1
            return False
        if not stamp:
            stamp = receipt_ns if ts_ns is None else ts_ns
        message = Message(raw, stamp, receipt_ns)
        with self._lock:
            return self._insert(topic, message)

    def _insert(self, topic: str, message: Message) -> bool:
        kept = self._messages[topic]
        if topic == self.embodiment.instruction_topic:
            news = not kept or kept[-1].raw != message.raw
            kept.append(message)
            return news
        if kept and message.ts_ns <= kept[-1].ts_ns - self._period_ns:
            self.clock_resets += 1
            self._forget_after(message.ts_ns)
        elif kept and message.ts_ns < kept[-1].ts_ns:
            self.late[self._topic_sources[topic]] += 1
            return False
        news = True
        if kept and kept[-1].ts_ns == message.ts_ns:
            news = kept.pop().raw != message.raw
        kept.append(message)
        return news

    def _forget_after(self, ts_ns: int) -> None:
        """Drop every stamped message later than ts_ns: its clock was set back to there."""
        for topic, kept in self._messages.items():
            if topic != self.embodiment.instruction_topic:
                while kept and kept[-1].ts_ns > ts_ns:
                    kept.pop()

    def snapshot(self, ts_ns: int | None = None) -> Snapshot:
        """Return one message per source: the newest, or the newest stamped at or before ts_ns.

        The instruction is always the newest: it has no stamp of its own. Without ts_ns the
        snapshot is as of the newest stamp in it (0 where nothing came in yet).
        """
        with self._lock:
            chosen: dict[str, Message] = {}
            for topic, kept in self._messages.items():
                timeless = ts_ns is None or topic == self.embodiment.instruction_topic
                fit = [m for m in kept if timeless or m.ts_ns <= ts_ns]
                if fit:
                    chosen[topic] = fit[-1]
        stamps = {self._topic_sources[topic]: m.ts_ns for topic, m in chosen.items()}
        if ts_ns is None:
            ts_ns = max((s for name, s in stamps.items() if name != 'instruction'), default=0)
        return Snapshot(
            ts_ns=ts_ns,
            raw={topic: m.raw for topic, m in chosen.items()},
            stamps_ns=stamps,
            missing=tuple(name for name in self._sources if name not in stamps),
        )

    def complete_ts_ns(self) -> int | None:
        """Return the newest stamp up to which every camera and the joint states have reported.

        None while one of them is missing. Lock-step acts once whenever this changes.
        """
        with self._lock:
            stamped = [
                kept[-1].ts_ns if kept else None
                for topic, kept in self._messages.items()
                if topic != self.embodiment.instruction_topic
            ]
        return None if None in stamped else min(stamped)

    def missing(self) -> tuple[str, ...]:
        """Names of the sources of which there is nothing."""
        with self._lock:
            return tuple(n for n, topic in self._sources.items() if not self._messages[topic])

    def ages(self, receipt_now_ns: int, now_ns: int | None = None) -> dict[str, float]:
        """Return seconds since the newest message of each source that has one.

        receipt_now_ns: steady clock. now_ns: time on the clock of the header stamps; where it is
        given, a message that was long under way counts as old as its stamp says.
        """
        with self._lock:
            newest = {
                n: self._messages[t][-1] for n, t in self._sources.items() if self._messages[t]
            }
        ages = {}
        for name, message in newest.items():
            age_ns = receipt_now_ns - message.receipt_ns
            if now_ns is not None and name != 'instruction':
                age_ns = max(age_ns, now_ns - message.ts_ns)
            ages[name] = max(0, age_ns) / NS
        return ages

    def stale(self, receipt_now_ns: int, now_ns: int | None = None) -> tuple[str, ...]:
        """Names of the sources whose newest message is older than their limit allows."""
        ages = self.ages(receipt_now_ns, now_ns)
        return tuple(n for n, limit in self.max_age_s.items() if ages.get(n, 0.0) > limit)

    def hold_reason(self, receipt_now_ns: int, now_ns: int | None = None) -> str:
        """Return why nothing may be decided now, in words for a log; empty when all is fresh."""
        reasons = [f'no {name} yet' for name in self.missing()]
        ages = self.ages(receipt_now_ns, now_ns)
        reasons += [
            f'{name} is {ages[name]:.2f} s old (limit {self.max_age_s[name]:.2f} s)'
            for name in self.stale(receipt_now_ns, now_ns)
        ]
        return ', '.join(reasons)
