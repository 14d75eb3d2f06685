"""Which samples a step sees, and what is done to them."""

import numpy as np
import pytest
import torch

from vla_alignment_ros.data.dataset import load_dataset
from vla_alignment_ros.encoders.language import build_tokenizer
from vla_alignment_ros.errors import DatasetError
from vla_alignment_ros.training.batches import augment, BatchStream, sentence_groups, UNKNOWN_ID

SENTENCES = ('pick up the red cube', 'grab the red cube', 'push the blue ball')
GROUPS = ('pick red cube', 'pick red cube', '')


@pytest.fixture
def dataset(tmp_path, variant):
    root = tmp_path / 'demos'
    for i, (text, group) in enumerate(zip(SENTENCES, GROUPS)):
        extra = {'task': 'pick', 'group': group}
        recorder = variant(root, seed=i)
        recorder.record(f'episode_{i}', ticks=12, instruction=text, extra=extra)
    return load_dataset([root], horizon=4, val_fraction=0.0).train


@pytest.fixture
def tokenizer():
    return build_tokenizer(SENTENCES)


def test_declared_paraphrases_share_a_group_and_others_do_not(dataset):
    groups = dict(zip(dataset.instructions, sentence_groups(dataset, 'group')))
    assert groups[SENTENCES[0]] == groups[SENTENCES[1]] != groups[SENTENCES[2]]


def test_an_epoch_visits_every_sample_once(dataset, tokenizer):
    stream = BatchStream(dataset, tokenizer, 4, seed=0)
    seen = np.concatenate([stream.indices(step) for step in range(stream.per_epoch)])
    assert sorted(seen) == list(range(len(dataset)))
    again = np.concatenate([stream.indices(stream.per_epoch + s) for s in range(3)])
    assert not np.array_equal(again, seen[: len(again)])


def test_a_step_is_a_function_of_seed_and_number_alone(dataset, tokenizer):
    one = BatchStream(dataset, tokenizer, 4, seed=0, approach_share=0.5)
    two = BatchStream(dataset, tokenizer, 4, seed=0, approach_share=0.5)
    forward = [one.indices(step).tolist() for step in range(40)]
    assert [two.indices(step).tolist() for step in reversed(range(40))] == forward[::-1]
    other = BatchStream(dataset, tokenizer, 4, seed=1, approach_share=0.5)
    assert [other.indices(step).tolist() for step in range(40)] != forward


def test_processes_share_the_samples_without_overlap(dataset, tokenizer):
    parts = [BatchStream(dataset, tokenizer, 4, 0, rank, 2) for rank in range(2)]
    for step in range(parts[0].per_epoch):
        first, second = (part.indices(step) for part in parts)
        assert not set(first) & set(second)


def test_half_of_a_batch_comes_from_approaches_when_asked(dataset, tokenizer):
    early = dataset.approach()
    assert early.sum() == 9  # without keyframes: the first quarter of three episodes of twelve
    stream = BatchStream(dataset, tokenizer, 4, 0, approach_share=0.5)
    for step in range(10):
        assert early[stream.indices(step)[:2]].all()
        assert stream.at(step)['approach'].sum() >= 2


def test_each_distinct_sentence_is_encoded_once(dataset, tokenizer):
    batch = BatchStream(dataset, tokenizer, 16, 0).at(0)
    assert len(batch['ids']) <= 3
    words = [tokenizer.decode(row[row != 0].tolist()) for row in batch['ids'][batch['sentence']]]
    groups = dict(zip(dataset.instructions, sentence_groups(dataset, 'group')))
    assert [groups[w] for w in words] == batch['group'].tolist()


def test_too_few_samples_are_refused(dataset, tokenizer):
    with pytest.raises(DatasetError, match='fewer than one batch'):
        BatchStream(dataset, tokenizer, 64, 0)


def test_batches_arrive_in_order_from_the_background(dataset, tokenizer):
    stream = BatchStream(dataset, tokenizer, 4, 0)
    for step, batch in stream.iterate(3, 7):
        assert torch.equal(batch['state'], stream.at(step)['state'])


def test_augmentation_keeps_pixels_in_range_and_drops_only_words(dataset, tokenizer):
    batch = BatchStream(dataset, tokenizer, 16, 0).at(0)
    changed = augment(batch, 0.3, 0.5, torch.Generator().manual_seed(0))
    for name, image in changed['images'].items():
        assert image.shape == batch['images'][name].shape
        assert 0 <= image.min() and image.max() <= 255
        assert not torch.equal(image, batch['images'][name].float())
    kept = changed['ids'] == batch['ids']
    assert (kept | (changed['ids'] == UNKNOWN_ID)).all() and not kept.all()
    assert torch.equal(changed['ids'] == 0, batch['ids'] == 0)


def test_no_augmentation_changes_nothing(dataset, tokenizer):
    batch = BatchStream(dataset, tokenizer, 4, 0).at(0)
    same = augment(batch, 0.0, 0.0, torch.Generator().manual_seed(0))
    assert torch.equal(same['ids'], batch['ids'])
    for name, image in same['images'].items():
        assert torch.equal(image, batch['images'][name].float())
