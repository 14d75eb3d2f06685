"""Topics come and go and clocks jump during an episode: what came is in the bag, in its order."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.data import session
from vla_alignment_ros.data.bag import EpisodeReader
from vla_alignment_ros.nodes.qos import reliable
from vla_alignment_ros.nodes.training_node import TrainingNode

NODE, TOPIC, IMAGE = 'training_node', 'front/image_raw', 'sensor_msgs/msg/Image'
SECOND, HOUR = 10**9, 3600 * 10**9
T0 = 7 * HOUR


def _image(ts_ns: int) -> bytes:
    return wire.encode_image(np.full((8, 8, 3), ts_ns % 251, np.uint8), ts_ns, 'front')


def _received(node: TrainingNode, topic: str = TOPIC) -> int:
    return node._recorder.counts()[topic].received


def test_a_topic_that_disappears_is_missed_and_heard_when_it_returns(
    ros, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(session, 'WINDOW_S', 0.3)  # of silence
    node = ros.add(TrainingNode, folder=str(tmp_path))
    assert node.bring_up()
    assert ros.trigger(f'{NODE}/start_episode').success
    sent: list[bytes] = []
    for life in range(4):
        output = ros.speak(TOPIC, IMAGE, reliable(100))
        ros.matched(output)
        for step in range(5):
            sent.append(_image(T0 + life * SECOND + step))
            output.publish(sent[-1])
        ros.until(lambda: _received(node) == len(sent), 'all that was sent')
        ros.client.destroy_publisher(output)
        ros.until(lambda: TOPIC in node._recorder.missing(), 'its absence')
        assert TOPIC in node._recorder.key_values()['missing']
    reader = EpisodeReader(Path(ros.set_bool(f'{NODE}/stop_episode', True).message))
    assert [bytes(raw) for *_, raw in reader.messages()] == sent


def test_clocks_that_jump_lose_nothing(ros, tmp_path: Path):
    clock = ros.speak('/clock', 'rosgraph_msgs/msg/Clock')
    output = ros.speak(TOPIC, IMAGE, reliable(100))
    grippers = ros.speak('gripper/command', 'std_msgs/msg/Float64', reliable(100))
    node = ros.add(TrainingNode, folder=str(tmp_path), use_sim_time=True)
    assert node.bring_up()
    for publisher in (clock, output, grippers):
        ros.matched(publisher)
    assert ros.trigger(f'{NODE}/start_episode').success
    stamps = []
    # an hour on, back to before the start, by a millisecond, and to a clock that was never set
    for jump_ns in (0, HOUR, -3 * HOUR, 10**6, -10**6, 2 * HOUR, -T0 + 1):
        clock.publish(wire.encode_clock(T0 + jump_ns))
        for step in range(3):
            stamps.append(T0 + jump_ns + step * 1000)
            output.publish(_image(stamps[-1]))
            ros.until(lambda: _received(node) == len(stamps), 'it')
            grippers.publish(wire.encode_float64(float(len(stamps))))
            ros.until(lambda: _received(node, 'gripper/command') == len(stamps), 'the gripper')
    reader = EpisodeReader(Path(ros.set_bool(f'{NODE}/stop_episode', True).message))
    assert sum(count.dropped for count in node._recorder.counts().values()) == 0
    logs: dict[str, list[tuple[int, bytes]]] = {}
    for topic, _, ts_ns, raw in reader.messages():
        logs.setdefault(topic, []).append((ts_ns, bytes(raw)))
    assert sorted(logs[TOPIC]) == sorted((ts_ns, _image(ts_ns)) for ts_ns in stamps)
    heard = {wire.decode_float64(raw): ts_ns for ts_ns, raw in logs['gripper/command']}
    assert sorted(heard) == list(range(1, len(stamps) + 1))
    # without a stamp of its own it is logged at that of the image before it, which may have been
    # late by less than a second
    late = [stamps[int(number) - 1] - ts_ns for number, ts_ns in heard.items()]
    assert all(-session.SET_BACK_NS <= ns <= 0 for ns in late)
