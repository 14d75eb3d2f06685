"""Contrast over a batch larger than memory allows: GradCache (Gao et al. 2021, arXiv:2101.06983).

The batch is encoded in parts without a graph, the loss is taken on all embeddings together, and
each part is encoded again, from the same random state, to carry the gradient of its embeddings on
into the encoders. Memory is that of one part, the gradients are those of the whole batch: the
loss, and so its temperature, is differentiated once, and dropout is the same in both passes.
Accumulating the losses of the parts instead would show each part its own negatives only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch

from vla_alignment_ros.errors import AlignmentError

Part = TypeVar('Part')
Embeddings = dict[str, torch.Tensor]


class RandomState:
    """The state of torch's generators at one moment, to be gone back to.

    Args:
        generators: generators of the caller's own, beside those of the CPU and of every GPU.
    """

    def __init__(self, generators: Sequence[torch.Generator] = ()) -> None:
        self._generators = tuple(generators)
        self._own = [generator.get_state() for generator in self._generators]
        self._cpu = torch.get_rng_state()
        # asking a GPU that nothing runs on yet would only start it
        self._gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def restore(self) -> None:
        """Make every generator go on from that moment."""
        torch.set_rng_state(self._cpu)
        if self._gpus is not None:
            torch.cuda.set_rng_state_all(self._gpus)
        for generator, state in zip(self._generators, self._own):
            generator.set_state(state)


def grad_cache_step(
    encode: Callable[[Part], Mapping[str, torch.Tensor]],
    loss: Callable[[Embeddings], torch.Tensor],
    parts: Sequence[Part],
    generators: Sequence[torch.Generator] = (),
    backward: Callable[[torch.Tensor], None] = torch.Tensor.backward,
) -> torch.Tensor:
    """Add the gradients of `loss` over all parts to `.grad`; the optimiser step is the caller's.

    The random state afterwards is that after one ordinary pass. An encoder that counts its calls
    (running statistics of a batch norm) counts each part twice. Under DDP call this inside
    `no_sync()` and exchange once with `alignment.distributed.average_gradients`: parameters
    that only the loss uses, as the logit scale, are not in DDP's replay.

    Args:
        encode: a part → named embeddings (B_part, …); called twice per part, first without graph.
        loss: embeddings of the whole batch (B, …), parts in order → scalar. Called once.
        parts: of any size each, in the order in which the embeddings are put together.
        generators: the caller's own generators that `encode` draws from.
        backward: takes the place of `Tensor.backward`, as `accelerator.backward`.

    Returns:
        The loss, detached.

    Raises:
        AlignmentError: there is no part, the parts do not give the same embeddings, or the second
            pass gave another number of rows than the first.
    """
    if not parts:
        raise AlignmentError('a gradient-cache step needs at least one part')
    states, cache = [], []
    with torch.no_grad():
        for part in parts:
            states.append(RandomState(generators))
            cache.append(dict(encode(part)))
    names = list(cache[0])
    if any(list(embeddings) != names for embeddings in cache):
        raise AlignmentError(
            f'every part must give the same embeddings, got {[list(e) for e in cache]}'
        )
    joint = {name: torch.cat([embeddings[name] for embeddings in cache]) for name in names}
    for tensor in joint.values():
        tensor.requires_grad_(tensor.is_floating_point())  # ids may be among them
    value = loss(joint)
    if value.requires_grad:
        backward(value)
    after = RandomState(generators)
    sizes = {name: [len(embeddings[name]) for embeddings in cache] for name in names}
    del cache
    grads = {
        name: tensor.grad.split(sizes[name])
        for name, tensor in joint.items()
        if tensor.grad is not None
    }
    for number, (part, state) in enumerate(zip(parts, states)):
        state.restore()
        again = encode(part)
        # whose gradient is the cached one
        terms = [_product(again[name], grad[number]) for name, grad in grads.items()]
        terms = [term for term in terms if term.requires_grad]
        if terms:
            backward(torch.stack(terms).sum())
    after.restore()
    return value.detach()


def _product(embeddings: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    if embeddings.shape != grad.shape:
        raise AlignmentError(
            f'the second pass gave embeddings of {tuple(embeddings.shape)}, the first '
            f'of {tuple(grad.shape)}: encode must do the same both times'
        )
    return (embeddings * grad).sum()
