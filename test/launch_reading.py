"""Launch files and nodes as they are written down, read without starting anything."""

from __future__ import annotations

import ast
from dataclasses import fields
import functools
from pathlib import Path
import re

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = 'vla_alignment_ros'


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding='utf-8'))


def calls(path: Path, *names: str) -> list[ast.Call]:
    """Every call of one of these functions, in the order of the file."""
    found = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    return [call for call in found if called(call) in names]


def called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, 'id', '')


def texts(call: ast.Call) -> list[str]:
    return [a.value for a in call.args if isinstance(a, ast.Constant) and a.value is not None]


def keywords(call: ast.Call) -> dict[str, ast.expr]:
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


def declared(path: Path) -> set[str]:
    """The launch arguments that a file declares itself."""
    names = {texts(call)[0] for call in calls(path, 'argument')}
    if calls(path, 'deployment'):
        names |= {'namespace', 'params_file', 'use_sim_time', 'remap', 'respawn'}
    return names


def executables() -> set[str]:
    return set(re.findall(r"f'(\w+) = \{PACKAGE\}", (ROOT / 'setup.py').read_text()))


def schema(executable: str) -> dict[str, type]:
    """ROS name -> type of the parameters of one of our nodes."""
    pytest.importorskip('rclpy')
    from vla_alignment_ros.nodes import (
        job_parameters,
        schemas,
        servo_parameters,
        training_parameters,
    )

    name = executable.removesuffix('_node').title() + 'Parameters'
    modules = (schemas, servo_parameters, training_parameters)
    found = {getattr(m, name) for m in modules if hasattr(m, name)}
    if executable == 'training_node':
        found.add(job_parameters.JobParameters)
    assert found, executable
    known = {f.metadata['name'] or f.name: type(f.default) for kind in found for f in fields(kind)}
    return known | {'use_sim_time': bool}
