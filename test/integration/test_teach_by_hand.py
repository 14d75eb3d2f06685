"""A person at a terminal and a gamepad teaches: real processes, from the keys to the samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import time

from node_processes import EXIT_S, START_S
import numpy as np
import pytest
from std_srvs.srv import SetBool

from vla_alignment_ros import wire
from vla_alignment_ros.control.pads import Pad
from vla_alignment_ros.data.bag import EpisodeReader, find_episodes
from vla_alignment_ros.data.episode import read_episode
from vla_alignment_ros.embodiment import INTERVENTION_TOPIC
from vla_alignment_ros.nodes.qos import advertise, latched, reliable, sensor_data, subscribe_raw

TWIST = 'servo/delta_twist_cmds'
PAUSE_S = 2.0  # what a busy machine may take between two keys or messages of a pad
FULL_M = 0.3 * 0.05  # per control step: the default share of the tabletop's fastest


class Person:
    """Watches the arm, and what is said on the terminal."""

    def __init__(self, client, terminal) -> None:
        self.client, self.terminal = client, terminal
        self.twists: list[wire.TwistSample] = []
        self.flags: list[bool] = []
        subscribe_raw(
            client.node, TWIST, 'geometry_msgs/msg/TwistStamped',
            lambda raw: self.twists.append(wire.decode_twist_stamped(bytes(raw))), reliable(1000),
        )  # fmt: skip
        subscribe_raw(
            client.node, INTERVENTION_TOPIC, 'std_msgs/msg/Bool',
            lambda raw: self.flags.append(wire.decode_bool(bytes(raw))), latched(),
        )  # fmt: skip

    def reads(self, text: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.client.until(lambda: meanwhile() or text in self.terminal.shown, text, START_S)

    def starts_an_episode(self) -> None:
        """Press the key until the recorder has answered: it may still be on its way."""
        asked_s = 0.0

        def answered() -> bool:
            nonlocal asked_s
            if 'start: episode' not in self.terminal.shown and time.monotonic() - asked_s > 3.0:
                asked_s = time.monotonic()
                self.terminal.type('1')
            return 'start: episode' in self.terminal.shown

        self.client.until(answered, 'an episode', START_S)

    def sees(
        self, dim: int, metres: float, times: int, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Wait until the arm has gone so fast for so long: metres per control step."""
        def seen() -> bool:
            meanwhile()
            newest = [t.linear[dim] / 10.0 for t in self.twists[-times:]]
            return len(newest) == times and np.allclose(newest, metres, atol=1e-6)

        self.client.until(seen, f'{metres} m per step', START_S)


@pytest.mark.long
@pytest.mark.timeout(500)
def test_a_person_corrects_a_policy_by_keys_and_pad_and_the_samples_say_so(
    processes, client, checkpoint, terminal, tmp_path: Path
):
    demos, person = tmp_path / 'demos', Person(client, terminal)
    clocked = {'use_sim_time': True, 'autostart': True}
    processes.start('simulator_node', publish_instruction=True, split='seen')
    processes.start('training_node', folder=str(demos), **clocked)
    processes.start(
        'policy_node', checkpoint=str(checkpoint), intervention_timeout_s=PAUSE_S, **clocked,
        **{'gate.enabled': False},
    )  # fmt: skip
    processes.start_at(
        terminal, 'teleop_node', prefix='teleop', keyboard=True, use_sim_time=True,
        joy_timeout_s=PAUSE_S, key_timeout_s=PAUSE_S,
    )  # fmt: skip
    pad = advertise(client.node, 'joy', 'sensor_msgs/msg/Joy', sensor_data())
    person.reads('let go and the arm stops.')
    client.until(lambda: any(np.any(t.linear) for t in person.twists), 'the policy', START_S)
    person.starts_an_episode()

    with terminal.holding('a'):  # to the left
        client.until(lambda: person.flags[-1:] == [True], 'the person', START_S)
        person.sees(1, FULL_M, times=5)
    client.until(lambda: person.flags[-1:] == [False], 'the policy again', START_S)

    def push(held: bool) -> None:
        pad.publish(_joy(held))

    # the pad is there, and its dead-man button seen to be free
    person.reads('nothing moves without it', meanwhile=lambda: push(False))
    person.sees(0, -FULL_M, times=4, meanwhile=lambda: push(True))
    # it loses its radio with the button held down: nothing comes any more
    client.until(lambda: person.flags[-1:] == [False], 'the policy again', START_S)

    with terminal.holding('q'):
        person.sees(2, FULL_M, times=5)
    teleop = processes.running.pop('teleop_node')
    terminal.hang_up()
    assert teleop.wait(EXIT_S) == 0
    client.until(lambda: person.flags[-1:] == [False], 'the policy again', START_S)
    answer = client.call(SetBool, 'training_node/stop_episode', SetBool.Request(data=True))
    assert answer.success, answer.message
    _check_corrections(Path(answer.message))


