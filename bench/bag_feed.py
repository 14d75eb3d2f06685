"""P11: control steps a second from recorded bags to training batches, against a bare reader."""

from __future__ import annotations

from collections.abc import Sequence
import os
from pathlib import Path
import shutil
import time

import cv2
from rosbags.rosbag2 import Reader
from rosbags.typesys import get_typestore, Stores

from bench.bag_memory import MIB, PUBLISHED
from bench.inputs import record_episode
from bench.results import BenchSettings, Row
from bench.timing import take_turns
from vla_alignment_ros.data.cache import build_cache
from vla_alignment_ros.data.dataset import DemonstrationDataset
from vla_alignment_ros.embodiment import Embodiment

BATCH = 64


def run(settings: BenchSettings) -> Row:
    """Every bag once, in turns: the first epoch with its cache, the next one, and the reader."""
    embodiment = Embodiment.load('tabletop')
    ticks, said = settings.size(200, 6), 'pick up the red cube'
    bags = [
        record_episode(settings.folder / 'bags', embodiment, ticks, said, PUBLISHED, seed)
        for seed in range(settings.size(16, 2))
    ]
    size_mib = sum(file.stat().st_size for bag in bags for file in bag.iterdir()) / MIB
    cache_dir = settings.folder / 'cache'

    def epoch() -> int:
        cache = build_cache(bags, embodiment, cache_dir, workers=0, progress=False)
        dataset = DemonstrationDataset(cache, 'all')
        for begin in range(0, len(dataset), BATCH):
            dataset.get_batch(range(begin, min(begin + BATCH, len(dataset))))
        return len(dataset)

    def first() -> float:
        shutil.rmtree(cache_dir, ignore_errors=True)
        return _rate(epoch)

    samples = take_turns(
        {
            'first epoch': first,
            'cached epoch': lambda: _rate(epoch),
            'reader': lambda: _rate(lambda: _read(bags, embodiment)),
            'resizing reader': lambda: _rate(lambda: _read(bags, embodiment, resize=True)),
        },
        rounds=settings.size(5, 1),
    )
    ours = min(('first epoch', 'cached epoch'), key=lambda name: samples[name].p50)
    return Row(
        key='P11',
        title='control steps read from bags for training',
        unit='steps/s',
        ours=samples[ours].p50,
        baseline=samples['reader'].p50,
        goal=0.8,
        higher_is_better=True,
        ours_is=f'an epoch of `DemonstrationDataset` batches from bags of VGA and QVGA images '
        f'({ours}: the slower of two)',
        baseline_is="rosbags' own loop over the same bags: `Reader.messages`, `deserialize_cdr`",
        note='The first epoch is bound by making training images, which the bare reader '
        'does not do; the resizing reader does that too, with cv2. As `vla_train` does, the first '
        'epoch takes one process more for every 512 MiB of recordings, up to the number of cores; '
        'the baselines have one.',
        figures={f'{name}, steps/s': found.p50 for name, found in samples.items()}
        | {'cores': float(len(os.sched_getaffinity(0))), 'recordings, MiB': size_mib},
    )


def _rate(epoch) -> float:
    start = time.perf_counter()
    steps = epoch()
    return steps / (time.perf_counter() - start)


def _read(bags: Sequence[Path], embodiment: Embodiment, resize: bool = False) -> int:
    store, steps = get_typestore(Stores.ROS2_JAZZY), 0
    cameras = {camera.topic: camera for camera in embodiment.cameras}
    counted = embodiment.cameras[0].topic
    for bag in bags:
        with Reader(bag) as reader:
            for connection, _, raw in reader.messages():
                message = store.deserialize_cdr(raw, connection.msgtype)
                camera = cameras.get(topic := connection.topic.lstrip('/'))
                if resize and camera is not None:
                    pixels = message.data.reshape(message.height, message.width, 3)
                    size = camera.width, camera.height
                    cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
                steps += topic == counted
    return steps
