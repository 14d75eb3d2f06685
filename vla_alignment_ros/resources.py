"""The files that come with this package: `config/`, `urdf/`, `checkpoints/` and others."""

from __future__ import annotations

import os
from pathlib import Path

from vla_alignment_ros.errors import EmbodimentError

PACKAGE = 'vla_alignment_ros'


def package_path(*parts: str) -> Path:
    """Path of a resource of this package, in a source checkout or an installed `share/` folder.

    A checkout (or an editable install) keeps `config/`, `urdf/` … beside the Python package; an
    installed one has them under `<prefix>/share/vla_alignment_ros`.
    """
    source = Path(__file__).resolve().parents[1]
    if (source / 'package.xml').is_file():
        return source.joinpath(*parts)
    prefixes = [Path(p) for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
    # <prefix>/lib/pythonX.Y/site-packages/vla_alignment_ros/resources.py
    prefixes += list(Path(__file__).resolve().parents)[2:6]
    for prefix in prefixes:
        share = prefix / 'share' / PACKAGE
        if share.is_dir():
            return share.joinpath(*parts)
    raise EmbodimentError(
        f'the shared files of {PACKAGE} are not installed; install the package with colcon or '
        f'`pip install`, or run from its source checkout'
    )


def resolve_resource(uri: str) -> Path:
    """`package://vla_alignment_ros/…`, or an absolute or relative path, as an existing file."""
    prefix = f'package://{PACKAGE}/'
    if uri.startswith(prefix):
        root = package_path().resolve()
        path = (root / uri[len(prefix) :]).resolve()
        if not path.is_relative_to(root):
            raise EmbodimentError(f'{uri!r} points outside the package')
    elif '://' in uri:
        raise EmbodimentError(f'cannot resolve {uri!r}: use a file path or {prefix}…')
    else:
        path = Path(uri).expanduser()
    if not path.is_file():
        raise EmbodimentError(f'file not found: {uri!r} (looked at {path})')
    return path
