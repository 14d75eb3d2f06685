"""Streaming losses against the matrix forms in float64, in value, gradients and odd inputs."""

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch
import torch.nn.functional as F

from vla_alignment_ros.alignment import streaming
from vla_alignment_ros.alignment.losses import (
    multi_positive_info_nce,
    same_group,
    sigmoid_loss,
    symmetric_info_nce,
)
from vla_alignment_ros.alignment.streaming import streaming_info_nce, streaming_sigmoid
from vla_alignment_ros.errors import AlignmentError, ConfigError


def unit_rows(generator, count, width=8, dtype=torch.float64):
    rows = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return F.normalize(rows, dim=-1).to(dtype).requires_grad_()


def case(seed, rows=11, columns=11, groups=4, dtype=torch.float64):
    """Rows, columns, and ids of both, some of which the other side lacks."""
    generator = torch.Generator().manual_seed(seed)
    row_ids = torch.randint(groups, (rows,), generator=generator)
    column_ids = torch.randint(1, groups + 1, (columns,), generator=generator)
    left, right = (unit_rows(generator, n, dtype=dtype) for n in (rows, columns))
    return left, right, 7 * row_ids, 7 * column_ids


def gradients(loss, *inputs):
    return torch.autograd.grad(loss, inputs)


def assert_same(ours, reference, inputs, tolerance=1e-12):
    assert torch.allclose(ours, reference, rtol=tolerance, atol=tolerance)
    for a, b in zip(gradients(ours, *inputs), gradients(reference, *inputs)):
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance)


@given(
    seed=st.integers(0, 10_000),
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    block=st.integers(1, 13),
    symmetric=st.booleans(),
    log_scale=st.floats(0.0, 4.605),
)
@settings(max_examples=60, deadline=None)
def test_info_nce_is_that_of_the_matrix(seed, sizes, block, symmetric, log_scale):
    rows, columns, row_ids, column_ids = case(seed, *sizes)
    log_scale = torch.tensor(log_scale, dtype=torch.float64, requires_grad=True)
    dense = symmetric_info_nce if symmetric else multi_positive_info_nce
    reference = dense(log_scale.exp() * rows @ columns.T, same_group(row_ids, column_ids))
    ours = streaming_info_nce(
        rows, columns, log_scale.exp(), row_ids, column_ids, symmetric=symmetric, block_rows=block
    )
    assert_same(ours, reference, (rows, columns, log_scale), 1e-10)


@given(
    seed=st.integers(0, 10_000),
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    block=st.integers(1, 13),
)
@settings(max_examples=40, deadline=None)
def test_sigmoid_is_that_of_the_matrix(seed, sizes, block):
    rows, columns, row_ids, column_ids = case(seed, *sizes)
    scale, bias = (
        torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (9.0, -3.0)
    )
    logits = scale * rows @ columns.T + bias
    reference = sigmoid_loss(logits, same_group(row_ids, column_ids))
    ours = streaming_sigmoid(rows, columns, scale, bias, row_ids, column_ids, block_rows=block)
    assert_same(ours, reference, (rows, columns, scale, bias), 1e-10)


@pytest.mark.parametrize('symmetric', [True, False])
def test_gradients_are_those_of_the_values(symmetric):
    rows, columns, row_ids, column_ids = case(1, 5, 6)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)

    def info_nce(r, c, s):
        return streaming_info_nce(
            r, c, s, row_ids, column_ids, symmetric=symmetric, block_rows=2
        )

    assert torch.autograd.gradcheck(info_nce, (rows, columns, scale))

    def sigmoid(r, c, s, b):
        return streaming_sigmoid(r, c, s, b, row_ids, column_ids, block_rows=2)

    assert torch.autograd.gradcheck(sigmoid, (rows, columns, scale, bias))


