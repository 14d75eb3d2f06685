"""Drives simulator, expert and training node through demonstrations, one bag each."""

from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
import shutil

from std_msgs.msg import Bool
from std_srvs.srv import SetBool

from vla_alignment_ros.data.episode import index_episode
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import BagError, SimulationError
from vla_alignment_ros.nodes.client import Client
from vla_alignment_ros.nodes.qos import latched
from vla_alignment_ros.sim.record import episode_metadata
from vla_alignment_ros.sim.spec import EpisodeSpec

SIMULATOR, EXPERT, TRAINING = 'simulator_node', 'expert_node', 'training_node'
ATTEMPTS = 3  # a camera that was discovered too late costs the first frames


class RecordingClient(Client):
    """One client of one simulator, one expert and one training node, in lock-step."""

    def __init__(
        self, domain_id: int, check: Callable[[], None], embodiment: Embodiment
    ) -> None:
        super().__init__('recording_client', domain_id, check)
        self._embodiment = embodiment
        self._status: dict[str, str] = {}
        self._done = False  # the expert has fallen silent
        self._at_rest = False  # and the simulator has nothing new to say
        self.on_values(f'{SIMULATOR}/status', self._on_status)
        self.node.create_subscription(Bool, f'{EXPERT}/done', self._on_done, latched())

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait for the three nodes and make the recorder ready."""
        self.configure(TRAINING, timeout_s)
        self.activate(TRAINING)
        self.set_parameters(SIMULATOR, {})
        self.set_parameters(EXPERT, {})
        # nobody may miss the first messages: the recorder hears all, the simulator the commands
        heard = dict.fromkeys(self._embodiment.recorded_topics(), 1)
        heard |= dict.fromkeys(self._embodiment.command_topics(), 2)
        for topic, count in {**heard, f'{SIMULATOR}/state': 1}.items():
            self.until(
                lambda t=topic, n=count: self.node.count_subscribers(t) >= n,
                f'subscribers of {topic}',
                timeout_s,
            )

    def record(self, split: str, seed: int) -> Path:
        """Have the expert solve one episode; the folder of its bag.

        Raises:
            SimulationError: the expert failed, or messages were lost again and again.
        """
        self.set_parameters(SIMULATOR, {'split': split, 'seed': seed})
        for _ in range(ATTEMPTS):
            path, steps = self._attempt(split, seed)
            samples = len(index_episode(path))
            if samples == steps:
                return path
            shutil.rmtree(path)  # just made, and not whole
        raise SimulationError(
            f'messages were lost: {samples} samples of {steps} steps ({split} {seed})'
        )

    def _attempt(self, split: str, seed: int) -> tuple[Path, int]:
        self.trigger(f'{TRAINING}/start_episode')
        before = self._status.get('episode')
        self._done = self._at_rest = False
        spec = EpisodeSpec.from_dict(json.loads(self.trigger(f'{SIMULATOR}/reset')))
        notes = [f'{key}={value}' for key, value in episode_metadata(spec).items()]
        self.set_parameters(TRAINING, {'notes': notes})
        self._until_finished(before, f'the expert to go on with {spec.instruction!r}')
        success = self._status['success'] == 'true'
        request = SetBool.Request(data=success)
        answer = self.call(SetBool, f'{TRAINING}/stop_episode', request)
        if not answer.success:
            raise BagError(f'{TRAINING} could not finish the bag: {answer.message}')
        if not success:
            raise SimulationError(f'the expert failed {spec.instruction!r} ({split} {seed})')
        return Path(answer.message), int(self._status['steps'])

    def _until_finished(self, before: str | None, what: str) -> None:
        """Wait for the end of the episode after `before`: patience is with every step anew."""

        def now() -> tuple[str | None, ...]:
            return self._status.get('episode'), self._status.get('steps')

        def finished() -> bool:
            return self._status.get('episode') != before and self._at_rest

        while not finished():
            seen = now()
            self.until(lambda seen=seen: finished() or now() != seen, what)

    def _on_status(self, values: dict[str, str]) -> None:
        if 'episode' not in values:
            return
        # Topics overtake each other: the expert's word may come before the last steps' statuses.
        # Without commands the simulator repeats itself; an end that is repeated is the end.
        repeated = values['steps'] == self._status.get('steps')
        self._at_rest = self._done and repeated and values['done'] == 'true'
        self._status = values

    def _on_done(self, message: Bool) -> None:
        self._done = message.data

