"""Does the robot that is running fit its description? A judgement of what was seen of it.

Somebody else looks (`nodes.embodiment_probe`); here is only what it means. Every finding is one
line that says what is wrong and what would mend it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vla_alignment_ros.control.codecs import make_codec
from vla_alignment_ros.control.live_seen import (
    Endpoint,
    FAULT,
    Finding,
    GraphSeen,
    Heard,
    LEVELS,
    NOTE,
    OK,
    ServoSeen,
)
from vla_alignment_ros.control.live_values import (
    CameraCheck,
    is_whole,
    JointCheck,
    limit_s,
    rate_hz,
    rhythm,
    stamps,
)
from vla_alignment_ros.embodiment import (
    COMPRESSED_IMAGE,
    Embodiment,
    FLOAT64_MULTI_ARRAY,
    IMAGE,
    STRING,
)


def check_live(embodiment: Embodiment, seen: GraphSeen) -> list[Finding]:
    """Judge a running robot by its description; the faults first."""
    return sorted(_findings(embodiment, seen), key=lambda f: -LEVELS.index(f.level))


def _findings(e: Embodiment, seen: GraphSeen) -> Iterator[Finding]:
    checks: list[tuple[str, str, Callable[[list[Heard]], Iterator[Finding]]]] = [
        (camera.name, camera.topic, CameraCheck(camera)) for camera in e.cameras
    ]
    checks.append(('joint_states', e.joint_states_topic, JointCheck(e)))
    for name, topic, look in checks:
        msgtype = e.observation_topics()[topic]
        found = list(_source(name, topic, msgtype, seen))
        messages = [m for m in seen.topic(topic).messages if is_whole(m.raw, msgtype)]
        if messages:
            found += rhythm(name, messages, msgtype, e)
            found += stamps(name, messages, msgtype, limit_s(e, name))
            found += look(messages)
        elif seen.topic(topic).messages:
            found.append(Finding(FAULT, name, f'what comes on {topic} is no whole {msgtype}'))
        yield from found
        if not any(f.level == FAULT for f in found):
            yield Finding(OK, name, f'{topic}, {rate_hz(messages, msgtype):.1f} Hz')
    yield from _instruction(e, seen)
    for topic, msgtype in e.command_topics().items():
        yield from _command(topic, msgtype, seen)
    yield from _servo(e, seen.servo)
    yield from _controllers(e, seen)


# -- what is there ------------------------------------------------------------------------------


def _source(name: str, topic: str, msgtype: str, seen: GraphSeen) -> Iterator[Finding]:
    there = seen.topic(topic)
    if not there.publishers:
        others = [other for other in seen.others.get(msgtype, ()) if other != topic]
        hint = f'; {msgtype} is on {", ".join(others)}: remap, or correct the embodiment'
        yield Finding(FAULT, name, f'nobody publishes {topic}{hint if others else ""}')
        return
    yield from _types(name, topic, msgtype, there.publishers, 'is published')
    fitting = [p for p in there.publishers if p.msgtype == msgtype]
    if fitting and not there.messages:
        yield Finding(FAULT, name, f'{topic} has a publisher, but nothing came on it')
    if len(fitting) > 1:
        nodes = ', '.join(p.node for p in fitting)
        yield Finding(FAULT, name, f'{topic} has more than one publisher: {nodes}')


def _types(
    name: str, topic: str, msgtype: str, ends: tuple[Endpoint, ...], verb: str
) -> Iterator[Finding]:
    for end in ends:
        if end.msgtype != msgtype:
            mend = 'correct the topic'
            if {end.msgtype, msgtype} == {IMAGE, COMPRESSED_IMAGE}:
                mend = f'set compressed: {str(end.msgtype == COMPRESSED_IMAGE).lower()}'
            what = 'it' if name == topic else topic
            text = f'{what} {verb} as {end.msgtype} by {end.node}, not {msgtype}: {mend}'
            yield Finding(FAULT, name, text)


def _instruction(e: Embodiment, seen: GraphSeen) -> Iterator[Finding]:
    topic, there = e.instruction_topic, seen.topic(e.instruction_topic)
    found = list(_types('instruction', topic, STRING, there.publishers, 'is published'))
    for offer in there.publishers:
        lacks = [
            word
            for word, has in (('transient local', offer.transient_local),
                              ('reliable', offer.reliable))
            if not has
        ]  # fmt: skip
        if lacks:
            found.append(Finding(
                FAULT, 'instruction',
                f'{offer.node} offers {topic} not {" and ".join(lacks)}, so nothing of it '
                'arrives (incompatible QoS): publish it reliable and transient local',
            ))  # fmt: skip
    yield from found
    if not found:
        said = f'{topic}, from {there.publishers[0].node}' if there.publishers else ''
        yield Finding(
            OK if said else NOTE, 'instruction',
            said or f'nobody publishes {topic} yet: nothing moves before somebody does',
        )  # fmt: skip


def _command(topic: str, msgtype: str, seen: GraphSeen) -> Iterator[Finding]:
    there = seen.topic(topic)
    found = list(_types(topic, topic, msgtype, there.subscriptions, 'is listened to'))
    if not there.subscriptions:
        found.append(Finding(FAULT, topic, 'nobody listens to it: start the controller or remap'))
    found += [
        Finding(
            FAULT, topic,
            f'{end.node} asks for transient local, which commands are not (incompatible QoS): it '
            'hears nothing',
        )
        for end in there.subscriptions
        if end.transient_local
    ]  # fmt: skip
    for end in there.publishers:
        yield Finding(NOTE, topic, f'{end.node} commands it already: only one may at a time')
    yield from found
    if not found:
        nodes = ', '.join(end.node for end in there.subscriptions)
        yield Finding(OK, topic, f'listened to by {nodes}')


def _controllers(e: Embodiment, seen: GraphSeen) -> Iterator[Finding]:
    """Whether each controller moves the joints that it is sent, in that order."""
    for topic, controller in seen.controllers.items():
        moved, ordered = controller.joints, controller.msgtype == FLOAT64_MULTI_ARRAY
        sent = _sent(e, topic)
        same = [names for names in sent if sorted(names) == sorted(moved)]
        words = ', '.join((same or sent)[0])
        if not moved and ordered:
            yield Finding(
                NOTE, topic,
                f'nobody says which joints it moves; compare for yourself, it is sent {words}',
            )  # fmt: skip
        elif moved and not same:
            text = f'the controller moves {", ".join(moved)}; it is sent {words}'
            yield Finding(FAULT, topic, text)
        elif moved and ordered and moved not in sent:  # no names on the wire
            yield Finding(
                FAULT, topic,
                f'the controller takes {", ".join(moved)}, in that order; it is sent {words}: '
                'every joint would get the value of another',
            )  # fmt: skip
        elif moved:
            yield Finding(OK, topic, f'the controller moves {", ".join(moved)}')


def _sent(e: Embodiment, topic: str) -> list[tuple[str, ...]]:
    """The joints of a command, in their order; of a servo's, all that it may be."""
    codec = make_codec(e)
    if topic in codec.topics:
        return [codec.sent_names]
    gripper = (e.gripper.joint,)
    return [e.joint_names, (*e.joint_names, *gripper), gripper]


def _servo(e: Embodiment, servo: ServoSeen | None) -> Iterator[Finding]:
    """Whether what takes twists takes them as they are meant, and as seldom as they come."""
    if servo is None:
        return
    if servo.unitless:
        yield Finding(
            FAULT, 'servo',
            'it takes unitless twists (command_in_type); they are in m/s and rad/s: set '
            'speed_units',
        )  # fmt: skip
    period_s, timeout_s = 1.0 / e.rate_hz, servo.timeout_s
    if timeout_s is not None and timeout_s < 2.0 * period_s - 1e-6:
        much = timeout_s < period_s - 1e-6
        yield Finding(
            FAULT if much else NOTE, 'servo',
            f'it stops {timeout_s:g} s after a twist, and one comes every {period_s:g} s: '
            f'{"the arm stutters" if much else "one that is late stops the arm"}; set its '
            f'time-out to {2.0 * period_s:g} s',
        )  # fmt: skip
