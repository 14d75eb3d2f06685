"""Contrastive losses against plain float64 references, their gradients, and odd inputs."""

import math

import pytest
import torch

from vla_alignment_ros.alignment.losses import (
    hardest_triplet,
    LogitScale,
    MAX_LOG_SCALE,
    multi_positive_info_nce,
    same_group,
    symmetric_info_nce,
)
from vla_alignment_ros.errors import ConfigError


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
        rows.append(
            -sum(math.log(math.exp(float(logits[i, j])) / total) for j in chosen) / len(chosen)
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
    assert float(value) == pytest.approx(reference_info_nce(logits, positives), abs=1e-5)


@pytest.mark.parametrize('seed', range(5))
def test_ignored_pairs_are_neither_positive_nor_negative(seed):
    logits, positives = random_case(seed)
    ignore = torch.rand(logits.shape, generator=torch.Generator().manual_seed(seed)) < 0.3
    value = multi_positive_info_nce(logits, positives, ignore)
    expected = reference_info_nce(logits, positives, ignore)
    assert float(value) == pytest.approx(expected, abs=1e-5)
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


def test_repeated_instructions_cost_nothing_when_perfectly_aligned():
    """Diagonal InfoNCE would cost ln(B / K) here; the multi-positive form reaches its floor."""
    group = torch.tensor([0, 0, 0, 1, 1, 1])
    positives = same_group(group, group)
    logits = torch.where(positives, 100.0, -100.0)
    assert float(multi_positive_info_nce(logits, positives)) == pytest.approx(math.log(3))


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
    with pytest.raises(ConfigError, match='positives'):
        multi_positive_info_nce(torch.zeros(2, 3), torch.zeros(3, 2, dtype=torch.bool))


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
