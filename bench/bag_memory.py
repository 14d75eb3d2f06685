"""P10: peak memory of a process that reads a bag, against one that reads a bag a quarter as long.

Both ways to read are measured, each in a fresh process: the stream of messages with every image
decoded, and the dataset that training is fed from. The worse of the two ratios is the row.
"""

from __future__ import annotations

import json
from pathlib import Path
import subprocess
import sys
import tempfile

from bench.inputs import record_episode
from bench.read_bag import DATASET, STREAM
from bench.results import BenchError, BenchSettings, Row
from bench.timing import take_turns
from vla_alignment_ros.embodiment import Embodiment

TIMES = 4
PUBLISHED = {'front': (640, 480), 'wrist': (320, 240)}  # pixels, as real cameras send them
MIB = 2**20


def run(settings: BenchSettings) -> Row:
    """Two bags that differ only in length."""
    embodiment = Embodiment.load('tabletop')
    ticks = settings.size(120, 5)
    bags, sizes_mib = {}, {}
    for name, length in (('small', ticks), ('large', TIMES * ticks)):
        root = settings.folder / f'bag_{name}'
        bags[name] = record_episode(root, embodiment, length, 'pick up the red cube', PUBLISHED)
        sizes_mib[name] = sum(f.stat().st_size for f in bags[name].iterdir()) / MIB
    peaks = take_turns(
        {
            f'{how} {name}': lambda how=how, bag=bag: _peak_mib(how, bag, settings.folder)
            for how in (STREAM, DATASET)
            for name, bag in bags.items()
        },
        rounds=settings.size(3, 1),
        warm_up=0,
    )
    ratios = {
        how: peaks[f'{how} large'].p50 / peaks[f'{how} small'].p50 for how in (STREAM, DATASET)
    }
    worse = max(ratios, key=ratios.__getitem__)
    return Row(
        key='P10',
        title=f'peak memory, bag {TIMES} times larger',
        unit='MiB',
        ours=peaks[f'{worse} large'].p50,
        baseline=peaks[f'{worse} small'].p50,
        goal=1.05,
        ours_is=f'most resident memory of a process that reads the larger bag ({worse}: the worse '
        'of two ways to read)',
        baseline_is='the same with the smaller bag',
        figures={
            'larger bag, MiB': sizes_mib['large'],
            'smaller bag, MiB': sizes_mib['small'],
            **{f'{name} peak, MiB': samples.p50 for name, samples in peaks.items()},
            **{f'{how} ratio': ratio for how, ratio in ratios.items()},
        },
    )


def _peak_mib(how: str, bag: Path, folder: Path) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        command = [sys.executable, '-m', 'bench.read_bag', how, str(bag), cache]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BenchError(f'reading {bag.name} failed:\n{result.stderr[-2000:]}')
    return json.loads(result.stdout)['peak'] / MIB
