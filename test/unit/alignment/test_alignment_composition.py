"""Strategies put together: whose scores count, whose losses, and what a checkpoint leaves out."""

import dataclasses

from alignment_inputs import make_inputs, make_towers, WIDTH
import pytest
import torch

from vla_alignment_ros.alignment.registry import make_alignment
from vla_alignment_ros.errors import ConfigError


@pytest.fixture
def inputs():
    plain = make_inputs(make_towers())
    generator = torch.Generator().manual_seed(0)
    return dataclasses.replace(
        plain,
        fused=torch.randn(6, WIDTH, generator=generator),
        fused_swapped=torch.randn(6, WIDTH, generator=generator),
        swapped_from=torch.tensor([1, 2, 3, 4, 5, 0]),
    )


def make(name, **settings):
    torch.manual_seed(0)
    return make_alignment(name, WIDTH, settings)


def test_the_last_part_gives_the_scores(inputs):
    both = make('vla+grounded')
    grounded = both.parts['grounded']
    v, l = inputs.vision, inputs.language  # noqa: E741
    assert torch.equal(both.vision_language(v, l), grounded.vision_language(v, l))
    assert torch.equal(both.sentence_regions(v, l), grounded.sentence_regions(v, l))
    assert torch.equal(both.referring(l), grounded.referring(l))
    turned = make('grounded+vla')
    assert torch.equal(turned.similarity(v, l), turned.parts['vla'].similarity(v, l))
    assert not turned.referring(l).any()


def test_every_part_and_the_verifier_teach(inputs):
    losses = make('vla+grounded')(inputs).losses
    assert {'vla_vl', 'vla_triplet_la', 'grounded_scene', 'verifier_vla'} <= set(losses)
    assert 'vla_vl' not in make('vla+grounded', vla={'vl_weight': 0.0})(inputs).losses


def test_training_only_state_is_named_from_the_composition():
    alignment = make('clip+align')
    inside = alignment.parts['align'].training_only
    assert inside and alignment.training_only == tuple(f'parts.align.{p}' for p in inside)


@pytest.mark.parametrize(
    ('name', 'settings', 'said'),
    [
        ('vlaa', {}, "unknown alignment 'vlaa'; known: align, clip"),
        ('vla+vla', {}, 'names a strategy twice'),
        ('vla', {'clip': {}}, "no part of 'vla'"),
        ('vla', {'vla': {'margn': 1.0}}, "alignment 'vla'.*margn"),
        ('vla', {'vla': 3}, 'must map setting to value'),
        ('', {}, 'unknown alignment'),
    ],
)
def test_a_composition_that_cannot_be_is_refused_with_the_reason(name, settings, said):
    with pytest.raises(ConfigError, match=said):
        make_alignment(name, WIDTH, settings)


# -- the verifier ---------------------------------------------------------------------------------


def test_a_swapped_sentence_of_the_same_meaning_is_no_negative(inputs):
    verifier = make('vla').verifier
    one_meaning = dataclasses.replace(inputs, group=torch.zeros(6, dtype=torch.long))
    without = dataclasses.replace(one_meaning, fused_swapped=None)

    def far(inputs):  # swapped readings that are nowhere near any chunk
        return dataclasses.replace(inputs, fused_swapped=-inputs.fused)

    own = torch.eye(6, dtype=torch.bool)
    fused = torch.nn.functional.normalize(verifier.fused(inputs.fused), dim=-1)
    action = torch.nn.functional.normalize(verifier.action(inputs.action), dim=-1)
    logits = verifier.scale() * (action @ fused.T)
    # by hand: row i of the backward direction lacks its own swapped reading
    swapped = torch.nn.functional.normalize(verifier.fused(inputs.fused_swapped), dim=-1)
    other = (verifier.scale() * (action @ swapped.T)).masked_fill(own, float('-inf'))
    backward = -torch.cat([logits, other], 1).log_softmax(1)[own.nonzero(as_tuple=True)].mean()
    forward = -logits.T.log_softmax(1).diagonal().mean()
    found = verifier(one_meaning).losses['vla']
    assert torch.allclose(found, (forward + backward) / 2, atol=1e-5)
    assert verifier(far(inputs)).losses['vla'] != verifier(without).losses['vla']


def test_the_verifier_prefers_the_chunk_it_was_trained_with(inputs):
    verifier = make('vla').verifier
    optimizer = torch.optim.Adam(verifier.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        verifier(inputs).losses['vla'].backward()
        optimizer.step()
        verifier.after_step()
    candidates = inputs.action.unsqueeze(0).expand(6, -1, -1)
    assert verifier.scores(inputs.fused, candidates).argmax(1).tolist() == list(range(6))
