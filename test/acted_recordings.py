"""Recordings in which it is known when the arm moved and what went wrong."""

from __future__ import annotations

import numpy as np
from recordings import make_embodiment, PERIOD_NS, Recorder

from vla_alignment_ros import wire

START_NS = 1_000_000_000
STEP_RAD = 0.03  # of a joint that moves, in a control period


class Actor(Recorder):
    """Moves in some ticks and stands still in others; its pictures show how far it has come."""

    def __init__(self, root, moves=lambda tick: True, seed=0, **changes):
        super().__init__(root, make_embodiment(**changes), seed)
        self.seed = seed
        self.moves = moves

    def travelled(self, tick):
        return STEP_RAD * sum(map(self.moves, range(tick)))

    def observation(self, ts_ns):
        tick = (ts_ns - START_NS) // PERIOD_NS
        come = self.travelled(tick)
        raw = {}
        for camera in self.embodiment.cameras:
            rows, columns = np.mgrid[: camera.height, : camera.width]
            shade = 128 + 100 * np.sin(rows + columns + 40 * come + self.seed)
            pixels = np.repeat(shade[..., None], 3, axis=2).astype(np.uint8)
            raw[camera.topic] = wire.encode_image(pixels, ts_ns, camera.name)
        names = (self.embodiment.gripper.joint, *self.embodiment.joint_names)
        position = np.array([0.04, come, -come / 2])
        raw[self.embodiment.joint_states_topic] = wire.encode_joint_state(ts_ns, names, position)
        return raw

    def action(self, tick, ticks):
        action = np.zeros(7)
        action[0] = 0.3 * self.moves(tick)
        action[6] = 1.0
        return action


def contents(folder):
    """Every file below a folder by its path, for what must not change."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob('*'))
        if file.is_file()
    }
