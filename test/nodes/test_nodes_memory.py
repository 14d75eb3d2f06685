"""What the allocator is told, in processes of their own: it cannot be told back."""

import ctypes
from pathlib import Path
import subprocess
import sys

import pytest

from vla_alignment_ros.nodes import memory

IMAGES = """
import resource, sys
from vla_alignment_ros.nodes.memory import keep_freed_memory

if sys.argv[1] == 'kept':
    assert keep_freed_memory()

def pass_by():
    # as many buffers as an image passes through, all of them free afterwards
    return len([b'x' * (640 * 480 * 3 + i) for i in range(4)])

pass_by()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    pass_by()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how):
    command = [sys.executable, '-c', IMAGES, how]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return int(result.stdout)


@pytest.mark.skipif(
    not Path('/proc/self/maps').exists() or not hasattr(ctypes.CDLL(None), 'mallopt'),
    reason='the allocator is not that of glibc',
)
def test_memory_of_images_is_used_again_and_not_asked_for_anew():
    kept, left_alone = page_faults('kept'), page_faults('left alone')
    assert kept < 200 < 10_000 < left_alone


@pytest.mark.parametrize('error', [OSError, AttributeError])
def test_another_allocator_is_left_alone(monkeypatch, error):
    def library(name):
        raise error('no such thing')

    monkeypatch.setattr(ctypes, 'CDLL', library)
    assert not memory.keep_freed_memory()