def _joy(held: bool) -> bytes:
    """The left stick pulled back, the dead-man button held or not."""
    axes, buttons = np.zeros(8, np.float32), np.zeros(11, np.int32)
    axes[1], buttons[Pad.load('xbox').deadman] = -1.0, held
    header = wire.header(time.time_ns(), '')
    return wire.encode(wire.make('sensor_msgs/msg/Joy', header=header, axes=axes, buttons=buttons))


def _check_corrections(path: Path) -> None:
    reader = EpisodeReader(path)
    assert reader.info.extra['interventions'] == '3' and reader.info.success is True
    told = [wire.decode_bool(raw) for *_, raw in reader.messages([INTERVENTION_TOPIC])]
    assert told == [True, False] * 3
    index = read_episode(path).index
    ways = index.actions[index.chunk_start, :3]  # (T, 3) m, what answers each sample
    corrected = ways[index.correction]
    assert 0 < len(corrected) < len(ways)
    for dim, metres in ((1, FULL_M), (0, -FULL_M), (2, FULL_M)):
        full = np.isclose(corrected[:, dim], metres, atol=1e-6)
        assert full.sum() >= 2, f'{dim}: {corrected[:, dim]}'
        others = np.delete(corrected[full], dim, axis=1)
        assert np.abs(others).max() < 1e-6


@pytest.mark.timeout(300)
def test_a_person_records_a_demonstration_with_the_keyboard_alone(
    processes, client, terminal, tmp_path: Path
):
    person = Person(client, terminal)
    processes.start('simulator_node', publish_instruction=True, split='seen')
    processes.start('training_node', folder=str(tmp_path), autostart=True, use_sim_time=True)
    processes.start_at(terminal, 'teleop_node', keyboard=True, use_sim_time=True)
    person.reads('let go and the arm stops.')
    person.starts_an_episode()
    with terminal.holding('w'):
        person.sees(0, FULL_M, times=5)
    with terminal.holding('e'):
        terminal.type(' ')
        person.sees(2, -FULL_M, times=5)
    person.sees(2, 0.0, times=3)
    terminal.type('2')
    client.until(lambda: find_episodes(tmp_path), 'the bag')
    terminal.type('\x03')
    assert processes.running.pop('teleop_node').wait(EXIT_S) == 0
    assert terminal.modes() == terminal.before
    index = read_episode(find_episodes(tmp_path)[0]).index
    assert index.info.success is True and index.info.instruction
    assert 'interventions' not in index.info.extra and not index.correction.any()
    assert index.actions[:, 0].max() == pytest.approx(FULL_M, abs=1e-6)
    assert index.actions[:, 2].min() == pytest.approx(-FULL_M, abs=1e-6)
    assert np.abs(index.actions[:, 1]).max() < 1e-6
    assert index.actions[0, 6] == 1.0 and index.actions[-1, 6] == 0.0
