"""What recorders noted about sentences and scenes, for batches to carry along."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from vla_alignment_ros.alignment.labels import present_in_batch, untold_contrasts
from vla_alignment_ros.data.dataset import DemonstrationDataset
from vla_alignment_ros.encoders.language import RESERVED, tokenize, UNKNOWN_ID

# the basic colour terms of English (Berlin and Kay 1969), and what screens call their primaries
COLOUR_WORDS = (
    'black', 'white', 'red', 'green', 'yellow', 'blue', 'brown', 'purple', 'pink', 'orange',
    'grey', 'gray', 'cyan', 'magenta', 'violet', 'turquoise',
)  # fmt: skip


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


class Notes:
    """What recorders noted about sentences and scenes, as ids that a batch can be made from.

    Texts I, episodes E, names K (row 0 stands for nothing).

    Args:
        dataset: any split.
        tokenizer: of the model.
        use_labels: False: as if nobody had noted what is in a scene.
    """

    def __init__(
        self, dataset: DemonstrationDataset, tokenizer: Any, use_labels: bool = True
    ) -> None:
        texts, names = dataset.instructions, dataset.names if use_labels else ()
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
        colours = tokenize(tokenizer, COLOUR_WORDS)[:, 0]
        self.colours = colours[colours >= RESERVED]  # (W,) word ids, of those it knows
        self.holds = torch.zeros(len(dataset.cache.episodes), len(names) + 1, dtype=torch.bool)
        if names:
            for row, episode in zip(self.holds, dataset.cache.episodes):
                row[[place[name] for name in episode.labels]] = True

    def about(self, raw: dict[str, Any]) -> dict[str, torch.Tensor]:
        """The notes of a dataset batch's rows."""
        text = raw['instruction_id']
        about = {k: getattr(self, k)[text] for k in ('group', 'referent', 'task', 'named')}
        about['holds'] = self.holds[raw['episode']]  # (B, K)
        known = {key: about[key] for key in ('group', 'referent', 'holds', 'named')}
        return {
            **about,
            'present': present_in_batch(**known),
            'names': self.names,
            'untold': self.untold,
            'colours': self.colours,
        }


def mislabelled(dataset: DemonstrationDataset, share: float, seed: int) -> torch.Tensor:
    """A wrong sentence for a share of the episodes: (E,) text ids, −1 where it stays the own.

    For experiments on robustness. The wrong one is drawn from the sentences of episodes that name
    something else.
    """
    arrays, episodes = dataset.cache.arrays, dataset.cache.episodes
    own = np.array([arrays['instruction'][episode.start] for episode in episodes])
    referent = sentence_groups(dataset, 'target')[own]
    rng = np.random.default_rng([seed, 7])
    wrong = np.full(len(own), -1, np.int64)
    for index in rng.permutation(len(own))[: round(share * len(own))]:
        others = np.flatnonzero(referent != referent[index])
        if len(others):
            wrong[index] = own[rng.choice(others)]
    return torch.from_numpy(wrong)
