"""The files that come with this package: `config/`, `urdf/`, `checkpoints/` and others."""

from __future__ import annotations

import os
from pathlib import Path
import re

from vla_alignment_ros.errors import EmbodimentError, VlaError

PACKAGE = 'vla_alignment_ros'
SCHEME = 'package://'
ROOTS_VARIABLE = 'VLA_RESOURCE_PATH'
MAX_BYTES = 64 << 20


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


def shipped_yaml(folder: Path, name: str, what: str, error: type[VlaError]) -> Path:
    """The YAML file of that name in a folder of this package.

    Raises:
        error: there is none, with those that there are; `what` says what it should have been.
    """
    path = folder / f'{name}.yaml'
    if not re.fullmatch(r'[A-Za-z0-9_-]+', name) or not path.is_file():
        shipped = ', '.join(sorted(p.stem for p in folder.glob('*.yaml')))
        raise error(
            f'no {what} {name!r}; shipped ones: {shipped}; or give the path of a YAML file'
        )
    return path


def resolve_resource(uri: str) -> Path:
    """`package://NAME/…`, or an absolute or relative path, as an existing file.

    Embodiments travel inside bags and checkpoints, so a name may come from anybody. It is only
    looked for in ROS packages, under the working folder, and under the folders that the
    environment variable VLA_RESOURCE_PATH lists.

    Raises:
        EmbodimentError: it lies elsewhere, is not there, or is too large for what it should be.
    """
    if uri.startswith(SCHEME):
        name, _, rest = uri[len(SCHEME) :].partition('/')
        roots = [_share(name, uri)]
        path = _plain_path(roots[0] / rest)
    elif '://' in uri:
        raise EmbodimentError(f'cannot resolve {uri!r}: use a file path or {SCHEME}{PACKAGE}/…')
    else:
        listed = os.environ.get(ROOTS_VARIABLE, '').split(os.pathsep)
        roots = [Path.cwd(), *(_plain_path(Path(folder)) for folder in listed if folder)]
        path = _plain_path(Path(uri))
    if not any(path.is_relative_to(root) for root in roots):
        raise EmbodimentError(
            f'{uri!r} points outside {", ".join(map(str, roots))}; if you trust it, put its '
            f'folder into {ROOTS_VARIABLE}'
        )
    if not path.is_file():
        raise EmbodimentError(f'file not found: {uri!r} (looked at {path})')
    if path.stat().st_size > MAX_BYTES:
        raise EmbodimentError(f'{path} is larger than {MAX_BYTES >> 20} MiB: no robot needs that')
    return path


def _plain_path(path: Path) -> Path:
    # by its spelling: links that were laid inside a root on purpose may lead out of it
    return Path(os.path.abspath(path.expanduser()))


def _share(package: str, uri: str) -> Path:
    if package == PACKAGE:
        return _plain_path(package_path())
    if re.fullmatch(r'[A-Za-z0-9_-]+', package):
        for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep):
            share = Path(prefix, 'share', package)
            if prefix and share.is_dir():
                return _plain_path(share)
    raise EmbodimentError(f'cannot resolve {uri!r}: no package {package!r} in AMENT_PREFIX_PATH')
