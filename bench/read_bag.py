"""A process that reads one bag and prints, as JSON, how much memory that took at most."""

from __future__ import annotations

import json
from pathlib import Path
import re
import sys
import time

from vla_alignment_ros import wire
from vla_alignment_ros.data.bag import EpisodeReader

STREAM, DATASET = 'stream', 'dataset'


def memory_bytes(field: str) -> int:
    """'VmHWM' (most so far) or 'VmRSS' (now) of this process."""
    # not getrusage: its maximum goes on counting what the parent had when it forked
    text = Path('/proc/self/status').read_text(encoding='utf-8')
    return int(re.search(rf'{field}:\s+(\d+) kB', text)[1]) * 1024


def stream(path: Path) -> int:
    """Every message read, every image decoded; how many messages."""
    count = 0
    for _, msgtype, _, raw in EpisodeReader(path).messages():
        count += 1
        if msgtype in wire.IMAGE_DECODERS:
            wire.IMAGE_DECODERS[msgtype](raw).image.max()
    return count


def dataset(path: Path, cache: Path) -> int:
    """The bag made into training samples; how many."""
    from vla_alignment_ros.data.cache import build_cache

    embodiment = EpisodeReader(path).info.embodiment
    return len(build_cache([path], embodiment, cache, progress=False))


def main(how: str, path: str, cache: str) -> None:
    if how == DATASET:
        import vla_alignment_ros.data.cache  # noqa: F401 - its modules are not the bag's memory
    before = memory_bytes('VmRSS')
    start = time.perf_counter()
    items = stream(Path(path)) if how == STREAM else dataset(Path(path), Path(cache))
    took_s = time.perf_counter() - start
    peak = memory_bytes('VmHWM')
    print(json.dumps({'before': before, 'peak': peak, 'items': items, 'seconds': took_s}))


if __name__ == '__main__':
    main(*sys.argv[1:])
