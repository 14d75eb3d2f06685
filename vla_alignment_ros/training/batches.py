"""Training batches that depend on (seed, step) alone, prepared one ahead by a thread.

Because nothing else decides a batch, a run that is resumed at step n sees exactly what an
uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
import math
from typing import Any

import numpy as np
import torch

from vla_alignment_ros.data.dataset import DemonstrationDataset
from vla_alignment_ros.encoders.language import tokenize, UNKNOWN_ID
from vla_alignment_ros.errors import ConfigError, DatasetError
from vla_alignment_ros.training.notes import mislabelled, Notes
from vla_alignment_ros.training.recolour import recoloured

BALANCES = ('none', 'task', 'instruction')


class BatchStream:
    """Endless batches of one split, in a seeded order, shared out over processes.

    Args:
        dataset: the split.
        tokenizer: of the model.
        batch: samples per process.
        seed: of the order.
        rank, world: this process and how many there are.
        approach_share: share of each batch that is drawn from the approach alone
            (`DemonstrationDataset.approach`); the rest from everything.
        balance: 'none', 'task' or 'instruction', see `DataConfig.balance`. Sentences of one
            paraphrase group are one instruction.
        correction_weight: see `DataConfig.correction_weight`.
        labels: whether to use what recorders noted about pixels and scenes.
        mislabel: share of the episodes that are given a wrong sentence.

    Raises:
        DatasetError: too few samples for one batch.
        ConfigError: unknown balance, or a weight that is none.
    """

    def __init__(
        self,
        dataset: DemonstrationDataset,
        tokenizer: Any,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        approach_share: float = 0.0,
        balance: str = 'none',
        labels: bool = True,
        mislabel: float = 0.0,
        correction_weight: float = 1.0,
    ) -> None:
        self.dataset, self.batch, self.seed = dataset, batch, seed
        self.rank, self.world = rank, world
        self.per_epoch = len(dataset) // (batch * world)
        if self.per_epoch < 1:
            raise DatasetError(
                f'{len(dataset)} samples are fewer than one batch of {batch * world}; '
                f'record more or lower optimizer.batch'
            )
        self._approach = dataset.approach()  # (len,) bool
        early = np.flatnonzero(self._approach)
        count = round(batch * approach_share) if len(early) >= batch * world else 0
        # (pool, samples per batch): each pool is shuffled and gone through on its own
        self._pools = [(early, count), (np.arange(len(dataset)), batch - count)]
        self._ids = tokenize(tokenizer, dataset.instructions)  # (I, L)
        self._use_labels = labels
        self._notes = Notes(dataset, tokenizer, labels)
        self._wrong = mislabelled(dataset, mislabel, seed) if mislabel else None  # (E,)
        if balance not in BALANCES:
            raise ConfigError(f'data.balance {balance!r} is unknown; one of {", ".join(BALANCES)}')
        self._kind = None  # (len,) what is drawn equally often
        if balance != 'none':
            of_text = self._notes.task if balance == 'task' else self._notes.group
            text = dataset.cache.arrays['instruction'][dataset.rows]
            self._kind = of_text.numpy()[text]
        if not 0 < correction_weight < math.inf:
            raise ConfigError(
                f'data.correction_weight must be a number above 0, got {correction_weight}'
            )
        corrected = dataset.corrections()
        self._weight = None  # (len,) against an ordinary sample
        if correction_weight != 1 and corrected.any():
            self._weight = np.where(corrected, correction_weight, 1.0)
        self._orders: dict[int, tuple[int, np.ndarray]] = {}  # pool -> epoch, order

    def indices(self, step: int) -> np.ndarray:
        """Which samples step `step` of this process takes."""
        chosen = [
            self._draw(number, pool, count, step)
            for number, (pool, count) in enumerate(self._pools)
            if count
        ]
        return np.concatenate(chosen)

    def _draw(self, number: int, pool: np.ndarray, count: int, step: int) -> np.ndarray:
        """The `count` samples that a pool gives to a step of this process."""
        per_epoch = len(pool) // (count * self.world)
        epoch, place = divmod(step, per_epoch)
        if self._orders.get(number, (-1, None))[0] != epoch:
            rng = np.random.default_rng([self.seed, number, epoch])
            if self._kind is None and self._weight is None:
                order = rng.permutation(pool)
            else:
                order = rng.choice(pool, len(pool), p=self._chances(pool))
            self._orders[number] = (epoch, order)
        start = (place * self.world + self.rank) * count
        return self._orders[number][1][start : start + count]

    def _chances(self, pool: np.ndarray) -> np.ndarray:
        """(len(pool),) how likely each sample is drawn: by its weight, every kind alike."""
        kind = np.zeros(len(pool), np.int64)
        if self._kind is not None:
            _, kind = np.unique(self._kind[pool], return_inverse=True)
        weight = np.ones(len(pool)) if self._weight is None else self._weight[pool]
        of_kind = np.bincount(kind, weight)
        return weight / (of_kind[kind] * len(of_kind))

    def at(self, step: int) -> dict[str, Any]:
        """The batch of step `step`, as `VlaModel.forward` takes it."""
        # sorted: neighbours in a memory map are read together; the loss does not mind the order
        indices = np.sort(self.indices(step))
        raw = self.dataset.get_batch(indices)
        if not self._use_labels:
            raw['labels'] = {}
        if self._wrong is not None:
            wrong = self._wrong[raw['episode']]
            raw['instruction_id'] = torch.where(wrong < 0, raw['instruction_id'], wrong)
        batch = collate(raw, self._ids) | self._notes.about(raw)
        batch['approach'] = torch.from_numpy(self._approach[indices])
        return batch

    def iterate(self, first: int, last: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """(step, batch) for first ≤ step < last, the next one prepared in the background."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            pending = pool.submit(self.at, first) if first < last else None
            for step in range(first, last):
                batch = pending.result()
                pending = pool.submit(self.at, step + 1) if step + 1 < last else None
                yield step, batch


