"""The ring of earlier embeddings and the miner: against plain references and odd inputs."""

import copy

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch
import torch.nn.functional as F

from vla_alignment_ros.alignment import bank as module
from vla_alignment_ros.alignment.bank import HardNegativeMiner, MemoryBank
from vla_alignment_ros.errors import AlignmentError, ConfigError


def batch(first, count, width=4):
    """Rows that say which they are: all entries of row n are n."""
    ids = torch.arange(first, first + count)
    rows = ids.float().unsqueeze(1).expand(-1, width)
    return ids, {'vision': rows, 'language': -rows}


@given(size=st.integers(1, 9), counts=st.lists(st.integers(0, 20), max_size=6))
@settings(max_examples=60, deadline=None)
def test_the_bank_holds_the_newest_rows_of_every_modality(size, counts):
    bank = MemoryBank(size, 4)
    total = 0
    for count in counts:
        ids, rows = batch(total, count)
        bank.enqueue(ids, **rows)
        total += count
    newest = list(range(max(0, total - size), total))
    assert sorted(bank.ids.tolist()) == newest and len(bank) == len(newest)
    for name, sign in (('vision', 1), ('language', -1)):
        assert torch.equal(bank.rows(name), sign * bank.ids.float().unsqueeze(1).expand(-1, 4))


def test_rows_that_were_never_filled_are_never_seen():
    bank = MemoryBank(1000, 4)
    assert len(bank) == 0 and bank.rows('vision').shape == (0, 4)
    ids, rows = batch(1, 3)
    bank.enqueue(ids, **rows)
    assert bank.ids.tolist() == [1, 2, 3] and (bank.rows('vision') != 0).all()


def test_a_bank_goes_on_from_its_state():
    bank = MemoryBank(5, 4)
    for first in (0, 3):
        ids, rows = batch(first, 3)
        bank.enqueue(ids, **rows)
    other = MemoryBank(5, 4)
    other.load_state_dict(copy.deepcopy(bank.state_dict()))
    ids, rows = batch(6, 2)
    for one in (bank, other):
        one.enqueue(ids, **rows)
    assert other.ids.tolist() == bank.ids.tolist() == [5, 6, 7, 3, 4]
    assert torch.equal(other.rows('language'), bank.rows('language'))


def test_the_bank_keeps_no_graph():
    bank = MemoryBank(4, 2, ('vision',))
    bank.enqueue(torch.tensor([0]), vision=torch.ones(1, 2, requires_grad=True))
    assert not bank.rows('vision').requires_grad


def test_notes_of_any_shape_and_type_stay_beside_their_pair():
    notes = {'group': torch.tensor(0), 'holds': torch.zeros(3, dtype=torch.bool)}
    bank = MemoryBank(5, 4, notes=notes)
    for first in (0, 3):
        ids, rows = batch(first, 3)
        bank.enqueue(ids, **rows, group=10 * ids, holds=(ids % 2 == 0).unsqueeze(1).expand(-1, 3))
    assert bank.rows('group').tolist() == (10 * bank.ids).tolist() == [50, 10, 20, 30, 40]
    assert bank.rows('holds').dtype == torch.bool
    assert bank.rows('holds')[:, 2].tolist() == [False, False, True, False, True]
    with pytest.raises(ConfigError, match='keeps vision, language, group, holds, got vision'):
        bank.enqueue(ids, **rows)
    with pytest.raises(ConfigError, match=r'holds must be \(3, 3\)'):
        bank.enqueue(ids, **rows, group=ids, holds=torch.zeros(3, 2, dtype=torch.bool))


def test_what_does_not_belong_into_the_bank_is_refused():
    bank = MemoryBank(4, 4)
    ids, rows = batch(0, 2)
    for wrong, message in (
        ({'vision': rows['vision']}, 'keeps vision, language, got vision'),
        ({**rows, 'language': rows['language'][:1]}, r'language must be \(2, 4\)'),
        ({**rows, 'language': rows['language'][:, :3]}, r'language must be \(2, 4\)'),
    ):
        with pytest.raises(ConfigError, match=message):
            bank.enqueue(ids, **wrong)
    with pytest.raises(ConfigError, match='ids must be 0 or more, got -1'):
        bank.enqueue(ids - 1, **rows)
    rows['vision'] = rows['vision'].clone()
    rows['vision'][1, 2] = float('nan')
    with pytest.raises(AlignmentError, match='vision .* not finite in 1 row'):
        bank.enqueue(ids, **rows)
    assert len(bank) == 0
    with pytest.raises(ConfigError, match='size'):
        MemoryBank(0, 4)


def scene(seed, queries, keys, groups, width=6):
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        F.normalize(torch.randn(n, width, generator=generator, dtype=torch.float64), dim=-1)
        for n in (queries, keys)
    )
    ids = [torch.randint(groups, (n,), generator=generator) for n in (queries, keys)]
    return left, ids[0], right, ids[1]


def reference(queries, query_ids, keys, key_ids, count):
    """Cosines of the hardest negatives of each query, one at a time."""
    for query, number in zip(queries, query_ids):
        others = (keys[key_ids != number] @ query).sort(descending=True).values
        yield others[:count]


