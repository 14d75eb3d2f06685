"""Hierarchical alignment: every level against its definition, phrases that bind, memory."""

from alignment_inputs import make_inputs, make_towers, plain_inputs, total_loss, WIDTH
import pytest
import torch
import torch.nn.functional as F

from vla_alignment_ros.alignment.dual_encoder import REGION_SHARPNESS
from vla_alignment_ros.alignment.hierarchical import HierarchicalAlignment
from vla_alignment_ros.alignment.late_interaction import late_interaction, Level
from vla_alignment_ros.alignment.losses import symmetric_info_nce
from vla_alignment_ros.errors import ConfigError


def soft_best(cosines):
    weight = (REGION_SHARPNESS * cosines).softmax(0)
    return (weight * cosines).sum()


def reference(model, vision, language):
    """Level -> (B, M), one scene, one sentence and one query at a time."""
    found = {name: torch.zeros(len(vision.pooled), len(language.pooled)) for name in model.weights}
    found = {name: value.double() for name, value in found.items()}

    def unit(x):
        return F.normalize(x, dim=-1)

    for m, mask in enumerate(language.mask):
        words = language.tokens[m][mask]  # the real ones alone
        belongs = (words @ model.slots.T / WIDTH**0.5).softmax(-1)  # (words, P)
        for b, tokens in enumerate(vision.tokens):
            pooled = unit(model.vision['global'](vision.pooled[b]))
            found['global'][b, m] = pooled @ unit(model.language['global'](language.pooled[m]))
            regions = unit(model.vision['local'](tokens))
            best = [soft_best(regions @ unit(model.language['local'](word))) for word in words]
            found['local'][b, m] = sum(best) / len(words)
            regions = unit(model.vision['semantic'](tokens))
            for share in belongs.T:
                phrase = (share @ words) / share.sum()
                score = soft_best(regions @ unit(model.language['semantic'](phrase)))
                found['semantic'][b, m] += share.sum() / len(words) * score
    return found


@torch.no_grad()
def test_every_level_and_the_loss_equal_their_definition():
    torch.manual_seed(0)
    model = HierarchicalAlignment(WIDTH, embed=8, chunk=2).double()
    inputs = make_inputs(make_towers(), dtype=torch.float64)
    expected = reference(model, inputs.vision, inputs.language)
    levels = model.level_similarities(inputs.vision, inputs.language)
    for name, value in expected.items():
        assert torch.allclose(levels[name], value, atol=1e-9), name
    weights = {'global': 0.5, 'local': 0.25, 'semantic': 0.25}
    combined = sum(weights[name] * value for name, value in expected.items())
    assert torch.allclose(model.similarity(inputs.vision, inputs.language), combined, atol=1e-9)

    losses, early = model(inputs).losses, inputs.approach
    for name, value in expected.items():
        scaled = model.scales[name].log_scale.exp() * value
        late = symmetric_info_nce(scaled, inputs.present)
        first = symmetric_info_nce(scaled[early][:, early], inputs.present[early][:, early])
        assert torch.allclose(losses[f'{name}_vl'], weights[name] * first, atol=1e-9)
        assert torch.allclose(losses[f'{name}_vl_late'], weights[name] * 0.3 * late, atol=1e-9)


class Things:
    """Scenes of two things, each a colour and a shape; words that do not know their neighbours."""

    def __init__(self):
        self.colours, self.shapes = torch.randn(4, WIDTH), torch.randn(4, WIDTH)
        self.colour_words, self.shape_words = torch.randn(4, WIDTH), torch.randn(4, WIDTH)

    def scene(self, things):
        """[(colour, shape), …] index tensors (B,) → (B, N, D), table cells included."""
        cells = [self.colours[c] + self.shapes[s] for c, s in things]
        cells += [torch.zeros_like(cells[0])] * 2
        cells = torch.stack(cells, dim=1)
        return cells + 0.3 * torch.randn_like(cells)

    def sentence(self, colour, shape):
        return torch.stack([self.colour_words[colour], self.shape_words[shape]], dim=1)

    def draw(self, batch):
        """Two things of different colour and shape per scene."""
        order = torch.stack([torch.randperm(4) for _ in range(batch)])
        other = torch.stack([torch.randperm(4) for _ in range(batch)])
        return [(order[:, 0], other[:, 0]), (order[:, 1], other[:, 1])]


