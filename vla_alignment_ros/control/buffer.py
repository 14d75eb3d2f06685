"""ObservationBuffer: the newest bytes of every source, and how old they are.

Subscriptions push what arrives, undecoded; the policy takes a snapshot when it has time. Three
clocks are kept apart: the watchdog uses the steady clock, which nobody can set; as-of assembly
uses header stamps, which belong to whoever published; and where a node times its commands by a
clock of its own (the system's, or a simulation's), stamps are judged by that one too, because a
frame that was long under way is old, however lately it came in.
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
# history, for snapshots as of an earlier stamp: sources are not equally fast and not equally late
KEEP_S = 1.0
MAX_BYTES = 64 * 2**20  # per topic; that many bytes of large images are but a few
MAX_MESSAGES = 4096  # per topic
FEW_MESSAGES = 4  # kept per topic however large they are
NS = 1_000_000_000
# stamps further than that from the node's time are of another clock, rather than old
OTHER_CLOCK_S = 10.0


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


class _Track:
    """The messages of one topic, oldest stamp first, and how many bytes they are.

    after_ns: the silence before its only message, where that made all others be forgotten.
    """

    def __init__(self, after_ns: int = 0) -> None:
        self.messages: deque[Message] = deque()
        self.bytes = 0
        self.after_ns = after_ns

    @property
    def newest(self) -> Message | None:
        return self.messages[-1] if self.messages else None

    def append(self, message: Message) -> None:
        self.messages.append(message)
        self.bytes += len(message.raw)

    def pop_newest(self) -> Message:
        message = self.messages.pop()
        self.bytes -= len(message.raw)
        return message

    def as_of(self, ts_ns: int) -> Message | None:
        return next((m for m in reversed(self.messages) if m.ts_ns <= ts_ns), None)

    def prune(self, before_ns: int, max_bytes: int) -> None:
        """Drop what is older than before_ns, but the last of that; and what is too much."""
        def too_much() -> bool:
            kept = len(self.messages)
            return kept > MAX_MESSAGES or (kept > FEW_MESSAGES and self.bytes > max_bytes)

        while too_much() or (len(self.messages) > 1 and self.messages[1].ts_ns < before_ns):
            self.bytes -= len(self.messages.popleft().raw)


class ObservationBuffer:
    """Newest raw messages per observation topic of one embodiment. Thread-safe.

    A stamp that runs backwards by a control period or more means that the publisher's clock was
    set back (a simulation was reset): everything stamped later belongs to the old time and is
    forgotten. Smaller steps back are messages that were overtaken on the way, and are dropped.
    Where a source speaks again after it was silent for longer than its age limit, what it said
    before is forgotten too: as of no instant is that fit to be acted on.

    Args:
        embodiment: whose observation topics, age limits and control rate hold.
        keep_s: history per topic in seconds before its newest stamp; never less than the
            longest of the embodiment's age limits, because a source may wait for that one.
        max_bytes: of history per topic; a few messages are kept in any case.

    Raises ConfigError for a history of nothing.
    """

    def __init__(
        self, embodiment: Embodiment, keep_s: float = KEEP_S, max_bytes: int = MAX_BYTES
    ) -> None:
        if not keep_s > 0.0:
            raise ConfigError(f'keep_s must be above 0, got {keep_s}')
        if max_bytes < 1:
            raise ConfigError(f'max_bytes must be at least 1, got {max_bytes}')
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
        self._keep_ns = int(NS * max(keep_s, *self.max_age_s.values()))
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._tracks: dict[str, _Track] = {}
        self.clock_resets = 0
        self.late: dict[str, int] = dict.fromkeys(self._sources, 0)
        self.broken: dict[str, int] = dict.fromkeys(self._sources, 0)
        self.clear(keep_instruction=False)

    def clear(self, keep_instruction: bool = True) -> None:
        """Forget all messages, but by default not the instruction: it is sent only once."""
        with self._lock:
            for topic in self._types:
                if not (keep_instruction and topic == self.embodiment.instruction_topic):
                    self._tracks[topic] = _Track()

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
        track = self._tracks[topic]
        newest = track.newest
        if topic == self.embodiment.instruction_topic:
            if newest is not None:
                track.pop_newest()
            track.append(message)
            return newest is None or newest.raw != message.raw
        news = True
        if newest is not None and message.ts_ns <= newest.ts_ns - self._period_ns:
            self.clock_resets += 1
            self._forget_after(message.ts_ns)
        elif newest is not None and message.ts_ns < newest.ts_ns:
            self.late[self._topic_sources[topic]] += 1
            return False
        newest = track.newest
        if newest is not None:
            if newest.ts_ns == message.ts_ns:
                news = track.pop_newest().raw != message.raw
            silent_ns = max(
                message.ts_ns - newest.ts_ns, message.receipt_ns - newest.receipt_ns
            )
            if silent_ns > self.max_age_s[self._topic_sources[topic]] * NS:
                track = self._tracks[topic] = _Track(silent_ns)
            elif track.messages:
                track.after_ns = 0
        track.append(message)
        # by its own stamps: a source on another clock must not make the others forget
        track.prune(message.ts_ns - self._keep_ns, self._max_bytes)
        return news

    def _forget_after(self, ts_ns: int) -> None:
        """Drop every stamped message later than ts_ns: its clock was set back to there."""
        for topic, track in self._tracks.items():
            if topic != self.embodiment.instruction_topic:
                while track.messages and track.newest.ts_ns > ts_ns:
                    track.pop_newest()

    def snapshot(self, ts_ns: int | None = None) -> Snapshot:
        """Return one message per source: the newest, or the newest stamped at or before ts_ns.

        The instruction is always the newest: it has no stamp of its own. Without ts_ns the
        snapshot is as of the newest stamp in it (0 where nothing came in yet).
        """
        with self._lock:
            chosen: dict[str, Message] = {}
            for topic, track in self._tracks.items():
                timeless = ts_ns is None or topic == self.embodiment.instruction_topic
                fit = track.newest if timeless else track.as_of(ts_ns)
                if fit is not None:
                    chosen[topic] = fit
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

        None while one of them is missing, or has nothing from before that stamp. Lock-step acts
        once whenever this changes.
        """
        with self._lock:
            stamped = [
                track.messages
                for topic, track in self._tracks.items()
                if topic != self.embodiment.instruction_topic
            ]
            if not all(stamped):
                return None
            complete_ns = min(messages[-1].ts_ns for messages in stamped)
            begin_ns = max(messages[0].ts_ns for messages in stamped)
        return complete_ns if begin_ns <= complete_ns else None

    def too_rare(self) -> str:
        """Which sources speak too rarely for their limits, in words for a log.

        Of such a source only the newest message is known, so there can be no instant of which
        all is. Empty where there is one, or a source is missing.
        """
        with self._lock:
            after_ns = {n: self._tracks[topic].after_ns for n, topic in self._sources.items()}
        if self.missing() or self.complete_ts_ns() is not None:
            return ''
        rare = [
            f'{name} came after {silent_ns / NS:.2f} s (limit {self.max_age_s[name]:.2f} s)'
            for name, silent_ns in after_ns.items()
            if silent_ns
        ]
        return f'{", ".join(rare)}; a limit has to be longer than a period' if rare else ''

    def kept_bytes(self) -> dict[str, int]:
        """Bytes of history per source."""
        with self._lock:
            return {n: self._tracks[topic].bytes for n, topic in self._sources.items()}

    def missing(self) -> tuple[str, ...]:
        """Names of the sources of which there is nothing."""
        with self._lock:
            return tuple(
                n for n, topic in self._sources.items() if not self._tracks[topic].messages
            )

    def ages(self, receipt_now_ns: int, now_ns: int | None = None) -> dict[str, float]:
        """Return seconds since the newest message of each source that has one.

        receipt_now_ns: steady clock. now_ns: time on the clock of the header stamps; where it is
        given, a message that was long under way counts as old as its stamp says.
        """
        ages = {}
        for name, message in self._newest().items():
            age_ns = receipt_now_ns - message.receipt_ns
            if now_ns is not None and name != 'instruction':
                age_ns = max(age_ns, now_ns - message.ts_ns)
            ages[name] = max(0, age_ns) / NS
        return ages

    def _newest(self) -> dict[str, Message]:
        with self._lock:
            newest = {n: self._tracks[topic].newest for n, topic in self._sources.items()}
        return {name: message for name, message in newest.items() if message is not None}

    def key_values(self, receipt_now_ns: int) -> dict[str, str]:
        """Return ages and counts as text, for a diagnostic message."""
        return {
            **{f'age_{n}_s': f'{age:.3f}' for n, age in self.ages(receipt_now_ns).items()},
            **{f'late: {name}': str(n) for name, n in self.late.items() if n},
            **{f'broken: {name}': str(n) for name, n in self.broken.items() if n},
        }

    def stale(self, receipt_now_ns: int, now_ns: int | None = None) -> tuple[str, ...]:
        """Names of the sources whose newest message is older than their limit allows."""
        return self._stale(self.ages(receipt_now_ns, now_ns))

    def _stale(self, ages: dict[str, float]) -> tuple[str, ...]:
        return tuple(n for n, limit in self.max_age_s.items() if ages.get(n, 0.0) > limit)

    def hold_reason(self, receipt_now_ns: int, now_ns: int | None = None) -> str:
        """Return why nothing may be decided now, in words for a log; empty when all is fresh.

        receipt_now_ns: steady clock. now_ns: the clock that commands are timed by, the system's
        or a simulation's; a frame whose stamp is older than its limit by that one must not be
        acted on either, nor one that is stamped later than now. Leave it out where commands
        carry the observations' stamps (lock-step): those may be of any clock, if it is one.
        """
        reasons = [f'no {name} yet' for name in self.missing()]
        ages = self.ages(receipt_now_ns)
        silent = self._stale(ages)
        reasons += [
            f'{name} is {ages[name]:.2f} s old (limit {self.max_age_s[name]:.2f} s)'
            for name in silent
        ]
        return ', '.join([*reasons, *self._stamp_reasons(silent, now_ns)])

    def _stamp_reasons(self, silent: tuple[str, ...], now_ns: int | None) -> list[str]:
        """What is wrong with the newest stamps of sources that are not silent."""
        stamps = {
            name: message.ts_ns
            for name, message in self._newest().items()
            if name != 'instruction' and name not in silent
        }
        if not stamps:
            return []
        whose = 'each other' if now_ns is None else "the node's clock"
        reference_ns = max(stamps.values()) if now_ns is None else now_ns
        foreign, reasons = {}, []
        for name, ts_ns in stamps.items():
            off_s, limit_s = (reference_ns - ts_ns) / NS, self.max_age_s[name]
            if abs(off_s) > max(OTHER_CLOCK_S, limit_s):
                foreign[name] = abs(off_s)
            elif abs(off_s) > limit_s and now_ns is not None:
                way = 'old by its stamp' if off_s > 0.0 else "ahead of the node's clock"
                reasons.append(f'{name} is {abs(off_s):.2f} s {way} (limit {limit_s:.2f} s)')
        if foreign:
            reasons.append(
                f'the stamps of {", ".join(foreign)} and {whose} differ by '
                f"{max(foreign.values()):.0f} s: set use_sim_time (or check the camera's clock)"
            )
        return reasons
