"""How often a person took the arm over in an episode, from what is said on `intervention`."""

from __future__ import annotations

from vla_alignment_ros import wire
from vla_alignment_ros.errors import WireError

TAKE_OVERS = 'interventions'  # the note in a bag that says how often


class TakeOvers:
    """Follows `intervention`, in episodes and between them. Not thread-safe."""

    def __init__(self) -> None:
        self.driving: bytes | None = None  # what said that a person drives, while one does
        self._count = 0

    def begin(self, driving: bytes | None) -> None:
        """An episode begins; whoever drives already took over as far as it is concerned."""
        self.driving = driving
        self._count = int(driving is not None)

    def hear(self, raw: bytes) -> bool | None:
        """Take a Bool: whether a person drives; None where it is broken, and changes nothing."""
        try:
            drives = wire.decode_bool(raw)
        except WireError:
            return None
        self._count += drives and self.driving is None
        self.driving = raw if drives else None
        return drives

    def notes(self) -> dict[str, str]:
        """What to write into the episode's bag; nothing where nobody took over."""
        return {TAKE_OVERS: str(self._count)} if self._count else {}