@pytest.mark.parametrize('scale', [1.0, 14.3, 70.0, 100.0])
def test_float32_stays_close_over_the_whole_range_of_scales(scale):
    rows, columns, row_ids, _ = case(3, 64, 64, dtype=torch.float32)
    temperature = torch.tensor(scale)
    ours = streaming_info_nce(rows, columns, temperature, row_ids, block_rows=16)
    exact = (rows.detach().double().requires_grad_(), columns.detach().double().requires_grad_())
    logits = scale * exact[0] @ exact[1].T
    reference = symmetric_info_nce(logits, same_group(row_ids, row_ids))
    assert ours.item() == pytest.approx(reference.item(), rel=1e-5, abs=1e-4)
    for a, b in zip(gradients(ours, rows, columns), gradients(reference, *exact)):
        assert torch.allclose(a.double(), b, rtol=1e-4, atol=1e-6 * scale)


def opposite(scale=100.0):
    """Every row is the opposite of every column: all terms underflow under one common shift."""
    row = F.normalize(torch.ones(1, 8), dim=-1)
    noise = 0.01 * torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    rows = F.normalize(row + noise, dim=-1).requires_grad_()
    columns = F.normalize(-row - noise.flip(0), dim=-1).requires_grad_()
    return rows, columns, torch.tensor(scale, requires_grad=True)


def longer():
    """Rows that are not of length 1, whose logits are far above the scale."""
    rows, columns, scale = opposite()
    return (3 * rows).detach().requires_grad_(), (-columns).detach().requires_grad_(), scale


@pytest.mark.parametrize('inputs', [opposite, longer])
@pytest.mark.parametrize('symmetric', [True, False])
def test_where_one_shift_does_not_do_every_row_and_column_gets_its_own(inputs, symmetric):
    rows, columns, scale = inputs()
    ids = torch.tensor([0, 0, 1, 2, 2, 3])
    ours = streaming_info_nce(rows, columns, scale, ids, symmetric=symmetric, block_rows=4)
    dense = symmetric_info_nce if symmetric else multi_positive_info_nce
    reference = dense(scale * rows @ columns.T, same_group(ids, ids))
    assert float(reference) > 0 and reference.isfinite()
    assert_same(ours, reference, (rows, columns, scale), 1e-3)


def test_a_term_that_underflowed_is_found_out():
    tiny = torch.finfo(torch.float32).tiny
    assert streaming._trustworthy(torch.tensor([1.0, 1e-20]), 4096)
    for bad in (0.0, tiny, 1e-28, float('inf'), float('nan')):
        assert not streaming._trustworthy(torch.tensor([1.0, bad]), 4096)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_batch_does_not_matter(seed):
    rows, columns, row_ids, column_ids = case(seed)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(seed))
    scale = torch.tensor(5.0, dtype=torch.float64)
    one = streaming_info_nce(rows, columns, scale, row_ids, column_ids)
    two = streaming_info_nce(rows[order], columns, scale, row_ids[order], column_ids)
    assert torch.allclose(one, two, atol=1e-12)


@pytest.mark.parametrize('distinct', [1, 3, 12])
def test_perfect_alignment_costs_nothing_however_often_a_sentence_is_repeated(distinct):
    ids = torch.arange(12) % distinct
    rows = F.one_hot(ids, 12).double()
    loss = streaming_info_nce(rows, rows, torch.tensor(100.0, dtype=torch.float64), ids)
    assert float(loss) == pytest.approx(0.0, abs=1e-12)


def test_only_what_needs_a_gradient_gets_one():
    rows, columns, row_ids, column_ids = case(5)
    scale = torch.tensor(5.0, dtype=torch.float64)
    queue = columns.detach()
    streaming_info_nce(rows, queue, scale, row_ids, column_ids, symmetric=False).backward()
    assert rows.grad is not None and queue.grad is None
    reference = multi_positive_info_nce(
        scale * rows @ queue.T, same_group(row_ids, column_ids)
    )
    assert torch.allclose(rows.grad, gradients(reference, rows)[0], atol=1e-12)


def test_autocast_does_not_make_it_coarse():
    rows, columns, row_ids, column_ids = case(6, dtype=torch.float32)
    scale = torch.tensor(30.0)
    exact = streaming_info_nce(rows, columns, scale, row_ids, column_ids)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        ours = streaming_info_nce(rows, columns, scale, row_ids, column_ids)
        grads = gradients(ours, rows, columns)
    assert torch.equal(ours, exact)
    for a, b in zip(grads, gradients(exact, rows, columns)):
        assert torch.equal(a, b)


