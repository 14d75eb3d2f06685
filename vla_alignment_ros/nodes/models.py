"""A model made ready to serve: loaded, checked and warmed up before anybody serves with it.

No ROS in here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from vla_alignment_ros.errors import CheckpointError, ConfigError, VlaError
from vla_alignment_ros.policy.policy import Policy
from vla_alignment_ros.policy.threads import fastest_threads


@dataclass(frozen=True)
class Model:
    """A policy that has answered, and where it is from."""

    folder: str  # as it was asked for
    policy: Policy
    warm_s: float  # median of a decision
    threads: int  # torch threads

    def __str__(self) -> str:
        policy = self.policy
        return (
            f'{self.folder}: {policy.embodiment.name} on {policy.device}, '
            f'{self.warm_s * 1e3:.1f} ms a decision, torch threads: {self.threads}'
        )

    @property
    def revision(self) -> str:
        """Of the source that it was trained with; empty where that is not known."""
        return str(self.policy.checkpoint.training.get('git_revision') or '')[:12]


def load_model(folder: str, device: str, threads: int) -> Model:
    """Load, check and warm up a checkpoint, which takes seconds.

    threads: torch threads on the CPU; 0 measures one against all cores with this very model.

    Raises:
        VlaError: the folder is no checkpoint that can serve here; the message says why.
    """
    if not folder:
        raise ConfigError('give the checkpoint folder: -p checkpoint:=FOLDER')
    torch.set_num_threads(threads or 1)  # of this thread, and of those that begin later
    try:
        policy = Policy.load(Path(folder).expanduser(), device=device)
        warm_s = policy.warm_up()
        if not threads and policy.device.type == 'cpu':
            threads = fastest_threads(lambda: policy.warm_up(1))
            warm_s = policy.warm_up()
    except VlaError:
        raise
    except Exception as error:  # no memory, or a model that does not fit its robot
        raise CheckpointError(
            f'{folder} cannot answer an observation of its own embodiment: '
            f'{type(error).__name__}: {error}'
        ) from error
    return Model(folder, policy, warm_s, threads or 1)
