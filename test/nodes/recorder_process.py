"""A training node in a process of its own, to be killed: forked where everything is imported."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
import multiprocessing
from multiprocessing.process import BaseProcess
import os
from pathlib import Path
import sys
from typing import Any


@cache
def processes() -> Any:
    """Makes processes that share nothing with this one, and import nothing anew."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([
        'vla_alignment_ros.data.recorder', 'vla_alignment_ros.nodes.training_node'
    ])  # fmt: skip
    return context


def start_recorder(
    name: str, folder: Path, domain_id: int, **parameters: object
) -> BaseProcess:
    """Start a training node of that name, which comes up by itself."""
    arguments = ['--ros-args', '-r', f'__node:={name}']
    for key, value in {'folder': folder, 'autostart': 'true', **parameters}.items():
        arguments += ['-p', f'{key}:={value}']
    ros = {key: value for key, value in os.environ.items() if key.startswith(('ROS_', 'RMW_'))}
    ros['ROS_DOMAIN_ID'] = str(domain_id)
    process = processes().Process(target=_serve, args=(ros, arguments), daemon=True)
    process.start()
    return process


def _serve(environment: Mapping[str, str], arguments: list[str]) -> None:
    os.environ.update(environment)
    from vla_alignment_ros.nodes.runtime import run
    from vla_alignment_ros.nodes.training_node import TrainingNode

    sys.exit(run(TrainingNode, arguments))
