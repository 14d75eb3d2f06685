"""A decision loop without a node: the test is its sensors, its clocks and its arm."""

from __future__ import annotations

from collections.abc import Callable
import threading
import time

import numpy as np
from scripted_policy import answer, PATIENCE_S, ScriptedPolicy

from vla_alignment_ros import wire
from vla_alignment_ros.control.decisions import PipelineConfig
from vla_alignment_ros.control.pipeline import DecisionPipeline
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.nodes.decision_loop import DecisionLoop, LoopConfig

T0, STEP = 5_000_000_000, 100_000_000
SENTENCE = 'pick up the red cube'
JOINT_NAMES = (*(f'joint{number}' for number in range(1, 8)), 'finger_joint')
JOINTS = (0, 0.3, 0, -1.8, 0, 2.1, 0.8)  # rad; the hand is well inside the workspace
FINGER_M = 0.04  # travel of the finger joint
OPEN_GATE = PipelineConfig(go=0.0, hold=0.0, confirm=1)


class Steady:
    """Stands in for the module `time`: its steady clock stands still until the test moves it."""

    perf_counter = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self.ns = 77_000_000_000

    def monotonic_ns(self) -> int:
        return self.ns


class SightedPolicy(ScriptedPolicy):
    """Its action tells what it looked at: `marks` of front, wrist and fingers are dx, dy and dz.

    So a command says from which frames it was made. `told` overrides what is done for a sentence.
    """

    def __init__(self, horizon: int = 50) -> None:
        super().__init__(horizon=horizon)
        self.seen: list[np.ndarray] = []  # (3,) marks of every observation that was decided on
        self.newest = None  # of those observations
        self.single = False  # whether `free` lets but one of them through
        self.told: dict[str, np.ndarray] = {}  # instruction → action (7,)
        self.spoil: Callable[[np.ndarray], np.ndarray] | None = None  # changes a chunk (H, 7)

    def step(self, observation, candidates=1, seed=None, plan=None):
        self.entered.set()
        assert self.free.wait(PATIENCE_S)
        if self.single:
            self.free.clear()
        images = observation.images
        marks = np.array([images['front'][0, 0, 0], images['wrist'][0, 0, 0],
                          round(float(observation.state[7]) * 255)])  # fmt: skip
        self.seen.append(marks)
        self.newest = observation
        action = self.told.get(observation.instruction)
        if action is None:
            action = [*way_of(marks), 0, 0, 0, 1]
        actions = np.tile(np.asarray(action, np.float32), (self.horizon, 1))
        if self.spoil is not None:
            actions = self.spoil(actions)
        return answer(observation, actions, self.score)


def way_of(marks) -> np.ndarray:
    """What a SightedPolicy wants for marks (3,) of 0..255: (3,) m, within ±0.02."""
    return (np.asarray(marks, float) / 255 - 0.5) * 0.04


def joint_states(ts_ns: int, mark: int = 255) -> bytes:
    """The tabletop's; mark 0..255: how open the fingers are."""
    position = np.array([*JOINTS, FINGER_M * mark / 255])
    return wire.encode_joint_state(ts_ns, JOINT_NAMES, position)


class Bench:
    """A loop, in lock-step unless told otherwise, and everything that comes out of it."""

    def __init__(
        self,
        on_arrival: bool = True,
        watchdog_s: float = PATIENCE_S,
        policy: ScriptedPolicy | None = None,
        config: PipelineConfig = OPEN_GATE,
        embodiment: Embodiment | None = None,
    ) -> None:
        self.embodiment = embodiment or Embodiment.load('tabletop')
        self.policy = policy or ScriptedPolicy()
        self.changed = threading.Condition()
        self.commands, self.verdicts, self.logged = [], [], []
        self.handed: list[bool] = []  # to a person, or back
        self.broken: list[Exception] = []  # raised by the next publications
        self.broken_report: list[Exception] = []
        # what the inference thread found: up to which stamp all is there, and whether it is due
        self.looks: list[tuple[int | None, bool]] = []
        pipeline = DecisionPipeline(self.embodiment, self.policy, config)
        self.loop = DecisionLoop(
            pipeline, LoopConfig(on_arrival, watchdog_s), self._send, self._report,
            self.logged.append, self.handed.append,
        )  # fmt: skip
        self._is_due, self.loop._is_due = self.loop._is_due, self._look

    def _send(self, command) -> None:
        with self.changed:
            self.changed.notify_all()
            if self.broken:
                raise self.broken.pop(0)
            self.commands.append(command)

    def _report(self, verdict) -> None:
        with self.changed:
            self.changed.notify_all()
            if self.broken_report:
                raise self.broken_report.pop(0)
            self.verdicts.append(verdict)

    def _look(self) -> bool:
        complete_ns, due = self.loop.buffer.complete_ts_ns(), self._is_due()
        with self.changed:
            self.looks.append((complete_ns, due))
            self.changed.notify_all()
        return due

    def say(self, text: str = SENTENCE, now_ns: int = T0) -> None:
        self.loop.push('instruction', wire.encode_string(text), now_ns)

    def show(
        self,
        ts_ns: int,
        now_ns: int | None = None,
        but: tuple[str, ...] = (),
        marks: tuple[int, int, int] = (0, 0, 255),
    ) -> None:
        """Frames and joint states stamped ts_ns come in at now_ns, except those of `but`."""
        now_ns = ts_ns if now_ns is None else now_ns
        for camera, mark in zip(self.embodiment.cameras, marks):
            if camera.name not in but:
                image = np.full((camera.height, camera.width, 3), mark, np.uint8)
                raw = wire.encode_image(image, ts_ns, camera.name)
                self.loop.push(camera.topic, raw, now_ns)
        if 'joint_states' not in but:
            self.loop.push('joint_states', joint_states(ts_ns, marks[2]), now_ns)

    def go_on(self, ts_ns: int, now_ns: int | None = None) -> None:
        """Show all sources, and wait for the decision on them."""
        decided = len(self.verdicts)
        self.show(ts_ns, now_ns)
        self.until(lambda: len(self.verdicts) > decided)

    def until(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE_S)
