"""ALIGN with momentum: the copies, the queue, the soft targets, and what each of them is for."""

import dataclasses

from alignment_inputs import make_inputs, make_towers, plain_inputs, total_loss, WIDTH
import pytest
import torch
from torch import nn
import torch.nn.functional as F

from vla_alignment_ros.alignment.align import MomentumAlignment
from vla_alignment_ros.alignment.momentum import MomentumCopies
from vla_alignment_ros.encoders.language import LanguageFeatures
from vla_alignment_ros.encoders.vision import VisionFeatures
from vla_alignment_ros.errors import ConfigError


@pytest.fixture
def towers():
    return make_towers()


def bound(towers, **settings):
    torch.manual_seed(1)
    align = MomentumAlignment(WIDTH, embed=8, **settings)
    align.bind(*towers)
    return align


# -- momentum -------------------------------------------------------------------------------------


def test_copies_follow_weights_heads_and_running_statistics_exactly(towers):
    align = bound(towers, momentum=0.9)
    before = {k: v.clone() for k, v in align.slow.copies.state_dict().items()}
    inputs = make_inputs(towers)
    towers[0].train()(inputs.images)  # moves running statistics and the BatchNorm's counter
    with torch.no_grad():
        for module in (*towers, align.vision, align.language):
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter))
    align.after_step()
    originals = nn.ModuleDict(
        {
            'vision': towers[0],
            'language': towers[1],
            'vision_head': align.vision,
            'language_head': align.language,
        }
    ).state_dict()
    assert before.keys() == originals.keys()
    assert any('running_mean' in name for name in before)
    for name, value in align.slow.copies.state_dict().items():
        if value.is_floating_point():
            expected = 0.9 * before[name] + 0.1 * originals[name]
            assert torch.allclose(value, expected, rtol=1e-5, atol=1e-6), name
            assert not torch.equal(value, before[name]), name
        else:
            assert torch.equal(value, originals[name]), name


def test_a_pass_through_the_copies_moves_no_statistics_and_learns_nothing(towers):
    align = bound(towers).train()
    before = {k: v.clone() for k, v in align.slow.state_dict().items()}
    total_loss(align, make_inputs(towers)).backward()
    for name, value in align.slow.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in align.slow.parameters())
    assert not any(m.training for m in align.slow.modules())


def test_the_towers_stay_those_of_the_model(towers):
    """Bound towers are neither trained twice nor saved twice: they are no part of the strategy."""
    names = [name for name, _ in bound(towers).named_parameters()]
    assert {name.split('.')[0] for name in names} == {'vision', 'language', 'scale', 'slow'}


def test_copies_move_in_place(towers):
    copies = MomentumCopies({'tower': towers[1]}, rate=0.5)
    places = [p.data_ptr() for p in copies.parameters()]
    copies.follow({'tower': towers[1]})
    assert places == [p.data_ptr() for p in copies.parameters()]


# -- queue and soft targets -----------------------------------------------------------------------


@torch.no_grad()
def test_the_loss_equals_its_definition_with_a_queue_and_soft_targets(towers):
    align = bound(towers, momentum=0.5, queue=16, soft=0.4, ramp_steps=2).double()
    inputs = make_inputs(towers, batch=5, sentences=3, dtype=torch.float64)
    towers = tuple(tower.double() for tower in towers)
    align.bind(*towers)
    align = align.double()
    align(make_inputs(towers, batch=5, seed=2, dtype=torch.float64))
    align.after_step()  # 5 of 16 rows filled; α is half ramped up
    losses = align.eval()(inputs).losses

    slow = align.slow.copies
    scale = align.scale.log_scale.exp()

    def unit(x):
        return F.normalize(x, dim=-1)

    v = unit(align.vision(inputs.vision.pooled))
    l = unit(align.language(inputs.language.pooled))  # noqa: E741
    slow_v = unit(slow['vision_head'](slow['vision'](inputs.images).pooled))
    slow_l = unit(slow['language_head'](slow['language'](inputs.language.ids).pooled))
    old_v, old_l = align.queue.rows_vision[:5], align.queue.rows_language[:5]
    old_id = align.queue.row_ids[:5]

    def side(anchors, slow_anchors, keys, positives):
        cost = 0.0
        for anchor, slow_anchor, right in zip(anchors, slow_anchors, positives):
            log_p = torch.log_softmax(scale * keys @ anchor, dim=0)
            hard = right / right.sum()
            soft = torch.softmax(scale * keys @ slow_anchor, dim=0)
            labelled = (torch.xlogy(hard, hard) - hard * log_p).sum()
            thought = (torch.xlogy(soft, soft) - soft * log_p).sum()
            cost = cost + 0.8 * labelled + 0.2 * thought
        return cost / len(anchors)

    parts = (('vl', 1.0, inputs.approach.nonzero()[:, 0]), ('vl_late', 0.3, torch.arange(5)))
    for name, weight, index in parts:
        present = inputs.present[index][:, index]
        named = torch.stack([inputs.referent[i] == old_id for i in index])
        # a scene fits an old sentence if one of this batch that names the same fits it
        fits = [
            [any(inputs.present[i] & (inputs.referent == old)) for old in old_id] for i in index
        ]
        expected = side(
            v[index], slow_v[index], torch.cat([slow_l[index], old_l]),
            torch.cat([present, torch.tensor(fits)], dim=1).double(),
        )  # fmt: skip
        expected = expected + side(
            l[index], slow_l[index], torch.cat([slow_v[index], old_v]),
            torch.cat([present.T, named], dim=1).double(),
        )  # fmt: skip
        assert torch.allclose(losses[name], weight * expected / 2, atol=1e-6), name


