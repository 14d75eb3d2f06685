"""Files that are written whole or not at all, and that a power cut does not take back."""

from __future__ import annotations

import os
from pathlib import Path
import secrets


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes) -> None:
    """Make a file, or give one another content; at every moment it has all of the old or the new.

    Hard links of the file elsewhere keep the old content. Raises OSError.
    """
    temporary = path.with_name(f'.{path.name[:100]}.{secrets.token_hex(4)}')
    try:
        with temporary.open('xb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            temporary.chmod(path.stat().st_mode & 0o777)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync(path.parent)
