"""What a hostile pickle does to whoever loads it."""

from __future__ import annotations

import os
from pathlib import Path


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)
