"""P5: VGA frames a second onto the disk, against rosbags' own writer."""

from __future__ import annotations

from pathlib import Path
import shutil
import time

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from bench.results import BenchError, BenchSettings, Row
from bench.timing import take_turns
from vla_alignment_ros import wire
from vla_alignment_ros.data.bag_format import message_definition
from vla_alignment_ros.data.files import fsync
from vla_alignment_ros.data.recorder import EpisodeRecorder, RecorderOptions
from vla_alignment_ros.embodiment import Embodiment

IMAGE = 'sensor_msgs/msg/Image'


def run(settings: BenchSettings) -> Row:
    """The same frames from memory into a bag that is on the disk itself, in turns."""
    embodiment = Embodiment.load('tabletop')
    topic = embodiment.cameras[0].topic
    rng = np.random.default_rng(0)
    frames = [
        wire.encode_image(rng.integers(0, 256, (480, 640, 3), np.uint8), 1 + number, 'camera')
        for number in range(settings.size(150, 3))
    ]
    room = sum(map(len, frames)) + 2**20  # the queue takes them all: nothing may be dropped
    options = RecorderOptions(queue_bytes=room)
    pushed_s = 0.0

    def ours() -> float:
        nonlocal pushed_s
        recorder = EpisodeRecorder(settings.folder / 'ours', embodiment, options)
        recorder.start(0)
        start = time.perf_counter()
        for raw in frames:
            recorder.push(topic, raw)
        pushed_s = time.perf_counter() - start
        path = recorder.stop(True, {}, 0)
        took_s = time.perf_counter() - start
        recorder.close()
        if recorder.counts()[topic].written != len(frames):
            raise BenchError(f'the recorder lost frames: {recorder.counts()[topic]}')
        shutil.rmtree(path)
        return len(frames) / took_s

    def theirs(durable: bool = True) -> float:
        path = settings.folder / 'theirs'
        definition, digest = message_definition(IMAGE)
        start = time.perf_counter()
        with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            connection = writer.add_connection(
                f'/{topic}', IMAGE, msgdef=definition.data, rihs01=digest
            )
            for number, raw in enumerate(frames):
                writer.write(connection, 1 + number, raw)
        if durable:
            _to_disk(path)
        took_s = time.perf_counter() - start
        shutil.rmtree(path)
        return len(frames) / took_s

    samples = take_turns(
        {'ours': ours, 'theirs': theirs, 'careless': lambda: theirs(durable=False)},
        rounds=settings.size(9, 1),
    )
    return Row(
        key='P5',
        title='VGA frames recorded a second',
        unit='frames/s',
        ours=samples['ours'].p50,
        baseline=samples['theirs'].p50,
        goal=0.9,
        higher_is_better=True,
        ours_is='EpisodeRecorder: queue, thread and chunks that survive a kill, until the episode '
        'is on the disk and in its place',
        baseline_is="rosbags' `Writer` alone, mcap, then fsync of its files",
        figures={
            "rosbags' `Writer` without fsync": samples['careless'].p50,
            'a frame handed over by a callback, ms': 1e3 * pushed_s / len(frames),
            'frames in an episode, count': float(len(frames)),
        },
    )


def _to_disk(path: Path) -> None:
    for file in path.iterdir():
        fsync(file)
    fsync(path)
