"""Training batches that depend on (seed, step) alone, prepared one ahead by a thread.

Because nothing else decides a batch, a run that is resumed at step n sees exactly what an
uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from vla_alignment_ros.alignment.labels import untold_contrasts
from vla_alignment_ros.data.dataset import DemonstrationDataset
from vla_alignment_ros.encoders.language import tokenize
from vla_alignment_ros.errors import DatasetError

UNKNOWN_ID = 1  # of build_tokenizer's vocabulary


def sentence_groups(dataset: DemonstrationDataset, note: str) -> np.ndarray:
    """Group of every instruction text, (I,) int64, by what a recorder noted about it.

    Args:
        dataset: any split.
        note: entry of the bags' notes. `group`: sentences that mean the same share it; `target`:
            sentences that name the same thing share it. A sentence without the note is its own
            group.
    """
    declared = sentence_notes(dataset, note)
    names = [declared.get(text, text) for text in dataset.instructions]
    order = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([order[name] for name in names], dtype=np.int64)


def sentence_notes(dataset: DemonstrationDataset, note: str) -> dict[str, str]:
    """Instruction text → what the bags note about it; texts without the note are left out."""
    notes = {}
    for episode in dataset.cache.episodes:
        if episode.extra.get(note):
            first = int(dataset.cache.arrays['instruction'][episode.start])
            notes[dataset.instructions[first]] = episode.extra[note]
    return notes


class _Notes:
    """What recorders noted about sentences and scenes, as ids that a batch can be made from.

    Texts I, episodes E, names K (row 0 stands for nothing).
    """

    def __init__(self, dataset: DemonstrationDataset, tokenizer: Any) -> None:
        texts, names = dataset.instructions, dataset.names
        self.group = torch.from_numpy(sentence_groups(dataset, 'group'))  # (I,)
        self.referent = torch.from_numpy(sentence_groups(dataset, 'target'))  # (I,)
        tasks = sentence_notes(dataset, 'task')
        kinds = {task: i for i, task in enumerate(sorted(set(tasks.values())), start=1)}
        self.task = torch.tensor([kinds.get(tasks.get(text), 0) for text in texts])  # (I,)
        targets, place = sentence_notes(dataset, 'target'), {n: i for i, n in enumerate(names, 1)}
        self.named = torch.tensor([place.get(targets.get(text), -1) for text in texts])  # (I,)
        self.names = torch.zeros(1, 1, dtype=torch.int64)  # (K, W) word ids
        if names:
            words = tokenize(tokenizer, names)
            words[words == UNKNOWN_ID] = 0  # all unknown words are one: it means nothing
            self.names = F.pad(words, (0, 0, 1, 0))
        self.untold = untold_contrasts(self.names)  # (P, 2)
        self.holds = torch.zeros(len(dataset.cache.episodes), len(names) + 1, dtype=torch.bool)
        for row, episode in zip(self.holds, dataset.cache.episodes):
            row[[place[name] for name in episode.labels]] = True

    def about(self, raw: dict[str, Any]) -> dict[str, torch.Tensor]:
        """The notes of a dataset batch's rows."""
        text = raw['instruction_id']
        about = {k: getattr(self, k)[text] for k in ('group', 'referent', 'task', 'named')}
        known = (about['named'] > 0).unsqueeze(0)  # (1, B) of the sentence
        there = self.holds[raw['episode']][:, about['named'].clamp_min(0)]  # (scene, sentence)
        same = about['referent'].unsqueeze(1) == about['referent'].unsqueeze(0)
        present = same | (there & known)
        return {**about, 'present': present, 'names': self.names, 'untold': self.untold}


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
        self._notes = _Notes(dataset, tokenizer)
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
            order = np.random.default_rng([self.seed, number, epoch]).permutation(pool)
            self._orders[number] = (epoch, order)
        start = (place * self.world + self.rank) * count
        return self._orders[number][1][start : start + count]

    def at(self, step: int) -> dict[str, Any]:
        """The batch of step `step`, as `VlaModel.forward` takes it."""
        # sorted: neighbours in a memory map are read together; the loss does not mind the order
        indices = np.sort(self.indices(step))
        raw = self.dataset.get_batch(indices)
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
    batch: dict[str, Any], light: float, word_dropout: float, generator: torch.Generator
) -> dict[str, Any]:
    """Random brightness, contrast and a slight tint per image; words dropped to unknown."""
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
    return {**batch, 'images': images, 'ids': ids}