def test_half_precision_embeddings_get_half_precision_gradients():
    rows, columns, row_ids, column_ids = case(7, dtype=torch.bfloat16)
    loss = streaming_info_nce(rows, columns, torch.tensor(10.0), row_ids, column_ids)
    loss.backward()
    assert loss.dtype == torch.float32 and rows.grad.dtype == torch.bfloat16


@pytest.mark.parametrize('rows, columns', [(0, 0), (0, 4), (4, 0)])
def test_an_empty_side_costs_nothing_and_has_a_gradient(rows, columns):
    left, right, row_ids, column_ids = case(0, rows, columns)
    scale = torch.tensor(5.0, requires_grad=True)
    total = streaming_info_nce(left, right, scale, row_ids, column_ids)
    total = total + streaming_sigmoid(left, right, scale, scale, row_ids, column_ids)
    total.backward()
    assert float(total) == 0.0
    assert left.grad.shape == left.shape and not scale.grad


def test_without_any_positive_the_loss_is_zero_and_so_is_its_gradient():
    rows, columns, row_ids, _ = case(0)
    loss = streaming_info_nce(rows, columns, torch.tensor(5.0), row_ids, row_ids + 1)
    loss.backward()
    assert float(loss) == 0.0 and not rows.grad.any() and not columns.grad.any()


def test_one_sample_and_one_sentence_are_no_error():
    one = torch.ones(1, 1, requires_grad=True)
    scale = torch.tensor(100.0)
    assert float(streaming_info_nce(one, one, scale, torch.zeros(1, dtype=torch.int64))) == 0.0
    rows, columns, row_ids, _ = case(8)
    loss = streaming_info_nce(rows, columns, scale.double(), torch.zeros_like(row_ids))
    loss.backward()
    assert loss > 0 and rows.grad.isfinite().all()


@pytest.mark.parametrize('place', ['rows', 'columns', 'scale'])
def test_what_is_not_finite_is_refused_by_name(place):
    rows, columns, row_ids, column_ids = case(9)
    values = {
        'rows': rows.detach(), 'columns': columns.detach(), 'scale': torch.tensor(5.0).double()
    }  # fmt: skip
    values[place].view(-1)[0] = float('nan')
    inputs = (values['rows'], values['columns'], values['scale'])
    with pytest.raises(AlignmentError, match=f'{place} .* not finite in 1 row'):
        streaming_info_nce(*inputs, row_ids, column_ids)
    with pytest.raises(AlignmentError, match=f'{place} .* not finite in 1 row'):
        streaming_sigmoid(*inputs, torch.tensor(0.0), row_ids, column_ids)


def test_shapes_that_disagree_are_refused():
    rows, columns, ids, _ = case(0)
    scale = torch.tensor(1.0)
    for arguments, message in (
        ((rows, columns[:, :3], scale, ids), 'columns'),
        ((rows, columns[:4], scale, ids), 'column_ids must be 4 integers'),
        ((rows, columns, scale, ids.double()), 'row_ids must be 11 integers'),
        ((rows, columns, scale.reshape(1), ids), 'scale must be a scalar'),
    ):
        with pytest.raises(ConfigError, match=message):
            streaming_info_nce(*arguments)


def test_no_matrix_of_all_pairs_is_ever_held(monkeypatch):
    """The largest tensor that any operation makes is a block."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        entries = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            made = result if isinstance(result, (tuple, list)) else [result]
            for tensor in made:
                if isinstance(tensor, torch.Tensor):
                    self.entries = max(self.entries, tensor.untyped_storage().nbytes() // 8)
            return result

    rows, columns, row_ids, column_ids = case(0, 200, 200)
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    with Largest() as seen:
        loss = streaming_info_nce(rows, columns, scale, row_ids, column_ids, block_rows=20)
        loss = loss + streaming_sigmoid(
            rows, columns, scale, scale, row_ids, column_ids, block_rows=20
        )
        loss.backward()
    assert 0 < seen.entries <= 20 * 200
