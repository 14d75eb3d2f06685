"""Whether a camera shows anything, and anything new: in one pass, one picture in memory at a time.

Shapes: N messages of one camera, in order of arrival.
"""

from __future__ import annotations

import hashlib

import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.data.quality import Finding, Limits, Severity
from vla_alignment_ros.embodiment import Camera, IMAGE
from vla_alignment_ros.errors import WireError

LOOK_S = 0.2  # compressed pictures are decoded this often
GRID = 32  # pixels that are looked at, each way
FLAT = 4.0  # levels of 0…255: a picture whose spread is below shows nothing
DARK, BRIGHT = 24.0, 231.0  # mean levels below and above which nothing counts as black and white
MOTION = 0.05  # rad or m that a joint has to move before a picture must have changed


class ImageWatch:
    """Takes the messages of one camera and remembers a few numbers of each."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.broken = 0
        self.reason = ''
        self._bodies: list[bytes] = []
        self._spread: list[float] = []  # nan: not looked at
        self._mean: list[float] = []
        self._looked_ns: int | None = None

    def add(self, log_ns: int, raw: bytes) -> None:
        """Take one message."""
        msgtype = self.camera.message_type
        body = wire.body(raw, msgtype)
        self._bodies.append(hashlib.blake2b(body, digest_size=8).digest())
        spread = mean = np.nan
        due = self._looked_ns is None or abs(log_ns - self._looked_ns) >= LOOK_S * 1e9
        if due or msgtype == IMAGE:  # plain pixels cost next to nothing
            self._looked_ns = log_ns
            try:
                spread, mean = _look(wire.IMAGE_DECODERS[msgtype](raw).image)
            except WireError as error:
                self.broken += 1
                self.reason = self.reason or str(error)
        self._spread.append(spread)
        self._mean.append(mean)

    @property
    def brightness(self) -> float:
        """Mean level of all pictures, 0…255; nan without any."""
        seen = [mean for mean in self._mean if not np.isnan(mean)]
        return float(np.mean(seen)) if seen else float('nan')

    def findings(
        self,
        stamps_ns: np.ndarray,
        joint_ns: np.ndarray,
        positions: np.ndarray,
        start_ns: int,
        limits: Limits,
    ) -> list[Finding]:
        """What was seen.

        Args:
            stamps_ns: (N,) of the messages that were added.
            joint_ns: (M,) ascending stamps of the joint states.
            positions: (M, J) rad or m.
            start_ns: of the episode.
            limits: what is still fine.
        """
        name = self.camera.name
        found = []
        if self.broken:
            found.append(Finding(
                'message', Severity.ERROR,
                f'{name}: {self.broken} pictures cannot be read: {self.reason}',
            ))  # fmt: skip
        blank = self._blank(stamps_ns, start_ns, limits)
        if blank:
            return [*found, *blank]  # what shows nothing stays the same too
        frozen = [
            (begin, end)
            for begin, end in repeats(self._bodies, stamps_ns)
            if (end - begin) * 1e-9 > limits.frozen_s
            and _moved(joint_ns, positions, begin, end) > MOTION
        ]
        if frozen:
            total = sum(end - begin for begin, end in frozen) * 1e-9
            whole = (stamps_ns.max() - stamps_ns.min()) * 1e-9
            at_s = (frozen[0][0] - start_ns) * 1e-9
            found.append(Finding(
                'image',
                Severity.ERROR if total > 0.2 * whole else Severity.WARNING,
                f'{name} is frozen for {total:.1f} of {whole:.1f} s while the robot moves '
                f'(from {at_s:.1f} s on)',
                float(at_s),
            ))  # fmt: skip
        return found

    def _blank(self, stamps_ns: np.ndarray, start_ns: int, limits: Limits) -> list[Finding]:
        spread, mean = np.array(self._spread), np.array(self._mean)
        looked = ~np.isnan(spread)
        blank = looked & (spread < FLAT)
        if not looked.any() or blank.sum() <= limits.blank_share * looked.sum():
            return []
        share = float(blank.sum() / looked.sum())
        level = float(mean[blank].mean())
        what = 'black' if level < DARK else 'white' if level > BRIGHT else 'of one colour'
        at_s = float((stamps_ns[blank][0] - start_ns) * 1e-9)
        return [Finding(
            'image',
            Severity.ERROR if share > 10 * limits.blank_share else Severity.WARNING,
            f'{self.camera.name}: {100 * share:.0f} % of the pictures are {what} '
            f'(from {at_s:.1f} s on)',
            at_s,
        )]  # fmt: skip


def repeats(bodies: list[bytes], stamps_ns: np.ndarray) -> list[tuple[int, int]]:
    """(first, last) stamp of every run of equal pictures, ns; runs of one are left out.

    bodies and stamps (N,): what each message says, and when.
    """
    runs = []
    first = 0
    for i in range(1, len(bodies) + 1):
        if i == len(bodies) or bodies[i] != bodies[first]:
            if i - first > 1:
                runs.append((int(stamps_ns[first]), int(stamps_ns[i - 1])))
            first = i
    return runs


def _look(image: np.ndarray) -> tuple[float, float]:
    """Spread of the most varied channel and mean of all, of a coarse grid of pixels."""
    rows = max(1, image.shape[0] // GRID)
    columns = max(1, image.shape[1] // GRID)
    some = image[::rows, ::columns].reshape(-1, 3).astype(np.float32)
    return float(some.std(axis=0).max()), float(some.mean())


def _moved(joint_ns: np.ndarray, positions: np.ndarray, begin: int, end: int) -> float:
    """How far the joint that moved most did, between two stamps."""
    within = positions[(joint_ns >= begin) & (joint_ns <= end)]
    return float(np.ptp(within, axis=0).max()) if len(within) else 0.0
