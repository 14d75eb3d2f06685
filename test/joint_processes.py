"""Several processes that share one batch over gloo, for tests of what they compute together."""

import os
from pathlib import Path
import subprocess
import sys

from safetensors.torch import load_file

WORLD = 2


def run_together(worker, folder, timeout_s=100):
    """What each of WORLD processes of a script wrote: it gets rank, world, store and file."""
    outs = [folder / f'{rank}.safetensors' for rank in range(WORLD)]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get('PYTHONPATH', '')])
    # a file instead of a port: no other process can take it meanwhile
    started = [
        subprocess.Popen(
            [sys.executable, worker, str(rank), str(WORLD), folder / 'store', out],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, 'GLOO_SOCKET_IFNAME': 'lo', 'PYTHONPATH': path},
        )
        for rank, out in enumerate(outs)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=timeout_s)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [0, 0], '\n'.join(outputs)
    return [load_file(out) for out in outs]
