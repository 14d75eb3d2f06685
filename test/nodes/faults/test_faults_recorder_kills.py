"""A recorder that is killed at any moment loses at most one chunk, and nothing that was finished.

The node is a real process and is ended with SIGKILL. What it had taken it has said on `~/status`;
what it then lost of that is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
import itertools
import os
from pathlib import Path
import shutil
import threading

import numpy as np
import pytest
from rclpy.qos import ReliabilityPolicy
from recorder_process import processes, start_recorder
from std_srvs.srv import SetBool

from vla_alignment_ros import wire
from vla_alignment_ros.data.bag import EpisodeReader, find_episodes
from vla_alignment_ros.data.bag_places import remove_shells, unfinished
from vla_alignment_ros.data.recorder import EpisodeRecorder
from vla_alignment_ros.data.recover import recover_recording
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import BagError
from vla_alignment_ros.nodes.qos import latched, reliable

TOPIC, IMAGE = 'front/image_raw', 'sensor_msgs/msg/Image'
STATUS = 'diagnostic_msgs/msg/DiagnosticStatus'
CHUNK_BYTES = 2**20
BURST = 20  # messages
FEW, ALL = 3, 50  # lives
EACH_FEW, EACH_ALL = 4, 50  # episodes of each of two recorders
T0 = 5_000_000_000


@dataclass
class Lives:
    """Recorders one after the other on one folder, each killed."""

    new_ros: Callable[[], AbstractContextManager]
    domain_id: int
    folder: Path
    rng: np.random.Generator
    numbers: itertools.count = field(default_factory=itertools.count)
    lost: list[int] = field(default_factory=list)  # bytes that had been written, by life
    saved: int = 0  # messages
    finished: int = 0  # episodes whose end was through before the kill

    def live(self, number: int) -> None:
        name = f'recorder_{number}'
        storage = ('mcap', 'sqlite3')[number % 2]
        process = start_recorder(
            name, self.folder, self.domain_id, status_period_s=0.05, storage=storage
        )
        # anew for each: what DDS had in shared memory for a process that was killed stays taken,
        # and in the end nothing large goes through any more
        with self.new_ros() as ros:
            try:
                told, episode, sent = self._until_the_kill(ros, name, stopping=number % 5 == 4)
            finally:
                process.kill()
                process.join()
        self._judge(episode, sent, int(_values(told)['bytes']))

    def _until_the_kill(self, ros, name: str, stopping: bool) -> tuple[object, str, list[bytes]]:
        output = ros.speak(TOPIC, IMAGE, reliable(1000))
        told = ros.listen(f'{name}/status', STATUS, latched(), raw=False)
        told.wait_for(lambda all_: all_, 120.0)
        ros.until(lambda: ros.state(name) == 'active', 'the node to be active')
        # best effort may lose on the way what is not the recorder's to lose
        ros.until(lambda: _heard(ros), 'a reliable subscription')
        episode = ros.trigger(f'{name}/start_episode').message
        sent = self._record(told, output)
        last = told.messages[-1]
        if stopping:
            ros.client.create_client(SetBool, f'{name}/stop_episode').call_async(
                SetBool.Request(data=True)
            )
            threading.Event().wait(self.rng.uniform(0.0, 0.5))  # some moment of its end
        return last, episode, sent

    def _record(self, told, output) -> list[bytes]:
        """Publish until so many were taken, and then some; all that was sent.

        Never many more than it has heard: DDS keeps only so much for a process that gets no time.
        """
        sent, pause = [], threading.Event()  # never set
        target, heard, unheard, polls = int(self.rng.integers(1, 120)), 0, 0, 0
        while heard < target:
            before, heard = heard, _received(told.messages[-1])
            unheard, polls = (unheard, polls + 1) if heard == before else (0, 0)
            assert polls < 30_000, f'only {heard} of {target} messages were received'
            if unheard < BURST or polls % 250 == 249:
                sent.append(self._publish(output))
                unheard += 1
            pause.wait(0.002)
        return sent + [self._publish(output) for _ in range(self.rng.integers(0, BURST))]

    def _publish(self, output) -> bytes:
        number = next(self.numbers)
        width = int(self.rng.integers(10, 200))
        pixels = np.full((100, width, 3), number % 256, np.uint8)
        raw = wire.encode_image(pixels, T0 + number, 'front')
        output.publish(raw)
        return raw

    def _judge(self, episode: str, sent: list[bytes], told_bytes: int) -> None:
        final, partial = self.folder / episode, self.folder / f'.{episode}.partial'
        if final.exists():
            assert not unfinished(self.folder)
            self.finished += 1
            remove_shells(self.folder)  # as the next recorder does
        else:
            assert os.listdir(self.folder) == [partial.name]
            try:
                assert recover_recording(partial).path == final
            except BagError as error:
                if 'no message' not in str(error):  # within the first moment of it
                    raise
                shutil.rmtree(partial)
                final.mkdir()
        assert os.listdir(self.folder) == [episode]
        raws = []
        if os.listdir(final):
            raws = [bytes(raw) for *_, raw in EpisodeReader(final).messages()]
        first = sent.index(raws[0]) if raws else 0
        assert raws == sent[first : first + len(raws)]  # no gap, no twin, no half
        self.lost.append(max(0, told_bytes - sum(map(len, raws))))
        assert self.lost[-1] <= CHUNK_BYTES
        self.saved += len(raws)
        shutil.rmtree(final)


def _heard(ros) -> bool:
    ears = ros.client.get_subscriptions_info_by_topic(f'/{TOPIC}')
    return any(ear.qos_profile.reliability == ReliabilityPolicy.RELIABLE for ear in ears)


def _values(status) -> dict[str, str]:
    return {item.key: item.value for item in status.values}


def _received(status) -> int:
    return int(_values(status).get(TOPIC, 'received 0,').split()[1].rstrip(','))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize('lives', [FEW, pytest.param(ALL, marks=pytest.mark.long)])
def test_a_kill_loses_at_most_a_chunk_of_the_running_episode(
    new_ros, ros_domain: int, tmp_path: Path, lives
):
    folder = tmp_path / 'demos'
    counted = Lives(new_ros, ros_domain, folder, np.random.default_rng(11))
    for number in range(lives):
        counted.live(number)
    print(
        f'{lives} kills: {counted.saved} messages recovered, {counted.finished} episodes were '
        f'finished, at most {max(counted.lost)} bytes that had been written were lost'
    )
    assert len(counted.lost) == lives and counted.saved > lives


def _record_many(folder: Path, seed: int, count: int, begin, answers) -> None:
    embodiment = Embodiment.load('tabletop')
    recorder = EpisodeRecorder(folder, embodiment)
    begin.wait()
    names = []
    for number in range(count):
        names.append(recorder.start(0))
        pixels = np.full((10, 10, 3), seed, np.uint8)
        for ts_ns in range(1, 4):
            raw = wire.encode_image(pixels, T0 + 10 * number + ts_ns, 'front')
            recorder.push(TOPIC, raw)
        if number % 4 == 3:
            recorder.discard()
            names.pop()
        else:
            recorder.stop(True, {'seed': str(seed)}, 0)
    recorder.close()
    answers.put((seed, names))


@pytest.mark.timeout(600)
@pytest.mark.parametrize('each', [EACH_FEW, pytest.param(EACH_ALL, marks=pytest.mark.long)])
def test_two_recorders_on_one_folder_do_not_touch_each_other(tmp_path: Path, each):
    context = processes()
    begin, answers = context.Barrier(2), context.Queue()
    both = [
        context.Process(target=_record_many, args=(tmp_path, seed, each, begin, answers))
        for seed in (1, 2)
    ]
    for process in both:
        process.start()
    names = dict(answers.get(timeout=300) for _ in both)
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert sorted(names[1] + names[2]) == [path.name for path in find_episodes(tmp_path)]
    assert sorted(os.listdir(tmp_path)) == sorted(names[1] + names[2])
    for seed, mine in names.items():
        for name in mine:
            reader = EpisodeReader(tmp_path / name)
            assert reader.info.extra['seed'] == str(seed)
            images = [wire.decode_image(raw).image for *_, raw in reader.messages()]
            assert [image.max() for image in images] == [seed] * 3
