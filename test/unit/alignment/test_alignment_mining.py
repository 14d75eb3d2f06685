"""Hard negatives from earlier batches: when they count, which ones, and what they do."""

import dataclasses

from alignment_inputs import make_inputs, make_towers, plain_inputs, rows, WIDTH, with_features
from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
from test_alignment_align import Names, Pictures, retrieved
import torch
import torch.nn.functional as F

from vla_alignment_ros.alignment.mining import NegativeMining
from vla_alignment_ros.alignment.registry import make_alignment, STRATEGIES
from vla_alignment_ros.errors import ConfigError

MARGIN, NAMES = 0.4, 4


@pytest.fixture
def inputs():
    plain = make_inputs(make_towers())
    vectors = torch.randn(2, 6, WIDTH, generator=torch.Generator().manual_seed(0))
    return dataclasses.replace(
        plain, fused=vectors[0], fused_swapped=vectors[1],
        swapped_from=torch.tensor([1, 2, 3, 4, 5, 0]),
    )  # fmt: skip


def made(name, **changes):
    torch.manual_seed(1)
    alignment = make_alignment(name, WIDTH, {name.split('+')[-1]: {'embed': 8}})
    alignment.bind(*make_towers())
    given_ = {'weight': 0.5, 'start_step': 2, 'negatives': 2, 'margin': 2.0, 'bank': 16}
    alignment.mine(names=1, **{**given_, **changes})
    return alignment


def hinge(alignment, inputs):
    return alignment(inputs).losses['mining_hinge']


@pytest.mark.parametrize('name', [*sorted(STRATEGIES), 'vla+grounded'])
def test_any_strategy_gets_hard_negatives_after_the_warm_up(name, inputs):
    alignment = made(name)
    for step in range(4):
        alignment.zero_grad()
        loss = hinge(alignment, with_features(inputs))  # new features: they keep what was read
        loss.backward()
        gradient = sum(float(p.grad.abs().sum()) for p in alignment.parameters()
                       if p.grad is not None)  # fmt: skip
        # with a margin of 2 no negative is far enough to cost nothing
        assert (float(loss.detach()) > 0) is (gradient > 0) is (step >= 2)
        alignment.after_step()


@pytest.mark.parametrize('name', ['clip', 'vla+grounded'])
def test_a_run_goes_on_from_its_state_and_a_checkpoint_has_none_of_it(name, inputs):
    alignment = made(name)
    for _ in range(2):
        alignment(inputs)
        alignment.after_step()
    again = made(name)
    again.load_state_dict(alignment.state_dict())
    assert torch.equal(hinge(again, inputs), hinge(alignment, inputs)) and hinge(again, inputs) > 0
    kept = {n: v for n, v in alignment.state_dict().items()
            if not n.startswith(alignment.training_only)}  # fmt: skip
    fresh = make_alignment(name, WIDTH, {name.split('+')[-1]: {'embed': 8}})
    fresh.load_state_dict(kept)  # never bound, never mines: as at run time
    assert 'mining_hinge' not in fresh(inputs).losses


def test_late_rows_are_neither_mined_nor_kept_and_validation_keeps_nothing(inputs):
    alignment = made('clip', start_step=0)
    alignment.eval()(inputs)
    alignment.after_step()
    assert len(alignment.mining.bank) == 0
    alignment.train()(inputs)
    alignment.after_step()
    early = inputs.approach
    assert 0 < len(alignment.mining.bank) == int(early.sum()) < len(early)
    late = dataclasses.replace(inputs, approach=torch.zeros_like(early))
    assert float(hinge(alignment, late).detach()) == 0


# -- which pairs, on embeddings alone -------------------------------------------------------------


def pair(referent, group, named=-1, holds=()):
    """What is told about one approach."""
    plain = rows(make_inputs(make_towers()), torch.tensor([0]))
    known = torch.zeros(1, NAMES, dtype=torch.bool)
    known[0, list(holds)] = True
    return dataclasses.replace(
        plain, referent=torch.tensor([referent]), group=torch.tensor([group]),
        named=torch.tensor([named]), holds=known,
    )  # fmt: skip


def unit(*values):
    return F.normalize(torch.tensor([values], dtype=torch.float64), dim=-1)


QUERY = pair(referent=1, group=1, named=1, holds=[1, 2])
SCENE, SENTENCE = unit(1.0, 0.0, 0.0), unit(0.0, 1.0, 0.0)  # of the query: a poor match, cosine 0


