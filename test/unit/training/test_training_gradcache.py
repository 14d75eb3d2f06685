"""GradCache against the whole batch with its graph, in float64, dropout included."""

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch
from torch import nn
import torch.nn.functional as F

from vla_alignment_ros.alignment.losses import LogitScale
from vla_alignment_ros.alignment.streaming import streaming_info_nce
from vla_alignment_ros.errors import AlignmentError
from vla_alignment_ros.training.gradcache import grad_cache_step


class Towers(nn.Module):
    """Two encoders with dropout, one of which also draws from a generator of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.vision = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 4))
        self.language = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 4))
        self.scale = LogitScale()
        self.double()
        self.generator = torch.Generator()
        self.calls = 0

    def encode(self, part):
        self.calls += 1
        noise = torch.randn(part['scene'].shape, generator=self.generator, dtype=torch.float64)
        return {
            'vision': F.normalize(self.vision(part['scene'] + 0.1 * noise), dim=-1),
            'language': F.normalize(self.language(part['sentence']), dim=-1),
            'group': part['group'],
        }

    def loss(self, embeddings):
        e = embeddings
        return streaming_info_nce(e['vision'], e['language'], self.scale(), e['group'])


def batch(count):
    generator = torch.Generator().manual_seed(1)
    scene, sentence = torch.randn(2, count, 6, generator=generator, dtype=torch.float64)
    return {'scene': scene, 'sentence': sentence, 'group': torch.arange(count) % 5}


def split(whole, sizes):
    parts = zip(*(tensor.split(sizes) for tensor in whole.values()))
    return [dict(zip(whole, part)) for part in parts]


def seed_all(model):
    torch.manual_seed(7)
    model.generator.manual_seed(8)


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()}


def whole_batch(parts):
    """The same forward pass with its graph: what has to come out."""
    model = Towers()
    seed_all(model)
    encoded = [model.encode(part) for part in parts]
    value = model.loss({k: torch.cat([e[k] for e in encoded]) for k in encoded[0]})
    value.backward()
    following = torch.rand(1), torch.rand(1, generator=model.generator)
    return value.detach(), gradients(model), *following


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_gradients_are_those_of_the_whole_batch_with_dropout_and_temperature(sizes):
    parts = split(batch(sum(sizes)), sizes)
    value, expected, following, own_following = whole_batch(parts)
    model = Towers()
    seed_all(model)
    ours = grad_cache_step(model.encode, model.loss, parts, generators=[model.generator])
    assert torch.allclose(ours, value, atol=1e-12) and not ours.requires_grad
    for name, gradient in gradients(model).items():
        assert torch.allclose(gradient, expected[name], atol=1e-12), name
    # and the random numbers go on as after one ordinary pass
    assert torch.equal(torch.rand(1), following)
    assert torch.equal(torch.rand(1, generator=model.generator), own_following)
    assert model.calls == 2 * len(parts)


def test_gradients_are_added_to_those_already_there():
    parts = split(batch(6), [3, 3])
    _, once, *_ = whole_batch(parts)
    model = Towers()
    for _ in range(2):
        seed_all(model)
        grad_cache_step(model.encode, model.loss, parts, generators=[model.generator])
    for name, gradient in gradients(model).items():
        assert torch.allclose(gradient, 2 * once[name], atol=1e-12)


def test_only_one_part_has_a_graph_at_a_time():
    """The peak of what the graph saves does not grow with the number of parts."""

    def most_saved(count):
        live, most = set(), 0

        class Token:
            def __init__(self, tensor):
                nonlocal most
                self.tensor = tensor
                live.add(id(self))
                most = max(most, len(live))

            def __del__(self):
                live.discard(id(self))

        model = Towers()
        parts = split(batch(4 * count), [4] * count)

        def plain_loss(embeddings):  # counts nothing of its own
            return (embeddings['vision'] * embeddings['language']).sum()

        with torch.autograd.graph.saved_tensors_hooks(Token, lambda token: token.tensor):
            grad_cache_step(model.encode, plain_loss, parts, generators=[model.generator])
        return most

    assert most_saved(8) == most_saved(2) > 0


def test_the_callers_backward_is_used():
    model, seen = Towers(), []

    def backward(value):
        seen.append(float(value.detach()))
        (3 * value).backward()

    parts = split(batch(4), [2, 2])
    seed_all(model)
    grad_cache_step(model.encode, model.loss, parts, [model.generator], backward)
    assert len(seen) == 3
    _, expected, *_ = whole_batch(parts)
    scale = model.scale.log_scale.grad
    assert torch.allclose(scale, 3 * expected['scale.log_scale'], atol=1e-12)


def test_a_frozen_encoder_is_no_error():
    model = Towers()
    for parameter in model.vision.parameters():
        parameter.requires_grad_(False)
    grad_cache_step(model.encode, model.loss, split(batch(4), [2, 2]))
    assert model.vision[0].weight.grad is None and model.language[0].weight.grad is not None


def test_misuse_is_refused():
    model = Towers()
    with pytest.raises(AlignmentError, match='at least one part'):
        grad_cache_step(model.encode, model.loss, [])
    names = iter([{'a': torch.ones(1)}, {'b': torch.ones(1)}])
    with pytest.raises(AlignmentError, match='the same embeddings, got'):
        grad_cache_step(lambda _: next(names), model.loss, [1, 2])
    weight = torch.ones(1, requires_grad=True)
    sizes = iter([2, 3])
    with pytest.raises(AlignmentError, match='encode must do the same both times'):
        grad_cache_step(lambda _: {'a': weight * torch.ones(next(sizes))}, lambda e: e['a'].sum(),
                        [1])  # fmt: skip
