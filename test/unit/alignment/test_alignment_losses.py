"""Contrastive losses against plain float64 references, their gradients, and odd inputs."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from vla_alignment_ros.alignment.losses import (
    hardest_triplet,
    LogitScale,
    MAX_LOG_SCALE,
    multi_positive_info_nce,
    negative_hinge,
    same_group,
    sigmoid_loss,
    SigmoidScale,
    symmetric_info_nce,
)
from vla_alignment_ros.errors import AlignmentError, ConfigError

PAIR_LOSSES = [multi_positive_info_nce, symmetric_info_nce, sigmoid_loss, hardest_triplet]
seeds = st.integers(0, 10_000)


def reference_info_nce(logits, positives, ignore=None):
    """Row by row, as the definition says."""
    rows = []
    for i in range(len(logits)):
        allowed = [
            j
            for j in range(logits.shape[1])
            if ignore is None or positives[i, j] or not ignore[i, j]
        ]
        chosen = [j for j in allowed if positives[i, j]]
        if not chosen:
            continue
        total = sum(math.exp(float(logits[i, j])) for j in allowed)
        rows.append(  # divergence of the softmax from the uniform targets
            sum(-math.log(len(chosen) * math.exp(float(logits[i, j])) / total) for j in chosen)
            / len(chosen)
        )
    return sum(rows) / len(rows)


def random_case(seed, rows=6, columns=8, groups=3):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    left = torch.randint(groups, (rows,), generator=generator)
    right = torch.randint(groups, (columns,), generator=generator)
    return logits, same_group(left, right)


@pytest.mark.parametrize('seed', range(5))
def test_info_nce_equals_the_definition(seed):
    logits, positives = random_case(seed)
    value = multi_positive_info_nce(logits, positives)
    assert float(value) == pytest.approx(reference_info_nce(logits, positives), abs=1e-12)


@pytest.mark.parametrize('seed', range(5))
def test_ignored_pairs_are_neither_positive_nor_negative(seed):
    logits, positives = random_case(seed)
    ignore = torch.rand(logits.shape, generator=torch.Generator().manual_seed(seed)) < 0.3
    value = multi_positive_info_nce(logits, positives, ignore)
    expected = reference_info_nce(logits, positives, ignore)
    assert float(value) == pytest.approx(expected, abs=1e-12)
    # what an ignored pair scores does not matter
    changed = logits + 5 * (ignore & ~positives)
    assert torch.allclose(value, multi_positive_info_nce(changed, positives, ignore))


def test_info_nce_gradient_is_the_softmax_minus_the_targets():
    logits, positives = random_case(0)
    logits = logits.float().requires_grad_()
    multi_positive_info_nce(logits, positives).backward()
    target = positives / positives.sum(1, keepdim=True).clamp_min(1)
    valid = positives.any(1)
    expected = (logits.softmax(1) - target) * valid[:, None] / valid.sum()
    assert torch.allclose(logits.grad, expected.float(), atol=1e-6)


@given(seed=seeds, distinct=st.integers(1, 5), size=st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_perfect_alignment_costs_nothing_however_often_a_sentence_is_repeated(
    seed, distinct, size
):
    """Diagonal InfoNCE would cost ln(B / K) here."""
    group = torch.randint(distinct, (size,), generator=torch.Generator().manual_seed(seed))
    positives = same_group(group, group)
    logits = torch.where(positives, 100.0, -100.0)
    for loss in (symmetric_info_nce, sigmoid_loss):
        assert float(loss(logits, positives)) == pytest.approx(0.0, abs=1e-5)
    assert float(hardest_triplet(logits, positives)) == 0.0


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_no_loss_is_negative_or_minds_the_order_of_the_batch(seed):
    logits, positives = random_case(seed, 6, 6)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.randperm(6, generator=generator), torch.randperm(6, generator=generator)
    for loss in PAIR_LOSSES:
        value = loss(logits, positives)
        assert value >= -1e-12
        shuffled = loss(logits[rows][:, columns], positives[rows][:, columns])
        assert torch.allclose(value, shuffled, atol=1e-12)


@pytest.mark.parametrize('loss', PAIR_LOSSES)
def test_gradients_are_those_of_the_values(loss):
    logits, positives = random_case(2, 5, 5)
    ignore = torch.rand(logits.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, positives, ignore=ignore), (logits,))


@pytest.mark.parametrize('loss', PAIR_LOSSES)
def test_what_is_not_finite_is_refused_by_name(loss):
    logits, positives = random_case(0, 4, 4)
    for bad in (float('nan'), float('inf')):
        broken = logits.clone()
        broken[2, 1] = bad
        with pytest.raises(AlignmentError, match=r'\(4, 4\) is not finite in'):
            loss(broken, positives)


@pytest.mark.parametrize('loss', PAIR_LOSSES)
@pytest.mark.parametrize('shape', [(0, 0), (0, 3), (3, 0)])
def test_an_empty_batch_costs_nothing_and_has_a_gradient(loss, shape):
    logits = torch.zeros(shape, requires_grad=True)
    value = loss(logits, torch.zeros(shape, dtype=torch.bool))
    value.backward()
    assert value.item() == 0.0 and logits.grad.shape == shape


@pytest.mark.parametrize('loss', PAIR_LOSSES)
def test_a_row_of_nothing_but_ignored_pairs_leaves_no_nan(loss):
    logits = torch.zeros(2, 2, requires_grad=True)
    positives = torch.tensor([[True, False], [False, False]])
    ignore = torch.tensor([[False, False], [True, True]])
    value = loss(logits, positives, ignore=ignore)
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()
    assert (logits.grad[1] == 0).all() or loss is symmetric_info_nce


@pytest.mark.parametrize('loss', PAIR_LOSSES)
def test_half_precision_is_computed_in_float32(loss):
    logits, positives = random_case(3, 4, 4)
    half = logits.bfloat16()
    value = loss(half, positives)
    assert value.dtype == torch.float32
    assert torch.allclose(value, loss(half.float(), positives))


def test_sigmoid_loss_equals_the_definition():
    similarity, positives = random_case(4)
    scale = SigmoidScale().double()
    ignore = torch.rand(positives.shape, generator=torch.Generator().manual_seed(4)) < 0.3
    total = 0.0
    for i in range(len(similarity)):
        for j in range(similarity.shape[1]):
            if ignore[i, j] and not positives[i, j]:
                continue
            z = 1 if positives[i, j] else -1
            logit = 10 * float(similarity[i, j]) - 10
            total += math.log1p(math.exp(-z * logit)) if z * logit > -50 else -z * logit
    value = sigmoid_loss(scale.logits(similarity), positives, ignore)
    assert float(value) == pytest.approx(total / len(similarity), rel=1e-6)  # fp32 ln 10


def test_sigmoid_scale_begins_as_published_and_learns_both():
    scale = SigmoidScale()
    assert float(scale()) == pytest.approx(10.0) and float(scale.bias) == -10.0
    logits = scale.logits(torch.eye(3, dtype=torch.bfloat16))
    assert logits.dtype == torch.float32 and float(logits[0, 0]) == pytest.approx(0.0, abs=1e-5)
    sigmoid_loss(logits, torch.eye(3, dtype=torch.bool)).backward()
    assert scale.bias.grad < 0 and scale.log_scale.grad < 0  # positives are at even odds yet


def test_negative_hinge_counts_valid_negatives_and_pushes_them_away():
    positive = torch.tensor([0.5, 0.9], requires_grad=True)
    negatives = torch.tensor([[0.6, 0.9], [0.8, 0.1]], requires_grad=True)
    valid = torch.tensor([[True, False], [True, True]])
    value = negative_hinge(positive, negatives, valid, margin=0.2)
    assert float(value) == pytest.approx((0.3 + 0.1 + 0.0) / 3)
    value.backward()
    assert negatives.grad[0, 0] > 0 > positive.grad[0]
    assert negatives.grad[0, 1] == 0 and negatives.grad[1, 1] == 0
    assert float(negative_hinge(positive, negatives, torch.zeros_like(valid))) == 0.0
    with pytest.raises(ConfigError, match='one positive per row'):
        negative_hinge(positive[:1], negatives, valid)


def test_symmetric_form_is_the_mean_of_both_directions():
    logits, positives = random_case(1, 5, 5)
    both = multi_positive_info_nce(logits, positives), multi_positive_info_nce(
        logits.T, positives.T
    )
    assert torch.allclose(symmetric_info_nce(logits, positives), sum(both) / 2)


@pytest.mark.parametrize(
    'positives', [torch.ones(3, 3, dtype=torch.bool), torch.zeros(3, 3, dtype=torch.bool)]
)
def test_all_positive_or_none_stays_finite(positives):
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = multi_positive_info_nce(logits, positives) + hardest_triplet(logits, positives)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


def test_single_sample_is_no_error():
    one = torch.ones(1, 1)
    assert float(symmetric_info_nce(one, one.bool())) == pytest.approx(0.0)


def test_shapes_that_disagree_are_refused():
    for loss in PAIR_LOSSES:
        with pytest.raises(ConfigError, match='positives must be bool'):
            loss(torch.zeros(2, 3), torch.zeros(3, 2, dtype=torch.bool))
        with pytest.raises(ConfigError, match='positives must be bool'):
            loss(torch.zeros(2, 2), torch.eye(2))
        with pytest.raises(ConfigError, match='ignore must be bool'):
            loss(torch.zeros(2, 2), torch.eye(2).bool(), ignore=torch.zeros(2, dtype=torch.bool))
        with pytest.raises(ConfigError, match='one value per pair'):
            loss(torch.zeros(2), torch.ones(2, dtype=torch.bool))


def test_triplet_takes_the_hardest_valid_negative():
    similarity = torch.tensor([[0.9, 0.7, 0.8], [0.1, 0.5, 0.2], [0.0, 0.3, 0.6]])
    positives = torch.eye(3, dtype=torch.bool)
    expected = (max(0, 0.2 + 0.8 - 0.9) + max(0, 0.2 + 0.2 - 0.5) + max(0, 0.2 + 0.3 - 0.6)) / 3
    assert float(hardest_triplet(similarity, positives)) == pytest.approx(expected)
    ignore = torch.tensor([[0, 0, 1], [0, 0, 0], [0, 0, 0]], dtype=torch.bool)
    value = hardest_triplet(similarity, positives, ignore=ignore)
    assert float(value) == pytest.approx(0.0, abs=1e-6)  # 0.2 + 0.7 - 0.9


def test_triplet_pushes_negatives_away():
    similarity = torch.tensor([[0.5, 0.6]]).requires_grad_()
    hardest_triplet(similarity, torch.tensor([[True, False]])).backward()
    assert similarity.grad[0, 1] > 0 > similarity.grad[0, 0]


def test_logit_scale_stays_in_clips_range():
    scale = LogitScale()
    assert float(scale()) == pytest.approx(1 / 0.07)
    with torch.no_grad():
        scale.log_scale.fill_(99.0)
    scale.clamp_()
    assert float(scale.log_scale) == pytest.approx(MAX_LOG_SCALE)
    assert scale.log_scale.dtype == torch.float32
