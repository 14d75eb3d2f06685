"""Which samples a step sees, and what is done to them."""

import json

import numpy as np
import pytest
import torch

from vla_alignment_ros.data.dataset import load_dataset
from vla_alignment_ros.encoders.language import build_tokenizer
from vla_alignment_ros.errors import ConfigError, DatasetError
from vla_alignment_ros.training.batches import augment, BatchStream, UNKNOWN_ID
from vla_alignment_ros.training.notes import mislabelled, Notes, sentence_groups

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


@pytest.mark.parametrize(('balance', 'kind'), [('task', 'task'), ('instruction', 'group')])
def test_balanced_draws_take_rare_kinds_as_often_as_common_ones(
    tmp_path, variant, tokenizer, balance, kind
):
    root = tmp_path / 'demos'
    for i, (text, ticks) in enumerate(zip(SENTENCES, (40, 40, 8))):  # ten times rarer
        extra = {'task': text.split()[0].replace('grab', 'pick'), 'group': GROUPS[i]}
        variant(root, seed=i).record(f'episode_{i}', ticks=ticks, instruction=text, extra=extra)
    dataset = load_dataset([root], horizon=4, val_fraction=0.0, progress=False).train
    shares = {}
    for how in ('none', balance):
        stream = BatchStream(dataset, tokenizer, 8, seed=0, balance=how)
        kinds = torch.cat([stream.at(step)[kind] for step in range(40)])
        shares[how] = float((kinds == kinds.max()).float().mean())
    assert shares['none'] < 0.15 and 0.4 < shares[balance] < 0.6


@pytest.fixture
def corrected(tmp_path, variant):
    """Forty samples, four of them driven by a person who took over."""
    for i, text in enumerate(SENTENCES[:2]):
        flags = [(8, True), (12, False)] if i else []
        extra = {'task': text.split()[0]}
        variant(tmp_path, seed=i).record(
            f'e{i}', ticks=20, instruction=text, extra=extra, interventions=flags
        )
    return load_dataset([tmp_path], horizon=4, val_fraction=0.0, progress=False).train


@pytest.mark.parametrize(('weight', 'balance'), [(3.0, 'none'), (0.25, 'none'), (3.0, 'task')])
def test_a_correction_is_drawn_as_often_as_its_weight_says(corrected, tokenizer, weight, balance):
    stream = BatchStream(
        corrected, tokenizer, 8, seed=0, balance=balance, correction_weight=weight
    )
    drawn = np.bincount(np.concatenate([stream.indices(s) for s in range(2000)]), minlength=40)
    second, flag = np.arange(40) >= 20, corrected.corrections()
    ordinary = drawn[second & ~flag].mean()
    assert drawn[flag].mean() / ordinary == pytest.approx(weight, rel=0.1)
    if balance == 'task':  # the tasks stay even
        assert drawn[second].sum() / drawn.sum() == pytest.approx(0.5, abs=0.02)


def test_corrections_that_weigh_nothing_more_or_are_not_there_change_no_batch(
    corrected, dataset, tokenizer
):
    for samples, weight in ((corrected, 1.0), (dataset, 5.0)):
        stream = BatchStream(samples, tokenizer, 4, seed=0, correction_weight=weight)
        epoch = np.concatenate([stream.indices(step) for step in range(stream.per_epoch)])
        once = np.random.default_rng([0, 1, 0]).permutation(len(samples))
        assert epoch.tolist() == once.tolist()


@pytest.mark.parametrize('weight', [0.0, -1.0, float('nan'), float('inf')])
def test_a_weight_of_corrections_that_is_none_is_refused(corrected, tokenizer, weight):
    with pytest.raises(ConfigError, match='correction_weight must be a number above 0'):
        BatchStream(corrected, tokenizer, 4, seed=0, correction_weight=weight)


def test_a_share_of_the_episodes_can_be_given_wrong_sentences(tmp_path, variant):
    root = tmp_path / 'demos'
    for i in range(20):
        target = ('red cube', 'blue ball')[i % 2]
        extra = {'target': target, 'labels': json.dumps([target])}
        recorder = variant(root, seed=i)
        recorder.record(f'episode_{i}', ticks=4, instruction=f'get the {target}', extra=extra)
    dataset = load_dataset([root], horizon=4, val_fraction=0.0, progress=False).train
    tokenizer = build_tokenizer(dataset.instructions)
    wrong = mislabelled(dataset, 0.3, seed=0)
    assert (wrong >= 0).sum() == 6 and torch.equal(wrong, mislabelled(dataset, 0.3, seed=0))
    own = torch.tensor([dataset.instructions.index(e.instruction) for e in dataset.episodes])
    assert (own[wrong >= 0] != wrong[wrong >= 0]).all()
    stream = BatchStream(dataset, tokenizer, 80, seed=0, labels=False, mislabel=0.3)
    batch = stream.at(0)
    told = batch['referent'].view(20, 4)[:, 0]
    assert torch.equal(told, torch.where(wrong < 0, own, wrong))
    assert batch['labels'] == {} and (batch['named'] == -1).all()
    assert torch.equal(batch['present'], batch['referent'][:, None] == batch['referent'])


