"""P4: processor time of a recorder per recorded VGA frame, against one of typed messages."""

from __future__ import annotations

from rosbags.rosbag2 import Reader

from bench.idle_cost import cpu_s
from bench.recording import RECORDER, Recorder, vga
from bench.results import BenchError, BenchSettings, Row
from bench.timing import Samples
from bench.traffic import Sensors, START_S
from vla_alignment_ros.embodiment import Embodiment, IMAGE, JOINT_STATE

TYPED = 'typed_recorder'
RATE_HZ = 15.0  # of each of two cameras
LEAST = 0.9  # of the frames in both bags: else they did not do the same work


def run(settings: BenchSettings) -> Row:
    """Both record the same frames at the same time."""
    from vla_alignment_ros.evaluation.processes import NodeProcesses
    from vla_alignment_ros.nodes.client import Client
    from vla_alignment_ros.nodes.qos import reliable
    from vla_alignment_ros.nodes.recorder_inputs import IMAGE_DEPTH

    embodiment = Embodiment.load('tabletop')
    topics = [camera.topic for camera in embodiment.cameras]
    per_frame = {RECORDER: Samples(), TYPED: Samples()}
    path = settings.folder / TYPED
    kept = 0
    with NodeProcesses(settings.folder / 'log') as nodes:
        client = Client('bench_client', nodes.domain_id, nodes.check, START_S)
        try:
            recorder = Recorder(client, nodes, settings.folder / RECORDER)
            same = {**dict.fromkeys(topics, IMAGE), embodiment.joint_states_topic: JOINT_STATE}
            nodes.start(
                TYPED, f'bench.{TYPED}',
                {'path': str(path), 'topics': list(same), 'types': list(same.values())},
            )  # fmt: skip
            sensors = Sensors(
                client.node, embodiment, 'pick up the red cube', vga(embodiment),
                lambda: reliable(IMAGE_DEPTH),
            )  # fmt: skip
            client.until(
                lambda: all(
                    sensors.publishers[topic].get_subscription_count() >= 2 for topic in topics
                ),
                'the nodes to find each other',
            )
            recorder.until_reliable(topics)
            pids = {name: nodes.children[name] for name in per_frame}
            for _ in range(settings.size(5, 1)):
                client.trigger(f'{RECORDER}/start_episode')
                frames = sum(sensors.counts[topic] for topic in topics)
                before = {name: cpu_s(pid) for name, pid in pids.items()}
                with sensors.running(RATE_HZ):
                    recorder.wait(settings.size(6, 1))
                recorder.wait(1.0)  # what waits for the disk is written
                spent = {name: cpu_s(pid) - before[name] for name, pid in pids.items()}
                frames = sum(sensors.counts[topic] for topic in topics) - frames
                for name in per_frame:
                    per_frame[name].add(1e3 * spent[name] / frames)
                kept += recorder.finish(topics)
        finally:
            client.close()
    with Reader(path) as reader:  # of a node that has ended by now
        images = [c for c in reader.connections if c.msgtype == IMAGE]
        both = kept, sum(c.msgcount for c in images)
    published = sum(sensors.counts[topic] for topic in topics)
    if min(both) < LEAST * published:
        raise BenchError(f'of {published} frames {both[0]} and {both[1]} were recorded')
    # what was lost, on a busy machine, cost less than what was recorded
    ours, theirs = (
        per_frame[name].p50 * published / count for name, count in zip(per_frame, both)
    )
    return Row(
        key='P4',
        title='processor time of a recorder per recorded VGA frame',
        unit='ms',
        ours=ours,
        baseline=theirs,
        goal=0.5,
        ours_is='training_node, a process: everything that it does while it records images and '
        'joint states, from subscription to file, by the frames in its bags',
        baseline_is="a node with typed subscriptions, `serialize_message` and rosbags' `Writer` "
        'in its callbacks, recording the same messages at the same time; it has the executor of '
        'our nodes, and none of their settings',
        figures={
            'frames published, count': float(published),
            'frames in our bags, count': float(both[0]),
            'frames in its bag, count': float(both[1]),
            'frames a second, count': len(topics) * RATE_HZ,
        },
    )
