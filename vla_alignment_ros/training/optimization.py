"""What the optimiser does with which parameter, when; and the averaged weights made fit to use."""

from __future__ import annotations

from collections.abc import Iterable
import math
from typing import Any

import torch
from torch import nn

from vla_alignment_ros.encoders.pretrained_towers import Backbone
from vla_alignment_ros.errors import ConfigError

# embeddings of position, time and camera, and log temperatures: no matrices, so no decay
NOT_DECAYED = ('embedding', 'log_sharpness', 'vision.camera', 'action.time', 'head.position')


def parameter_groups(
    model: nn.Module, weight_decay: float, tuned_share: float = 1.0
) -> list[dict[str, Any]]:
    """Parameters that train, by how: each group has its `weight_decay` and `share` of the rate.

    Decay is for matrices only: not for biases, norms, embeddings and temperatures. The weights of
    a tuned pretrained tower learn at `tuned_share` of the rate, or they would be forgotten.
    """
    tuned = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, Backbone) and module.tuning.mode == 'tuned'
        for parameter in module.parameters()
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {
        (1.0, weight_decay): [],
        (1.0, 0.0): [],
    }
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        small = parameter.ndim < 2 or any(part in name for part in NOT_DECAYED)
        key = (tuned_share if id(parameter) in tuned else 1.0, 0.0 if small else weight_decay)
        groups.setdefault(key, []).append(parameter)
    return [
        {'params': parameters, 'weight_decay': decay, 'share': share}
        for (share, decay), parameters in groups.items()
    ]


def network_dtype(precision: str) -> torch.dtype:
    """What `TrainConfig.precision` means on this machine; `ConfigError` for another word."""
    if precision == 'auto':
        made_for_it = torch.cuda.is_available() and torch.cuda.is_bf16_supported(
            including_emulation=False
        )
        return torch.bfloat16 if made_for_it else torch.float32
    known = {'float32': torch.float32, 'bfloat16': torch.bfloat16}
    if precision not in known:
        raise ConfigError(f'precision {precision!r} is none of auto, {", ".join(known)}')
    return known[precision]


def learning_rate(step: int, steps: int, warmup: int, final: float) -> float:
    """Share of the peak: linear warm-up, then cosine to `final`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def renew_norms(network: nn.Module, inputs: Iterable[Any]) -> None:
    """Give batch norms the statistics of the weights they stand between, from some inputs.

    Averaged weights have other activations than the trained ones they are the average of
    (Izmailov et al. 2018, arXiv:1803.05407, section 3.2). Modes are restored.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        return
    before = [(norm.momentum, norm.training) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # plain mean over the inputs
        norm.train()
    for item in inputs:
        network(item)
    for norm, (momentum, training) in zip(norms, before):
        norm.momentum = momentum
        norm.train(training)