def against(old):
    """Hinge of the query against one earlier pair whose embeddings are the query's own, turned."""
    mining = NegativeMining(3, NAMES, weight=1.0, start_step=0, negatives=3, margin=MARGIN, bank=4)
    mining({'vision': SENTENCE, 'language': SCENE}, old)  # its sentence looks like our scene
    mining.after_step()
    return float(mining({'vision': SCENE, 'language': SENTENCE}, QUERY).losses['hinge'])


NEAR = 1.0 + MARGIN  # margin + cosine of the negative − cosine of the match


@pytest.mark.parametrize(
    ('old', 'expected', 'why'),
    [
        (pair(2, 2, named=3, holds=[3]), NEAR, 'it is about something else'),
        (pair(2, 2), NEAR, 'nothing is known about it'),
        (pair(1, 2, named=1), 0.0, 'it names the same thing'),
        (pair(2, 1, named=3), 0.0, 'it means the same'),
        (pair(2, 2, named=2, holds=[2]), NEAR / 2, 'our scene holds what it names'),
        (pair(2, 2, named=3, holds=[1, 3]), NEAR / 2, 'its scene holds what we name'),
        (pair(2, 2, named=2, holds=[1, 2]), 0.0, 'each scene holds what the other names'),
    ],
)
def test_what_is_known_to_fit_is_no_negative(old, expected, why):
    assert against(old) == pytest.approx(expected), why


@given(seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_the_gradient_pushes_near_negatives_away_from_their_match(seed):
    generator = torch.Generator().manual_seed(seed)
    old, vision, language = F.normalize(
        torch.randn(3, 1, 6, generator=generator, dtype=torch.float64), dim=-1
    )
    # a scene near the old sentence, a sentence near the old scene
    vision, language = F.normalize(old + 0.3 * vision, dim=-1), F.normalize(language, dim=-1)
    vision.requires_grad_()
    mining = NegativeMining(6, NAMES, weight=1.0, start_step=1, negatives=2, margin=MARGIN, bank=4)
    embedded = {'vision': vision, 'language': language}
    before = mining(embedded, QUERY).losses['hinge']
    assert before == 0
    mining._seen.clear()
    mining({'vision': -old, 'language': old}, pair(2, 2))
    mining.after_step()
    loss = mining(embedded, QUERY).losses['hinge']
    with torch.no_grad():
        negative, match = (vision * old).sum(), (vision * language).sum()
        cost = (MARGIN + negative - match).clamp_min(0) / 2
        cost = cost + (MARGIN - (language * old).sum() - match).clamp_min(0) / 2
    assert float(loss.detach()) == pytest.approx(float(cost), abs=1e-6)
    if MARGIN + negative - match > 1e-6:
        assert loss > 0
        loss.backward()
        with torch.no_grad():
            moved = F.normalize(vision - 0.01 * vision.grad, dim=-1)
            assert (moved * (old - language)).sum() < (vision * (old - language)).sum()


def small_batches(weight):
    """Retrieval among 48 sentences after training with batches of 4."""
    torch.manual_seed(0)
    count = 48
    prototype = torch.randn(count, 1, 8, 3)
    towers = Pictures(24, 32), Names(count)
    alignment = make_alignment('clip', WIDTH, {'clip': {'embed': 16}})
    if weight:
        alignment.mine(names=1, weight=weight, start_step=50, bank=256)
    trained = [p for m in (*towers, alignment) for p in m.parameters()]
    optimizer = torch.optim.Adam(trained, lr=3e-3)
    for _ in range(200):
        label = torch.randint(count, (4,))
        images = prototype[label] + 0.3 * torch.randn(4, 1, 8, 3)
        seen, said = towers[0]({'front': images}), towers[1](label.unsqueeze(1) + 1)
        told = plain_inputs(seen.tokens, said.tokens, label)
        losses = alignment(dataclasses.replace(told, fused=torch.zeros(4, WIDTH),
                                               action=torch.zeros(4, WIDTH))).losses  # fmt: skip
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        alignment.after_step()
    label = torch.randint(count, (400,))
    images = prototype[label] + 0.3 * torch.randn(400, 1, 8, 3)
    return retrieved(alignment, towers, images, label, count)


def test_hard_negatives_make_up_for_small_batches():
    assert small_batches(weight=3.0) > small_batches(weight=0.0) + 0.1


@pytest.mark.parametrize('change', [{'weight': 0.0}, {'weight': -1.0}, {'negatives': 0},
                                    {'start_step': -1}, {'bank': 0}])  # fmt: skip
def test_settings_without_a_meaning_are_refused(change):
    with pytest.raises(ConfigError):
        made('clip', **change)
