"""Records demonstrations over ROS: simulator, scripted expert and recorder as processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
import os
from pathlib import Path
from typing import Protocol

from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.evaluation.processes import NodeProcesses, READY_S

NODES = 'vla_alignment_ros.nodes'


class Recorder(Protocol):
    """Who talks to the three nodes: `vla_alignment_ros.nodes.recording_client`."""

    def wait_until_ready(self, timeout_s: float) -> None: ...

    def record(self, split: str, seed: int) -> Path: ...

    def close(self) -> None: ...


def record_over_ros(
    folder: Path,
    episodes: Iterable[tuple[str, int]],
    connect: Callable[[int, Callable[[], None], Embodiment], Recorder],
    embodiment: str = 'tabletop',
    log_folder: Path | None = None,
) -> Iterator[Path]:
    """Yield the folder of each bag as it is finished.

    episodes: (split, seed) pairs. connect: makes the client from the nodes' domain, the check
    that tells whether they still run, and the embodiment. Leaving the iterator early ends the
    processes too.
    """
    with NodeProcesses(log_folder) as processes:
        processes.start(
            'simulator_node',
            f'{NODES}.simulator_node',
            {'embodiment': embodiment, 'lockstep': True, 'reset_on_start': False},
        )
        processes.start('expert_node', f'{NODES}.expert_node', {'embodiment': embodiment})
        processes.start(
            'training_node',
            f'{NODES}.training_node',
            {'embodiment': embodiment, 'folder': str(folder.resolve())},
        )
        os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
        client = connect(processes.domain_id, processes.check, Embodiment.load(embodiment))
        try:
            client.wait_until_ready(READY_S)
            for split, seed in episodes:
                yield client.record(split, seed)
        finally:
            client.close()
