"""How much memory this process takes."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
import platform
import resource


def resident_mb() -> float:
    """Of pages that are in memory, MiB, after what nobody needs was freed. Needs /proc.

    Where the C library can, it also gives back what it keeps for later: that is nobody's growth.
    """
    gc.collect()
    if platform.libc_ver()[0] == 'glibc':
        ctypes.CDLL('libc.so.6').malloc_trim(0)
    pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1])
    return pages * resource.getpagesize() / 2**20
