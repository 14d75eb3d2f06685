"""Images from the wire, without a kernel that clears fresh memory for each of them."""

from __future__ import annotations

import ctypes

# mallopt(3), glibc: what is asked for in blocks up to this size comes from memory that the process
# has already (32 MiB is the most that glibc takes), and so much of it is kept when it is free
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
BLOCK_BYTES = 32 * 2**20
KEPT_BYTES = 256 * 2**20


def keep_freed_memory() -> bool:
    """Let this process use freed memory again instead of giving it back; whether that worked.

    A VGA image is 0.9 MB and passes through several buffers. Left alone, glibc returns them to the
    kernel as they are freed, and every page of the next one is a fault, and zeroed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc: its own rules hold
        return False
    options = ((_M_MMAP_THRESHOLD, BLOCK_BYTES), (_M_TRIM_THRESHOLD, KEPT_BYTES))
    return all(mallopt(option, value) for option, value in options)