@given(
    seed=st.integers(0, 10_000),
    queries=st.integers(1, 9),
    keys=st.integers(0, 400),
    groups=st.integers(1, 6),
    count=st.integers(1, 40),
    entries=st.sampled_from([16, 200, 2**22]),
    rows=st.sampled_from([2, 1024]),
    columns=st.sampled_from([1, 3, 400]),
)
@settings(max_examples=80, deadline=None)
def test_the_miner_finds_exactly_the_most_similar_rows_with_another_id(
    seed, queries, keys, groups, count, entries, rows, columns
):
    inputs = scene(seed, queries, keys, groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'BUFFER_ENTRIES', {'cpu': entries})
        patch.setattr(module, 'QUERY_ROWS', rows)
        patch.setattr(module, 'TOPK_COLUMNS', columns)
        found = HardNegativeMiner(count).mine(*inputs)
    assert found.index.shape == found.valid.shape == (queries, count)
    for row, expected in enumerate(reference(*inputs, count)):
        index = found.index[row][found.valid[row]]
        assert len(set(index.tolist())) == len(index) == len(expected)
        assert (inputs[3][index] != inputs[1][row]).all()
        assert torch.allclose(inputs[2][index] @ inputs[0][row], expected, atol=1e-12)
        assert found.valid[row].tolist() == sorted(found.valid[row].tolist(), reverse=True)


@given(seed=st.integers(0, 10_000), keys=st.integers(1, 90), share=st.sampled_from([0.1, 0.5, 1]))
@settings(max_examples=60, deadline=None)
def test_refused_pairs_are_never_mined_and_all_others_are(seed, keys, share):
    queries, query_ids, bank, bank_ids = scene(seed, 7, keys, 4)
    generator = torch.Generator().manual_seed(seed)
    refused = torch.rand(7, keys, generator=generator) < share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'BUFFER_ENTRIES', {'cpu': 200})
        patch.setattr(module, 'QUERY_ROWS', 3)
        patch.setattr(module, 'TOPK_COLUMNS', 1)
        found = HardNegativeMiner(5).mine(queries, query_ids, bank, bank_ids, refused)
    for row in range(7):
        left = ~refused[row]
        (expected,) = reference(
            queries[row : row + 1], query_ids[row : row + 1], bank[left], bank_ids[left], 5
        )
        index = found.index[row][found.valid[row]]
        assert not refused[row, index].any()
        assert torch.allclose(bank[index] @ queries[row], expected, atol=1e-12)


def test_too_few_negatives_are_said_to_be_missing():
    queries = torch.eye(3)
    found = HardNegativeMiner(4).mine(
        queries, torch.tensor([0, 1, 2]), queries, torch.tensor([0, 0, 2])
    )
    assert found.valid.sum(1).tolist() == [1, 3, 2]
    assert found.index.min() >= 0 and found.index.max() < 3


def test_mined_negatives_are_scored_again_with_a_gradient_that_pushes_them_away():
    queries, query_ids, keys, key_ids = scene(1, 5, 60, 3)
    queries.requires_grad_()
    miner = HardNegativeMiner(2, margin=0.5)
    positive = torch.full((5,), 0.3, dtype=torch.float64)
    loss = miner.loss(queries, query_ids, positive, keys, key_ids)
    expected = [0.5 + s - 0.3 for row in reference(queries, query_ids, keys, key_ids, 2)
                for s in row.tolist()]  # fmt: skip
    assert loss.item() == pytest.approx(sum(max(0.0, e) for e in expected) / 10)
    loss.backward()
    with torch.no_grad():
        moved = F.normalize(queries - 0.01 * queries.grad, dim=-1)
        assert miner.loss(moved, query_ids, positive, keys, key_ids) < loss


def test_the_gradient_of_the_mined_loss_is_that_of_its_value():
    queries, query_ids, keys, key_ids = scene(2, 4, 30, 3)
    miner = HardNegativeMiner(2, margin=0.5)
    positive = torch.full((4,), 0.3, dtype=torch.float64, requires_grad=True)

    def loss(q, p, k):
        return miner.loss(q, query_ids, p, k, key_ids)

    assert torch.autograd.gradcheck(
        loss, (queries.requires_grad_(), positive, keys.requires_grad_())
    )


def test_nothing_is_mined_before_the_warm_up_is_over_or_from_an_empty_bank():
    queries, query_ids, keys, key_ids = scene(3, 4, 30, 3)
    queries.requires_grad_()
    miner = HardNegativeMiner(2, warmup_steps=2, margin=1.0)
    arguments = (queries, query_ids, torch.zeros(4), keys, key_ids)
    for ready in (False, False, True, True):
        assert miner.ready is ready
        loss = miner.loss(*arguments)
        loss.backward()
        assert (loss.item() > 0) is ready
        miner.after_step()
    again = HardNegativeMiner(2, warmup_steps=2)
    again.load_state_dict(miner.state_dict())
    assert again.ready
    assert miner.loss(queries, query_ids, torch.zeros(4), keys[:0], key_ids[:0]).item() == 0.0


@pytest.mark.parametrize('place', ['queries', 'keys'])
def test_what_is_not_finite_is_refused_by_name(place):
    queries, query_ids, keys, key_ids = scene(4, 3, 20, 3)
    (queries if place == 'queries' else keys)[1, 0] = float('inf')
    with pytest.raises(AlignmentError, match=f'{place} .* not finite in 1 row'):
        HardNegativeMiner().mine(queries, query_ids, keys, key_ids)


def test_settings_and_shapes_that_make_no_sense_are_refused():
    queries, query_ids, keys, key_ids = scene(4, 3, 20, 3)
    with pytest.raises(ConfigError, match='one id per row'):
        HardNegativeMiner().mine(queries, query_ids[:2], keys, key_ids)
    with pytest.raises(ConfigError, match=r'refused must be \(3, 20\), got \(20, 3\)'):
        HardNegativeMiner().mine(queries, query_ids, keys, key_ids, torch.zeros(20, 3).bool())
    with pytest.raises(ConfigError, match='queries'):
        HardNegativeMiner().mine(queries[:, :2], query_ids, keys, key_ids)
    for settings_ in ((0, 0), (1, -1)):
        with pytest.raises(ConfigError, match='at least 1 negative'):
            HardNegativeMiner(*settings_)
