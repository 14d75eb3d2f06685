"""Training that begins with the weights of a checkpoint instead of random ones.

What is taken over: weights, tokenizer and normaliser statistics. The statistics stay those of the
checkpoint, whatever the new episodes look like: they are the units that its weights were learned
in, and other units would make other motions of the same weights. Words that it does not know are
added to the vocabulary of a tower that was trained from scratch, with random embeddings; the ids
of the others stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
import hashlib
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
import torch

from vla_alignment_ros.data.dataset import DatasetStatistics, DemonstrationDataset
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.encoders.language import add_words
from vla_alignment_ros.errors import CheckpointError
from vla_alignment_ros.fields import differences
from vla_alignment_ros.observation import ObservationAssembler
from vla_alignment_ros.policy.checkpoint import load_checkpoint, WEIGHTS
from vla_alignment_ros.policy.model import ModelConfig, VlaModel
from vla_alignment_ros.policy.normalizer import DataStatistics

NAMED = 5  # differences that an error names
SEEN = 5.0  # standard deviations at which the model's view of the state ends (`Normalizer.state`)
_WORDS = 'language.bert.embeddings.word_embeddings.weight'  # (V, D), a row per known word


class Start:
    """A checkpoint to begin with.

    Args:
        folder: the checkpoint.
        dataset: what will be trained on.
        sentences: all that its samples say.

    Raises:
        CheckpointError: it cannot be read, or is of another embodiment; the fields are named.
    """

    def __init__(
        self, folder: Path, dataset: DemonstrationDataset, sentences: Sequence[str]
    ) -> None:
        self.folder = folder
        self._checkpoint = load_checkpoint(folder)
        self.digest = _digest(folder / WEIGHTS)
        _require_same(
            folder, 'another embodiment than the episodes',
            self._checkpoint.embodiment.differences(dataset.embodiment),
        )  # fmt: skip
        self.tokenizer: Tokenizer
        self.tokenizer, self.new_words = add_words(self._checkpoint.tokenizer, sentences)
        self.strange = _out_of_sight(
            self.statistics, dataset.statistics(), dataset.embodiment
        )

    @property
    def statistics(self) -> DataStatistics:
        """The units of its weights."""
        return self._checkpoint.statistics

    @property
    def pretrained(self) -> dict[str, dict[str, Any]]:
        """`TowerConfig.pretrained` of its towers: they need not be on this machine any more."""
        return self._checkpoint.model.config.pretrained

    def give(self, model: VlaModel) -> None:
        """Copy the weights into a new model; what serves training alone stays as it is.

        Raises:
            CheckpointError: the model is to have other shapes; the settings are named.
        """
        mine = self._checkpoint.model.config
        wider = replace(mine, vocabulary_size=mine.vocabulary_size + len(self.new_words))
        _require_same(
            self.folder, 'another model than these settings ask for',
            differences(_plain(wider), _plain(model.config), 'model'),
        )  # fmt: skip
        given = self._checkpoint.model.state_dict()
        own = model.state_dict()
        if self.new_words:
            known = given[_WORDS]
            given[_WORDS] = torch.cat([known, own[_WORDS][len(known) :].to(known)])
        model.load_state_dict({**own, **given})

    def notes(self) -> list[str]:
        """What a person should know before it is trained on."""
        said = []
        if self.new_words:
            said.append(f'words that {self.folder} does not know: {", ".join(self.new_words)}')
        if self.strange:
            said.append(
                f'these episodes go where {self.folder} cannot see ({", ".join(self.strange)} '
                f'beyond {SEEN:g} standard deviations of what it was trained on): train from zero'
            )
        return said

    def to_dict(self) -> dict[str, Any]:
        """Where the weights came from, for the checkpoint that is made of them."""
        before = self._checkpoint.training
        return {
            'folder': str(self.folder),
            'weights': self.digest,
            'steps': before.get('steps'),
            'new_words': list(self.new_words),
        }


def _require_same(folder: Path, what: str, found: Sequence[str]) -> None:
    if found:
        more = f' and {len(found) - NAMED} more' if len(found) > NAMED else ''
        raise CheckpointError(
            f'{folder} is of {what}: {"; ".join(found[:NAMED])}{more}; give the same ones, or '
            f'train from zero'
        )


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _plain(config: ModelConfig) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(config)))  # lists are lists, wherever they are from


def _out_of_sight(
    known: DataStatistics, found: DatasetStatistics, embodiment: Embodiment
) -> list[str]:
    """Names of the states that lie, for a good part, where the normaliser cuts them off."""
    names = ObservationAssembler(embodiment).state_names
    columns = zip(names, known.state_mean, known.state_std, found.state_mean, found.state_std)
    return [
        name
        for name, mean, std, new_mean, new_std in columns
        if abs(new_mean - mean) + new_std > SEEN * max(std, 1e-3)
    ]