def binding(weights):
    """Share of scenes preferred to the one where the two things have swapped their colours."""
    torch.manual_seed(0)
    things = Things()
    model = HierarchicalAlignment(WIDTH, embed=16, **weights)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        first, second = things.draw(32)
        named = first[0] * 4 + first[1]
        also = second[0] * 4 + second[1]
        present = (named == named.unsqueeze(1)) | (also.unsqueeze(1) == named)  # (scene, sentence)
        scene = things.scene([first, second])
        inputs = plain_inputs(scene, things.sentence(*first), named, present)
        loss = total_loss(model, inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_step()
    (c, s), (d, t) = things.draw(200)
    right = things.scene([(c, s), (d, t)])
    swapped = things.scene([(d, s), (c, t)])
    said = plain_inputs(right, things.sentence(c, s), c)
    other = plain_inputs(swapped, things.sentence(c, s), c)
    better = model.vision_language(said.vision, said.language) > model.vision_language(
        other.vision, other.language
    )
    return float(better.float().mean())


def test_phrases_bind_colour_to_shape_and_words_alone_cannot():
    words = binding({'global_weight': 0.0, 'local_weight': 1.0, 'semantic_weight': 0.0})
    phrases = binding({'global_weight': 0.0, 'local_weight': 0.0, 'semantic_weight': 1.0})
    assert 0.35 < words < 0.65
    assert phrases > 0.9


def test_words_are_shared_out_over_phrases_and_pads_over_none():
    torch.manual_seed(0)
    model = HierarchicalAlignment(WIDTH)
    language = make_inputs(make_towers()).language
    shares = model.segment(language).sum(-1)
    assert torch.allclose(shares, language.mask.float(), atol=1e-6)


@pytest.mark.parametrize('chunk', [1, 3, 100])
def test_chunks_change_nothing(chunk):
    torch.manual_seed(0)
    level = Level(torch.randn(3, 4, 8), torch.randn(5, 2, 8), torch.rand(5, 2))
    assert torch.allclose(late_interaction(level, chunk), late_interaction(level, 5), atol=1e-6)


def test_training_does_not_keep_all_words_times_all_regions():
    """What autograd holds must not grow with sentences × scenes × words × regions."""
    b, m, q, r, e = 8, 32, 6, 20, 4
    level = Level(
        torch.randn(b, r, e, requires_grad=True),
        torch.randn(m, q, e, requires_grad=True),
        torch.full((m, q), 1 / q),
    )
    held = []

    def keep(tensor):
        held.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = late_interaction(level, chunk=4)
    assert found.requires_grad
    assert sum(held) < b * m * q * r / 4


@pytest.mark.parametrize(
    'settings',
    [
        {'local_weight': -1.0},
        {'global_weight': 0.0, 'local_weight': 0.0, 'semantic_weight': 0.0},
        {'phrases': 0},
        {'chunk': 0},
    ],
)
def test_settings_without_a_meaning_are_refused(settings):
    with pytest.raises(ConfigError, match='at least'):
        HierarchicalAlignment(WIDTH, **settings)


@pytest.mark.parametrize('level', ['global', 'local', 'semantic'])
def test_a_single_level_scores_and_trains(level):
    torch.manual_seed(0)
    weights = {f'{name}_weight': float(name == level) for name in ('global', 'local', 'semantic')}
    model = HierarchicalAlignment(WIDTH, embed=8, **weights)
    inputs = make_inputs(make_towers())
    assert torch.isfinite(model.sentence_regions(inputs.vision, inputs.language)).all()
    assert torch.isfinite(model.word_regions(inputs.vision, inputs.language)).all()
    total_loss(model, inputs).backward()
    assert all(p.grad is not None for p in model.parameters())
