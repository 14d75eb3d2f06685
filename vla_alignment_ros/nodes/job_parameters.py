"""The parameters of training_node that are about training; the only place that says them."""

from __future__ import annotations

from dataclasses import dataclass

from vla_alignment_ros.nodes.parameters import parameter


@dataclass(frozen=True)
class JobParameters:
    """Parameters that begin with `training.`.

    What can be executed, where it may write, and whose policy may change is read at start only.
    """

    runs: str = parameter(
        'runs', 'Folder that receives one folder per training.', name='training.runs'
    )
    launcher: tuple[str, ...] = parameter(
        (),
        'Words of a launcher for several GPUs or hosts, before -m MODULE: '
        '[torchrun, --nproc-per-node=2]. Empty: one process.',
        name='training.launcher',
    )
    offer_to: str = parameter(
        '', 'Policy node that a checkpoint is compared for and offered to; empty: none.',
        name='training.offer_to',
    )
    auto_offer: bool = parameter(
        False, 'Whether it is offered unasked, and not by ~/offer_checkpoint alone.',
        name='training.auto_offer',
    )
    data: str = parameter(
        '', 'Folder of episodes to train on; empty: the one that is recorded into.',
        name='training.data', live=True,
    )
    config: str = parameter(
        'tabletop', 'Settings: name of a file in config/train, or a YAML file.',
        name='training.config', live=True,
    )
    steps: int = parameter(
        0, "Optimiser steps; 0: the config's.", name='training.steps', low=0, high=10**9, live=True
    )
    seed: int = parameter(
        0, 'Decides weights, order and noise.', name='training.seed', low=0, high=2**31, live=True
    )
    from_checkpoint: str = parameter(
        '',
        'Checkpoint folder whose weights it begins with; current: the one that training.offer_to '
        'serves; empty: from zero.',
        name='training.from_checkpoint', live=True,
    )
    correction_weight: float = parameter(
        1.0,
        'How often a moment is drawn in which a person had taken over, against any other.',
        name='training.correction_weight', low=0.001, high=1000.0, live=True,
    )
    resume: bool = parameter(
        False, 'Whether ~/train goes on with the newest run where that was stopped.',
        name='training.resume', live=True,
    )
    device: str = parameter(
        'auto', 'auto, cpu, cuda, or which GPUs: cuda:1, cuda:0,1.', name='training.device',
        live=True,
    )
    threads: int = parameter(
        0, 'Torch threads per process; 0: measured.', name='training.threads', low=0, high=1024,
        live=True,
    )
    niceness: int = parameter(
        10, 'How much it yields to other processes.', name='training.niceness', low=0, high=19,
        live=True,
    )
    stop_s: float = parameter(
        120.0, 'How long a training that is to end may take to save before it is killed.',
        name='training.stop_s', unit='s', low=0.0, high=3600.0, live=True,
    )
    tolerance: float = parameter(
        0.05,
        'How much worse than the checkpoint it would replace it may be on held-out episodes: '
        'of the action error relatively, of the alignment AUROC absolutely.',
        name='training.tolerance', low=0.0, high=1.0, live=True,
    )
