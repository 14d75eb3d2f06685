"""Render one small picture with each headless backend and say which of them work."""

from __future__ import annotations

import os
import subprocess
import sys

BACKENDS = ('egl', 'osmesa')
MEND = 'sudo apt-get install libegl1 libgl1 libgl1-mesa-dri libosmesa6'
SCENE = '<mujoco><worldbody><light pos="0 0 3"/><geom size="1"/></worldbody></mujoco>'
RENDER = f"""
import mujoco
model = mujoco.MjModel.from_xml_string({SCENE!r})
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    assert renderer.render().any(), 'the picture is black'
"""


def works(backend: str) -> bool:
    """True if a child process renders with `backend` ('egl' or 'osmesa')."""
    child = subprocess.run(
        [sys.executable, '-c', RENDER],
        env={**os.environ, 'MUJOCO_GL': backend},
        capture_output=True,
        timeout=120,
        check=False,
    )
    return child.returncode == 0


def main() -> int:
    """Exit status 0 if at least one backend works."""
    working = [backend for backend in BACKENDS if works(backend)]
    if not working:
        print(f'setup: neither EGL nor OSMesa renders here; type: {MEND}', file=sys.stderr)
        return 1
    print(f'setup: headless rendering works ({", ".join(working)})', file=sys.stderr)
    return 0


if __name__ == '__main__':
    sys.exit(main())
