"""A training_node as a process, and what it is asked and says: for the rows about recording."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
import shutil
import time

from bench.results import BenchError
from bench.traffic import START_S
from vla_alignment_ros.data.bag import EpisodeReader
from vla_alignment_ros.embodiment import Embodiment

RECORDER = 'training_node'
VGA = (640, 480)


def vga(embodiment: Embodiment) -> dict[str, tuple[int, int]]:
    """Every camera publishes VGA."""
    return {camera.name: VGA for camera in embodiment.cameras}


class Recorder:
    """Starts the node in `nodes` and waits until it is active; it records into `folder`."""

    def __init__(self, client: object, nodes: object, folder: Path) -> None:
        self._client = client
        self.dropped = 0  # messages of the last episode, as it says
        nodes.start(
            RECORDER, f'vla_alignment_ros.nodes.{RECORDER}', {'folder': str(folder)}
        )
        client.configure(RECORDER, START_S)
        client.activate(RECORDER)
        client.on_values(f'{RECORDER}/status', self._on_status)

    def until_reliable(self, topics: Iterable[str]) -> None:
        """Wait until its subscriptions have become those of the publishers."""
        node = self._client.node

        def reliable(topic: str) -> bool:
            ears = node.get_subscriptions_info_by_topic(node.resolve_topic_name(topic))
            mine = [ear for ear in ears if ear.node_name == RECORDER]
            return bool(mine) and all(e.qos_profile.reliability.name == 'RELIABLE' for e in mine)

        self._client.until(lambda: all(map(reliable, topics)), 'reliable subscriptions')

    def wait(self, seconds: float) -> None:
        """Let time pass, and take what it says."""
        end = time.monotonic() + seconds
        self._client.until(lambda: time.monotonic() >= end, 'the window', seconds + 60.0)

    def finish(self, topics: Iterable[str]) -> int:
        """End the episode; how many messages of these topics its bag holds. It is removed."""
        from std_srvs.srv import SetBool

        service = f'{RECORDER}/stop_episode'
        answer = self._client.call(SetBool, service, SetBool.Request(data=True))
        if not answer.success:
            raise BenchError(f'{service}: {answer.message}')
        path = Path(answer.message)
        counts = EpisodeReader(path).info.message_counts
        shutil.rmtree(path)
        return sum(counts.get(topic, 0) for topic in topics)

    def _on_status(self, values: dict[str, str]) -> None:
        words = [text.replace(',', '').split() for text in values.values()]
        self.dropped = sum(int(w[5]) for w in words if w[::2][:3] == _COUNTS)


_COUNTS = ['received', 'written', 'dropped']