def test_an_unknown_balance_is_refused(dataset, tokenizer):
    with pytest.raises(ConfigError, match="'tasks' is unknown; one of none, task, instruction"):
        BatchStream(dataset, tokenizer, 4, seed=0, balance='tasks')


def test_each_distinct_sentence_is_encoded_once(dataset, tokenizer):
    batch = BatchStream(dataset, tokenizer, 16, 0).at(0)
    assert len(batch['ids']) <= 3
    words = [tokenizer.decode(row[row != 0].tolist()) for row in batch['ids'][batch['sentence']]]
    groups = dict(zip(dataset.instructions, sentence_groups(dataset, 'group')))
    assert [groups[w] for w in words] == batch['group'].tolist()


def test_a_batch_knows_what_is_in_its_scenes(tmp_path, variant):
    """A sentence fits a scene that shows what it names, whoever was told it, and no other."""
    root = tmp_path / 'demos'
    scenes = [('red cube', 'blue ball'), ('blue ball', 'red ball'), ('red cube',), ()]
    tasks = ('pick', 'push', 'pick', '')
    for i, (labels, task) in enumerate(zip(scenes, tasks)):
        target = ('red cube', 'blue ball', 'red cube', 'mug')[i]
        extra = {'task': task, 'target': target, 'labels': json.dumps(labels) if labels else ''}
        text = f'do {i} with the {target}'
        variant(root, seed=i).record(f'episode_{i}', ticks=4, instruction=text, extra=extra)
    dataset = load_dataset([root], horizon=4, val_fraction=0.0, progress=False).train
    tokenizer = build_tokenizer(dataset.instructions)
    batch = BatchStream(dataset, tokenizer, 16, seed=0).at(0)
    present = batch['present']  # rows come sorted: four of each episode
    assert present[::4, ::4].int().tolist() == [
        [1, 1, 1, 0],
        [0, 1, 0, 0],
        [1, 0, 1, 0],
        [0, 0, 0, 1],  # nobody noted what is there, but what it was told is
    ]
    assert dataset.names == ('red cube', 'blue ball', 'red ball')
    assert batch['named'][::4].tolist() == [1, 2, 1, -1]
    assert batch['task'][::4].tolist() == [1, 2, 1, 0]
    words = [[tokenizer.id_to_token(i) for i in row if i] for row in batch['names'].tolist()]
    assert words == [[], ['red', 'cube'], ['blue', 'ball'], ['red', 'ball']]
    untold = {(n, tokenizer.id_to_token(w)) for n, w in batch['untold'].tolist()}
    assert untold == {(1, 'blue'), (2, 'cube')}


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


def test_copies_in_other_colours_come_only_where_pixels_are_labelled(dataset, tokenizer):
    batch = BatchStream(dataset, tokenizer, 16, 0).at(0)
    assert not batch['labels']
    plain = augment(batch, 0.1, 0.0, torch.Generator().manual_seed(0), recolour=0.25)
    assert 'recoloured' not in plain
    number = torch.arange(16).view(-1, 1, 1).expand(-1, 6, 8)
    labelled = {**batch, 'labels': {'front': number}}
    first, again = (
        augment(labelled, 0.1, 0.0, torch.Generator().manual_seed(0), recolour=0.25)
        for _ in range(2)
    )
    rows = first['recoloured_labels']['front'][:, 0, 0]  # each row was labelled with its number
    assert rows.shape == (4,) and len(rows.unique()) == 4
    for name, image in first['images'].items():
        copies = first['recoloured'][name]
        assert copies.shape == (4, *image.shape[1:]) and not torch.equal(copies, image[rows])
        # greys are kept but for what is cut off, so each copy is known by its own
        greys = [pixels.mean(-1).flatten(1) for pixels in (copies, image)]
        ours, theirs = (grey - grey.mean(1, keepdim=True) for grey in greys)
        assert torch.equal((ours @ theirs.T).argmax(1), rows)
        assert torch.equal(copies, again['recoloured'][name])


def test_colour_words_of_the_names_are_known_by_their_ids(dataset, tokenizer):
    notes = Notes(dataset, tokenizer)
    words = {tokenizer.token_to_id('red'), tokenizer.token_to_id('blue')}
    assert set(notes.colours.tolist()) == words
