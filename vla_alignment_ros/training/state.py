"""Training state on disk without pickle: one safetensors file, replaced atomically.

Everything that decides the next step is in it: weights, buffers, averaged weights, optimiser
moments and the step counter. Batches, noise and augmentation are functions of (seed, step), so
no random-number state is needed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import safe_open, SafetensorError
from safetensors.torch import load_file, save_file
import torch

from vla_alignment_ros.errors import CheckpointError
from vla_alignment_ros.policy.model import VlaModel


class WeightAverage:
    """Exponential moving average of the weights; buffers are copied as they are.

    Weights that do not train are shared with the model: a frozen tower can be large. State that
    serves training alone is left out.
    """

    def __init__(self, model: VlaModel, decay: float) -> None:
        self.decay = decay
        self._trained = {n for n, p in model.named_parameters() if p.requires_grad}
        self.shared = {n for n, p in model.named_parameters() if not p.requires_grad}
        self.tensors = {
            name: value.detach() if name in self.shared else value.detach().clone()
            for name, value in model.state_dict().items()
            if not model.serves_training(name)
        }

    @torch.no_grad()
    def update(self, model: VlaModel, step: int) -> None:
        """Move towards the model; early steps count more, so that the start is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if name in self.shared or name not in self.tensors:
                continue
            if name in self._trained:
                self.tensors[name].lerp_(value, 1 - decay)
            else:
                self.tensors[name].copy_(value)


def save_state(
    path: Path,
    step: int,
    model: VlaModel,
    average: WeightAverage,
    optimizer: torch.optim.Optimizer,
    meta: dict[str, Any],
) -> None:
    """Write the state of a finished step; a crash meanwhile leaves the former state.

    Raises CheckpointError where it cannot be written.
    """
    tensors = {f'model.{k}': v for k, v in model.state_dict().items()}
    own = {k: v for k, v in average.tensors.items() if k not in average.shared}
    tensors |= {f'average.{k}': v for k, v in own.items()}
    scalars: dict[str, dict[str, float]] = {}
    for index, entry in optimizer.state_dict()['state'].items():
        for key, value in entry.items():
            if torch.is_tensor(value):
                tensors[f'optimizer.{index}.{key}'] = value
            else:
                scalars.setdefault(str(index), {})[key] = value
    # clones: safetensors refuses tensors that share memory
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    text = json.dumps({'step': step, 'optimizer_scalars': scalars, **meta})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        save_file(tensors, str(temporary), metadata={'state': text})
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f'cannot save {path}: {error}; what was saved before is whole: make room, and go on '
            f'with --resume'
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_meta(path: Path) -> dict[str, Any]:
    """What was saved beside the tensors, with 'step'. Raises CheckpointError if damaged."""
    try:
        with safe_open(str(path), 'pt') as file:
            return json.loads(file.metadata()['state'])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f'cannot resume from {path}: {error}') from error


def load_state(
    path: Path,
    model: VlaModel,
    average: WeightAverage,
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any]:
    """Restore what `save_state` wrote; its meta data, with 'step'.

    Raises:
        CheckpointError: the state is missing, damaged, or of another model.
    """
    meta = read_meta(path)
    try:
        tensors = load_file(str(path))
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f'cannot resume from {path}: {error}') from error

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {n[len(prefix) :]: tensors[n] for n in tensors if n.startswith(prefix)}

    try:
        model.load_state_dict(part('model.'))
    except RuntimeError as error:
        raise CheckpointError(f'{path} holds the state of another model: {error}') from error
    for name, value in part('average.').items():
        if name not in average.tensors:
            raise CheckpointError(f'{path} holds an average of another model: it has {name}')
        average.tensors[name].copy_(value)
    state: dict[int, dict[str, Any]] = {}
    for name, value in part('optimizer.').items():
        index, key = name.split('.', 1)
        state.setdefault(int(index), {})[key] = value
    for index, values in meta.pop('optimizer_scalars').items():
        state.setdefault(int(index), {}).update(values)
    optimizer.load_state_dict(
        {'state': state, 'param_groups': optimizer.state_dict()['param_groups']}
    )
    return meta
