"""Offscreen rendering that works without a display: EGL, or OSMesa where EGL is missing.

MuJoCo and PyOpenGL choose their OpenGL library once per process. So the choice is made here,
before either of them is asked for a context, by trying each library in a short-lived child
process (a broken driver may crash instead of failing). The answer is left in `MUJOCO_GL`, which
child processes inherit; setting `MUJOCO_GL` beforehand skips the search.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
import functools
import importlib
import os
import subprocess
import sys

import mujoco
import numpy as np

from vla_alignment_ros.errors import RenderError

BACKENDS = ('egl', 'osmesa')  # in order of preference
_PROBE_TIMEOUT_S = 60.0
_PROBE = (
    'import importlib, mujoco, sys\n'
    "context = importlib.import_module('mujoco.' + sys.argv[1]).GLContext(16, 16)\n"
    'context.make_current()\n'
    "mujoco.MjrContext(mujoco.MjModel.from_xml_string('<mujoco/>'), 100).free()\n"
    'context.free()\n'
)


def backend_works(backend: str) -> bool:
    """Whether a process of its own can render with this library."""
    environment = {**os.environ, 'MUJOCO_GL': backend}
    environment.pop('PYOPENGL_PLATFORM', None)
    try:
        done = subprocess.run(
            [sys.executable, '-c', _PROBE, backend],
            env=environment,
            capture_output=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def choose_backend(works: Callable[[str], bool] = backend_works) -> str:
    """Name of the rendering library: what `MUJOCO_GL` says, else the first one that works.

    Raises RenderError, with what to install, if there is none.
    """
    asked = os.environ.get('MUJOCO_GL', '').strip().lower()
    if asked in BACKENDS:
        return asked
    if asked not in ('', 'glfw', 'glx'):
        raise RenderError(
            f'MUJOCO_GL={asked!r} is not usable; set it to egl or osmesa, or unset it'
        )
    for backend in BACKENDS:
        if works(backend):
            return backend
    raise RenderError(
        'no library for rendering without a display: neither EGL nor OSMesa works. On Debian or '
        'Ubuntu run: sudo apt-get install -y libegl1 libgl1-mesa-dri libosmesa6'
    )


def select_backend() -> str:
    """Choose the library once for this process and the processes it starts; its name."""
    backend = choose_backend()
    os.environ['MUJOCO_GL'] = backend
    os.environ['PYOPENGL_PLATFORM'] = backend
    # Mesa's software rasteriser: threads cost more than they bring for pictures this small
    os.environ.setdefault('LP_NUM_THREADS', '0')
    return backend


@functools.lru_cache(maxsize=1)
def _context_class():
    backend = select_backend()
    try:
        return importlib.import_module(f'mujoco.{backend}').GLContext
    except (ImportError, AttributeError, OSError) as error:
        raise RenderError(
            f'MUJOCO_GL={backend} does not work here ({error}). On Debian or Ubuntu run: '
            f'sudo apt-get install -y libegl1 libgl1-mesa-dri libosmesa6'
        ) from error


class _Resources:
    """What must be freed on the graphics side, in the right order."""

    def __init__(self) -> None:
        self.gl = None
        self.mjr: mujoco.MjrContext | None = None

    def free_model(self) -> None:
        if self.mjr is not None:
            self.gl.make_current()
            self.mjr.free()
            self.mjr = None

    def free(self) -> None:
        self.free_model()
        if self.gl is not None:
            self.gl.free()
            self.gl = None


class OffscreenRenderer:
    """Renders one MuJoCo model into numpy arrays; close it, or use it as a context manager.

    The OpenGL context belongs to the thread that renders first; `load` exchanges the model and
    keeps the context.
    """

    def __init__(self, width: int = 640, height: int = 480) -> None:
        self._size = (width, height)
        self._resources = _Resources()
        self._scene: mujoco.MjvScene | None = None
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED

    def __enter__(self) -> OffscreenRenderer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def load(self, model: mujoco.MjModel) -> None:
        """Take another model; frees what was made for the one before."""
        resources = self._resources
        if resources.gl is None:
            try:
                resources.gl = _context_class()(*self._size)
            except (RuntimeError, ImportError, OSError) as error:
                raise RenderError(f'cannot make an OpenGL context: {error}') from error
            # before the OpenGL library's own exit handler, which was registered just now
            atexit.register(resources.free)
        resources.free_model()
        resources.gl.make_current()
        self._model = model
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 32)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = False
        resources.mjr = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, resources.mjr)

    def render(self, data: mujoco.MjData, camera: str, width: int, height: int) -> np.ndarray:
        """Picture of a named camera, (H, W, 3) uint8 RGB, top row first."""
        pixels = self._draw(data, camera, width, height)
        return np.ascontiguousarray(pixels[::-1])

    def segmentation(
        self, data: mujoco.MjData, camera: str, width: int, height: int
    ) -> np.ndarray:
        """Geom id per pixel, (H, W) int32; -1 where there is nothing."""
        flags = self._require_scene().flags
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = True
        try:
            pixels = self._draw(data, camera, width, height).astype(np.int32)
        finally:
            flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = False
        code = pixels[..., 0] + (pixels[..., 1] << 8) + (pixels[..., 2] << 16)
        geom_of = np.full(self._scene.ngeom + 1, -1, np.int32)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.segid >= 0 and geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                geom_of[geom.segid + 1] = geom.objid
        return geom_of[code][::-1]

    def close(self) -> None:
        """Free the OpenGL resources; the renderer can be loaded again afterwards."""
        self._resources.free()
        atexit.unregister(self._resources.free)
        self._scene = None

    def _require_scene(self) -> mujoco.MjvScene:
        if self._scene is None:
            raise RenderError('nothing to render: load a model first')
        return self._scene

    def _draw(self, data, camera: str, width: int, height: int) -> np.ndarray:
        scene = self._require_scene()
        try:
            self._camera.fixedcamid = self._model.camera(camera).id
        except KeyError as error:
            names = [self._model.camera(i).name for i in range(self._model.ncam)]
            raise RenderError(f'no camera {camera!r}: choose one of {", ".join(names)}') from error
        limit = (self._model.vis.global_.offwidth, self._model.vis.global_.offheight)
        if not (0 < width <= limit[0] and 0 < height <= limit[1]):
            raise RenderError(
                f'cannot render {width}x{height}; the largest is {limit[0]}x{limit[1]}'
            )
        self._resources.gl.make_current()
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, scene
        )
        rect = mujoco.MjrRect(0, 0, width, height)
        pixels = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_render(rect, scene, self._resources.mjr)
        mujoco.mjr_readPixels(pixels, None, rect, self._resources.mjr)
        return pixels
