"""SigLIP: the loss against its definition, and what judging every pair on its own buys."""

import math

from alignment_inputs import (
    make_inputs,
    make_towers,
    repeated_instructions,
    rows,
    train,
    WIDTH,
)
import pytest
import torch
import torch.nn.functional as F

from vla_alignment_ros.alignment.siglip import SiglipAlignment


def reference(logits, positives):
    """Pair by pair, divided by the number of rows."""
    cost = 0.0
    for row, right in zip(logits.tolist(), positives.tolist()):
        for logit, positive in zip(row, right):
            z = 1 if positive else -1
            cost += math.log(1 + math.exp(-z * logit))
    return cost / len(logits)


def test_the_loss_is_a_logistic_regression_on_every_pair():
    torch.manual_seed(0)
    siglip = SiglipAlignment(WIDTH, embed=8, weight=0.5).double()
    inputs = make_inputs(make_towers(), dtype=torch.float64)
    losses = siglip(inputs).losses

    v = F.normalize(siglip.vision(inputs.vision.pooled), dim=-1)
    l = F.normalize(siglip.language(inputs.language.pooled), dim=-1)  # noqa: E741
    logits = (10.0 * v @ l.T - 10.0).detach()
    early = inputs.approach
    expected = {
        'vl': 0.5 * reference(logits[early][:, early], inputs.present[early][:, early]),
        'vl_late': 0.5 * 0.3 * reference(logits, inputs.present),
    }
    for name, value in expected.items():
        assert float(losses[name].detach()) == pytest.approx(value, rel=1e-6)


def test_a_pair_costs_the_same_in_any_batch():
    """Softmax losses change with every other column; here each pair's cost just adds."""
    torch.manual_seed(0)
    siglip = SiglipAlignment(WIDTH, embed=8)
    inputs = make_inputs(make_towers(), batch=4, sentences=2)
    two = ([0, 1], [2, 3], [0, 2], [1, 3], [0, 3], [1, 2])
    pairs = [rows(inputs, torch.tensor(index)) for index in two]
    singles = [rows(inputs, torch.tensor([i])) for i in range(4)]
    # sums over pairs: every off-diagonal pair once, every diagonal one three times
    sums = 2 * sum(siglip(p).losses['vl_late'] for p in pairs)
    diagonal = sum(siglip(s).losses['vl_late'] for s in singles)
    whole = 4 * siglip(inputs).losses['vl_late']
    assert torch.allclose(whole, sums - 2 * diagonal, rtol=1e-5)


def test_a_trained_logit_says_match_or_not_without_other_sentences_to_compare():
    torch.manual_seed(0)
    batch = repeated_instructions()
    siglip = SiglipAlignment(WIDTH, embed=8)
    train(siglip, batch, steps=100, rate=2e-2)
    held_out = batch()
    similarity = siglip.similarity(held_out.vision, held_out.language)
    yes = siglip.scale.logits(similarity) > 0
    assert (yes == held_out.present).float().mean() > 0.97
