"""What was seen of a running robot, and what was found wrong with it: the words of `live_check`.

=======  ================================================================================
level    meaning
=======  ================================================================================
ok       it is as described
note     worth knowing, nothing to mend
fault    the policy would hold, learn something wrong, or not be heard
=======  ================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field

OK, NOTE, FAULT = LEVELS = ('ok', 'note', 'fault')


@dataclass(frozen=True)
class Endpoint:
    """One publisher or subscription of a topic, and what it offers or asks for."""

    node: str
    msgtype: str
    reliable: bool = True
    transient_local: bool = False


@dataclass(frozen=True)
class Heard:
    """One message: when it came by the steady clock, the system's and a simulation's (0: none)."""

    raw: bytes
    steady_ns: int
    system_ns: int
    sim_ns: int = 0


@dataclass(frozen=True)
class TopicSeen:
    """What was seen of one topic."""

    publishers: tuple[Endpoint, ...] = ()
    subscriptions: tuple[Endpoint, ...] = ()
    messages: tuple[Heard, ...] = ()


@dataclass(frozen=True)
class ControllerSeen:
    """A controller behind a topic of joint commands: which joints it says it moves."""

    msgtype: str
    joints: tuple[str, ...]  # empty: it cannot be asked


@dataclass(frozen=True)
class ServoSeen:
    """What the node that takes twists says about them."""

    timeout_s: float | None = None  # without a twist it stops
    unitless: bool = False  # -1 … 1 of its own speeds, not m/s and rad/s


@dataclass(frozen=True)
class GraphSeen:
    """What was seen of a robot."""

    topics: dict[str, TopicSeen]  # by the embodiment's names
    others: dict[str, tuple[str, ...]] = field(default_factory=dict)  # type -> topics elsewhere
    controllers: dict[str, ControllerSeen] = field(default_factory=dict)  # by command topic
    servo: ServoSeen | None = None

    def topic(self, name: str) -> TopicSeen:
        """What was seen of a topic; nothing, where it does not exist."""
        return self.topics.get(name, TopicSeen())


@dataclass(frozen=True)
class Finding:
    """One line of the judgement."""

    level: str
    subject: str
    text: str
