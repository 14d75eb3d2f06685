"""P17: what is lost where two VGA cameras, fast joint states and a policy share one machine."""

from __future__ import annotations

import torch

from bench.idle_cost import cpu_s
from bench.recording import RECORDER, Recorder, vga
from bench.results import BenchSettings, Row
from bench.traffic import NODE, served
from vla_alignment_ros.policy.policy import Policy

IMAGE_HZ, STATES_PER_IMAGE = 30.0, 17  # joint states at 510 Hz


def run(settings: BenchSettings) -> Row:
    """Record beside a policy node that decides on the same messages."""
    from vla_alignment_ros.nodes.qos import reliable
    from vla_alignment_ros.nodes.recorder_inputs import DEPTH

    torch.set_num_threads(settings.threads)
    policy = Policy.load(settings.checkpoint)
    embodiment, window_s = policy.embodiment, settings.size(60, 1)
    images, states = embodiment.cameras[0].topic, embodiment.joint_states_topic
    decisions = 0

    def decided(values: dict[str, str]) -> None:
        nonlocal decisions
        decisions += 1

    sensing = {'sizes': vga(embodiment), 'offered': lambda: reliable(DEPTH)}
    with served(settings, settings.checkpoint, policy, **sensing) as (client, sensors, nodes):
        recorder = Recorder(client, nodes, settings.folder / RECORDER)
        topics = [camera.topic for camera in embodiment.cameras] + [states]
        recorder.until_reliable(topics)
        client.on_values(f'{NODE}/decision', decided)
        client.trigger(f'{RECORDER}/start_episode')
        before_s = cpu_s(nodes.children[RECORDER])
        with sensors.running(IMAGE_HZ, STATES_PER_IMAGE):
            recorder.wait(window_s)
        recorder.wait(2.0)  # what is under way arrives
        spent_s = cpu_s(nodes.children[RECORDER]) - before_s
        kept = recorder.finish(topics)
    published = sensors.counts.total()
    return Row(
        key='P17',
        title=f'messages in the bag, two VGA cameras and a policy, {window_s} s',
        unit='messages',
        ours=float(kept),
        baseline=float(published),
        goal=1.0,
        higher_is_better=True,
        ours_is='messages in the bag of training_node, which records everything while policy_node '
        'decides on it',
        baseline_is='messages that were published meanwhile: none may be missing',
        figures={
            'not in the bag': float(published - kept),
            'of those, dropped by the recorder': float(recorder.dropped),
            'images a second, of each camera': sensors.counts[images] / window_s,
            'joint states a second': sensors.counts[states] / window_s,
            'decisions a second': decisions / window_s,
            'processor time of the recorder, % of a core': 100 * spent_s / window_s,
        },
    )
