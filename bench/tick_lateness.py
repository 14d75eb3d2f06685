"""P15: how late commands come at 50 Hz while decisions are made beside them."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import torch

from bench.results import BenchSettings, Row
from bench.traffic import NODE, served
from vla_alignment_ros.control.codecs import make_codec
from vla_alignment_ros.policy.checkpoint import load_checkpoint, save_checkpoint
from vla_alignment_ros.policy.policy import Policy

RATE_HZ = 50.0
LIMIT_MS = 10.0
FIRST = 100  # commands that are left out: discovery, and caches that fill


def run(settings: BenchSettings) -> Row:
    """A policy node at 50 Hz, fed at 50 Hz; its commands against an even grid."""
    torch.set_num_threads(settings.threads)
    checkpoint = load_checkpoint(settings.checkpoint)
    embodiment = dataclasses.replace(checkpoint.embodiment, rate_hz=RATE_HZ, max_age_s={})
    folder = save_checkpoint(
        dataclasses.replace(checkpoint, embodiment=embodiment), settings.folder / 'fast'
    )
    codec = make_codec(embodiment)
    arrived: list[float] = []
    decided: list[dict[str, str]] = []
    wanted = settings.size(3000, 20)
    first = settings.size(FIRST, 1)
    with served(settings, folder, Policy.load(folder)) as (client, sensors, _):
        from vla_alignment_ros.nodes.qos import reliable, subscribe_raw

        client.on_values(f'{NODE}/decision', decided.append)
        subscribe_raw(
            client.node,
            codec.trigger,
            codec.topics[codec.trigger],
            lambda raw: arrived.append(time.monotonic()),
            reliable(100),
        )
        with sensors.running(RATE_HZ):
            client.until(lambda: len(arrived) >= first + wanted, 'the commands')
    times = np.array(arrived[first : first + wanted])
    lateness_ms = _lateness_s(times) * 1e3
    return Row(
        key='P15',
        title='lateness of commands at 50 Hz during inference, p99',
        unit='ms',
        ours=float(np.percentile(lateness_ms, 99)),
        baseline=LIMIT_MS,
        goal=1.0,
        ours_is='arrival of a command in another process, behind an even grid of 20 ms that the '
        'earliest one lies on',
        baseline_is='the limit',
        figures={
            'p50, ms': float(np.median(lateness_ms)),
            'p95, ms': float(np.percentile(lateness_ms, 95)),
            'most, ms': float(lateness_ms.max()),
            'commands': len(times),
            'decisions meanwhile': len(decided),
        },
    )


def _lateness_s(times: np.ndarray) -> np.ndarray:
    """How far behind the grid that the earliest command lies on each of (N,) times is, s."""
    behind = times - np.arange(len(times)) / RATE_HZ
    return behind - behind.min()
