"""The disk fills up, refuses, or goes away: the episode is marked, the node lives and says so."""

from __future__ import annotations

from pathlib import Path
import shutil
import subprocess

from diagnostic_msgs.msg import DiagnosticStatus
import numpy as np
import pytest

from vla_alignment_ros import wire
from vla_alignment_ros.data.bag import EpisodeReader, find_episodes
from vla_alignment_ros.data.recover import recover_recording
from vla_alignment_ros.nodes.diagnostics import DIAGNOSTICS_TOPIC
from vla_alignment_ros.nodes.qos import reliable
from vla_alignment_ros.nodes.training_node import TrainingNode

NODE, TOPIC = 'training_node', 'front/image_raw'
T0 = 5_000_000_000
DISK_MB, MORE_MB = 3, 16


def _mount(*arguments: str) -> None:
    try:
        subprocess.run(['mount', *arguments], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, 'stderr', '') or error
        pytest.skip(f'a small disk cannot be mounted here: {reason}')


@pytest.fixture
def disk(tmp_path: Path):
    """A disk of its own, of three megabytes."""
    place = tmp_path / 'disk'
    place.mkdir()
    _mount('-t', 'tmpfs', '-o', f'size={DISK_MB}m', 'tmpfs', str(place))
    yield place
    subprocess.run(['umount', '--lazy', str(place)], check=True)


class Scene:
    """A recorder and a camera, and what the recorder says on /diagnostics."""

    def __init__(self, ros, folder: Path) -> None:
        self.ros = ros
        self.node = ros.add(
            TrainingNode, folder=str(folder), min_free_bytes=0, status_period_s=0.05
        )
        assert self.node.bring_up()
        self.output = ros.speak(TOPIC, 'sensor_msgs/msg/Image', reliable(1000))
        ros.matched(self.output)
        self.inbox = ros.listen(
            DIAGNOSTICS_TOPIC, 'diagnostic_msgs/msg/DiagnosticArray', raw=False
        )
        self.ts_ns = T0

    def show(self, count: int) -> list[bytes]:
        sent = []
        for _ in range(count):
            self.ts_ns += 1_000_000
            image = np.full((240, 320, 3), self.ts_ns // 1_000_000 % 251, np.uint8)
            sent.append(wire.encode_image(image, self.ts_ns, 'front'))
            self.output.publish(sent[-1])
        return sent

    def wait_for_error(self, text: str) -> None:
        def told(arrays) -> bool:
            status = arrays[-1].status[0] if arrays else None
            return bool(status) and status.level == DiagnosticStatus.ERROR and (
                text in status.message
            )

        self.inbox.wait_for(told)

    def take(self) -> Path:
        """A whole episode, as if nothing had been; and no error is told any more."""
        name = self.ros.trigger(f'{NODE}/start_episode')
        assert name.success, name.message
        sent = self.show(3)
        self.until_received(3)
        stopped = self.ros.set_bool(f'{NODE}/stop_episode', True)
        assert stopped.success, stopped.message
        path = Path(stopped.message)
        assert [bytes(raw) for *_, raw in EpisodeReader(path).messages()] == sent
        seen = len(self.inbox.messages)
        self.inbox.wait_for(
            lambda all_: any(a.status[0].level != DiagnosticStatus.ERROR for a in all_[seen:])
        )
        return path

    def until_received(self, count: int) -> None:
        recorder = self.node._recorder
        self.ros.until(lambda: recorder.counts()[TOPIC].received >= count, f'{count} messages')


def test_a_disk_that_is_full_costs_the_end_of_an_episode(ros, disk: Path):
    scene = Scene(ros, disk / 'demos')
    assert ros.trigger(f'{NODE}/start_episode').success
    sent = scene.show(30)  # 7 MB
    scene.wait_for_error('No space left on device')
    scene.until_received(30)
    refused = ros.set_bool(f'{NODE}/stop_episode', True)
    assert not refused.success and 'not whole' in refused.message
    count = scene.node._recorder.counts()[TOPIC]
    assert count.received == 30 == count.written + count.dropped and count.dropped > 15
    assert find_episodes(disk / 'demos') == []
    (left,) = scene.node._recorder.disk.unfinished  # the mark
    _mount('-o', f'remount,size={MORE_MB}m', str(disk))
    done = recover_recording(left)
    info = EpisodeReader(done.path).info
    assert info.success is None and 'recovered' in info.extra
    saved = [bytes(raw) for *_, raw in EpisodeReader(done.path).messages()]
    assert saved == sent[: len(saved)] and len(saved) >= count.written > 0
    scene.take()


def test_a_read_only_disk_is_a_refusal(ros, disk: Path):
    scene = Scene(ros, disk / 'demos')
    first = scene.take()
    _mount('-o', 'remount,ro', str(disk))
    refused = ros.trigger(f'{NODE}/start_episode')
    assert not refused.success and 'Read-only file system' in refused.message
    scene.wait_for_error('Read-only file system')
    _mount('-o', 'remount,rw', str(disk))
    second = scene.take()
    assert find_episodes(disk) == [first, second]


def test_a_folder_that_goes_away_costs_one_episode(ros, tmp_path: Path):
    scene = Scene(ros, tmp_path / 'demos')
    assert ros.trigger(f'{NODE}/start_episode').success
    scene.show(3)
    scene.until_received(3)
    shutil.rmtree(tmp_path / 'demos')
    scene.wait_for_error('No such file or directory')
    scene.show(3)
    scene.until_received(6)
    assert not ros.set_bool(f'{NODE}/stop_episode', True).success
    count = scene.node._recorder.counts()[TOPIC]
    assert (count.received, count.dropped + count.written) == (6, 6)
    scene.take()