def collate(raw: dict[str, Any], ids: torch.Tensor) -> dict[str, Any]:
    """A dataset batch with its distinct sentences: each is encoded once, however often used."""
    used, sentence = torch.unique(raw['instruction_id'], return_inverse=True)
    words = ids[used]
    longest = int((words != 0).sum(1).max().clamp_min(1))
    batch = {
        'images': raw['images'],
        'state': raw['state'],
        'action': raw['action'],
        'action_mask': raw['action_mask'],
        'ids': words[:, :longest],
        'sentence': sentence,
        'labels': raw['labels'],
    }
    if 'keyframe_position' in raw:
        batch['keyframe'] = raw['keyframe_position']
        batch['keyframe_gripper'] = raw['keyframe_gripper']
    return batch


def augment(
    batch: dict[str, Any],
    light: float,
    word_dropout: float,
    generator: torch.Generator,
    recolour: float = 0.0,
) -> dict[str, Any]:
    """Random brightness, contrast and a slight tint per image; words dropped to unknown.

    recolour: share of the rows that also come as copies in other colours, where pixels are
    labelled: batch['recoloured'] and batch['recoloured_labels'], camera -> (R, …).
    """
    device = batch['state'].device
    images = {}
    for name in sorted(batch['images']):
        pixels = batch['images'][name].float()  # (B, h, w, 3)
        count = len(pixels)
        gain = 1 + light * (2 * torch.rand(count, 1, 1, 1, generator=generator, device=device) - 1)
        tint = torch.rand(count, 1, 1, 3, generator=generator, device=device)
        tint = 1 + light / 3 * (2 * tint - 1)
        shift = torch.rand(count, 1, 1, 1, generator=generator, device=device)
        shift = 255 * light / 2 * (2 * shift - 1)
        images[name] = (pixels * (gain * tint) + shift).clamp_(0, 255)
    ids = batch['ids']
    drop = torch.rand(ids.shape, generator=generator, device=device) < word_dropout
    ids = torch.where(drop & (ids != 0), torch.full_like(ids, UNKNOWN_ID), ids)
    copies = {}
    count = round(recolour * len(batch['state'])) if batch['labels'] else 0
    if count:
        rows = torch.randperm(len(batch['state']), generator=generator, device=device)[:count]
        copies['recoloured'] = {
            name: recoloured(pixels[rows], generator) for name, pixels in images.items()
        }
        copies['recoloured_labels'] = {name: ids[rows] for name, ids in batch['labels'].items()}
    return {**batch, 'images': images, 'ids': ids, **copies}