def test_rows_of_the_queue_that_were_never_filled_do_not_count(towers):
    inputs = make_inputs(towers)
    small, large = bound(towers, queue=6), bound(towers, queue=600)
    for align in (small, large):
        align(inputs)
        align.after_step()
        align.eval()
    assert torch.allclose(small(inputs).losses['vl'], large(inputs).losses['vl'])
    # and the filled ones do
    assert not torch.allclose(
        small(inputs).losses['vl'], bound(towers, queue=0).eval()(inputs).losses['vl']
    )


def test_validation_does_not_fill_the_queue(towers):
    align = bound(towers).eval()
    align(make_inputs(towers))
    align.after_step()
    assert len(align.queue) == 0


def test_training_without_towers_says_what_to_do(towers):
    with pytest.raises(ConfigError, match='bind'):
        MomentumAlignment(WIDTH)(make_inputs(towers))


@pytest.mark.parametrize(
    'settings', [{'momentum': 1.0}, {'soft': 1.0}, {'queue': -1}, {'ramp_steps': 0}]
)
def test_settings_without_a_meaning_are_refused(settings):
    with pytest.raises(ConfigError):
        MomentumAlignment(WIDTH, **settings)


# -- what they are for ----------------------------------------------------------------------------


class Pictures(nn.Module):
    """A vision tower over flat images, for experiments of seconds."""

    def __init__(self, pixels, hidden):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, WIDTH)
        )

    def forward(self, images):
        tokens = self.layers(images['front'].flatten(1)).unsqueeze(1)  # (B, 1, D)
        return VisionFeatures(tokens, tokens[:, 0], torch.zeros(1, 2), ())


class Names(nn.Module):
    """A language tower over sentences of one word."""

    def __init__(self, count):
        super().__init__()
        self.words = nn.Embedding(count + 1, WIDTH)

    def forward(self, ids):
        tokens = self.words(ids)  # (B, 1, D)
        return LanguageFeatures(tokens, tokens, ids, ids != 0, tokens[:, 0])


def train(align, towers, optimizer, images, label):
    """One step on images (B, 1, n, 3) that are said to show `label` (B,)."""
    pictures, names = towers
    ids = label.unsqueeze(1) + 1
    seen, said = pictures({'front': images}), names(ids)
    inputs = plain_inputs(seen.tokens, said.tokens, label)
    inputs = dataclasses.replace(inputs, language=said, images={'front': images})
    loss = total_loss(align, inputs)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    align.after_step()


@torch.no_grad()
def retrieved(align, towers, images, label, count):
    """Share of images whose best sentence of `count` is their own."""
    seen = towers[0]({'front': images})
    said = towers[1](torch.arange(1, count + 1).unsqueeze(1))
    return float((align.similarity(seen, said).argmax(1) == label).float().mean())


def small_batches(queue, seed):
    """Retrieval among 48 sentences after training with batches of 4."""
    torch.manual_seed(seed)
    count = 48
    prototype = torch.randn(count, 1, 8, 3)
    towers = Pictures(24, 32), Names(count)
    align = MomentumAlignment(WIDTH, embed=16, momentum=0.9, queue=queue, soft=0.0)
    align.bind(*towers)
    trained = [p for m in (*towers, align) for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=3e-3)
    for _ in range(200):
        label = torch.randint(count, (4,))
        train(align, towers, optimizer, prototype[label] + 0.5 * torch.randn(4, 1, 8, 3), label)
    label = torch.randint(count, (400,))
    images = prototype[label] + 0.5 * torch.randn(400, 1, 8, 3)
    return retrieved(align, towers, images, label, count)


def test_a_queue_makes_up_for_small_batches():
    assert small_batches(queue=128, seed=0) > small_batches(queue=0, seed=0) + 0.1


def wrong_labels(soft, seed):
    """Retrieval among 8 sentences after training on 192 pictures, 30 % with a wrong sentence."""
    torch.manual_seed(seed)
    count, samples = 8, 192
    prototype = torch.randn(count, 1, 8, 3)
    towers = Pictures(24, 128), Names(count)
    align = MomentumAlignment(WIDTH, embed=16, momentum=0.97, queue=0, soft=soft, ramp_steps=50)
    align.bind(*towers)
    trained = [p for m in (*towers, align) for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=3e-3)
    truth = torch.arange(samples) % count
    images = prototype[truth] + 1.0 * torch.randn(samples, 1, 8, 3)
    wrong = torch.rand(samples) < 0.3
    label = torch.where(wrong, (truth + torch.randint(1, count, (samples,))) % count, truth)
    for _ in range(150):
        chosen = torch.randint(samples, (48,))
        train(align, towers, optimizer, images[chosen], label[chosen])
    truth = torch.randint(count, (800,))
    return retrieved(
        align, towers, prototype[truth] + 1.0 * torch.randn(800, 1, 8, 3), truth, count
    )


def test_soft_targets_help_where_three_in_ten_labels_are_wrong():
    hard = sum(wrong_labels(soft=0.0, seed=seed) for seed in range(2)) / 2
    softened = sum(wrong_labels(soft=0.4, seed=seed) for seed in range(2)) / 2
    assert softened > hard + 0.03
