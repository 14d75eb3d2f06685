"""What holds for every alignment strategy, whatever it is good for."""

import dataclasses

from alignment_inputs import make_inputs, make_towers, rows, total_loss, WIDTH, with_features
import pytest
import torch

from vla_alignment_ros.alignment.base import AlignmentStrategy
from vla_alignment_ros.alignment.registry import make_alignment, STRATEGIES
from vla_alignment_ros.errors import AlignmentError, ConfigError

NAMES = sorted(STRATEGIES)
FEATURES = ('vision_tokens', 'vision_pooled', 'language_tokens', 'language_pooled')


@pytest.fixture
def towers():
    return make_towers()


@pytest.fixture(params=NAMES)
def strategy(request, towers) -> AlignmentStrategy:
    torch.manual_seed(1)
    made = STRATEGIES[request.param](WIDTH, embed=8)
    made.bind(*towers)
    return made


def scores(strategy, inputs):
    """Every score of a batch by name."""
    vision, language = inputs.vision, inputs.language
    return {
        **strategy.embed(vision, language),
        'similarity': strategy.similarity(vision, language),
        'vision_language': strategy.vision_language(vision, language),
        'sentence_regions': strategy.sentence_regions(vision, language),
        'word_regions': strategy.word_regions(vision, language),
    }


def test_scores_have_the_promised_shapes(strategy, towers):
    inputs = make_inputs(towers, batch=4)
    some = rows(make_inputs(towers, batch=4, seed=1), torch.tensor([0, 1, 2]))
    found = scores(strategy, inputs)
    tokens, words = inputs.vision.tokens.shape[1], inputs.language.ids.shape[1]
    assert found['vision'].shape == found['language'].shape == (4, 8)
    assert strategy.similarity(inputs.vision, some.language).shape == (4, 3)
    assert found['vision_language'].shape == (4,)
    assert found['sentence_regions'].shape == (4, tokens)
    assert found['word_regions'].shape == (4, words, tokens)


def test_embeddings_have_length_one(strategy, towers):
    inputs = make_inputs(towers)
    for rows_ in strategy.embed(inputs.vision, inputs.language).values():
        assert torch.allclose(rows_.norm(dim=-1), torch.ones(len(rows_)), atol=1e-5)


def test_the_gate_sees_the_diagonal_of_the_similarity(strategy, towers):
    inputs = make_inputs(towers)
    found = scores(strategy, inputs)
    assert torch.allclose(
        found['vision_language'], found['similarity'].diagonal(), rtol=1e-4, atol=1e-5
    )


def test_known_regions_give_the_same_score(strategy, towers):
    inputs = make_inputs(towers)
    found = scores(strategy, inputs)
    known = strategy.score_from_regions(
        found['sentence_regions'], inputs.vision, inputs.language
    )
    assert torch.equal(known, found['vision_language'])


def test_a_score_does_not_depend_on_what_else_is_in_the_batch(strategy, towers):
    strategy.eval()
    inputs = make_inputs(towers)
    alone = scores(strategy, rows(inputs, torch.tensor([2])))
    together = scores(strategy, inputs)
    for name in ('vision', 'language', 'vision_language', 'sentence_regions', 'word_regions'):
        assert torch.allclose(alone[name][0], together[name][2], rtol=1e-4, atol=1e-5), name
    assert torch.allclose(
        alone['similarity'][0, 0], together['similarity'][2, 2], rtol=1e-4, atol=1e-5
    )


def test_a_scene_read_with_two_sentences_projects_its_regions_once(strategy, towers):
    inputs = make_inputs(towers)
    tokens, seen = inputs.vision.tokens.shape, []

    def note(_module, given):
        seen.extend([1] * (given[0].shape == tokens))

    for module in strategy.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(note)
    strategy.sentence_regions(inputs.vision, inputs.language)
    first = len(seen)
    strategy.sentence_regions(inputs.vision, inputs.language.rows(torch.arange(5, -1, -1)))
    assert len(seen) == first > 0


def test_padding_does_not_change_a_score(strategy, towers):
    inputs = make_inputs(towers)
    longer = torch.nn.functional.pad(inputs.language.ids, (0, 3))
    with torch.no_grad():
        padded = dataclasses.replace(inputs, language=towers[1].eval()(longer))
    before, after = scores(strategy, inputs), scores(strategy, padded)
    for name in ('language', 'similarity', 'vision_language', 'sentence_regions'):
        assert torch.allclose(before[name], after[name], rtol=1e-4, atol=1e-4), name


def test_losses_are_finite_scalars_that_reach_every_parameter(strategy, towers):
    total_loss(strategy, make_inputs(towers)).backward()
    for name, parameter in strategy.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_the_order_of_the_batch_does_not_change_the_losses(strategy, towers):
    strategy.eval()
    inputs = make_inputs(towers)
    order = torch.tensor([3, 5, 0, 2, 4, 1])
    before, after = strategy(inputs), strategy(rows(inputs, order))
    for name, value in before.losses.items():
        assert torch.allclose(value, after.losses[name], rtol=1e-4, atol=1e-5), name


def test_gradients_through_the_features_are_those_of_finite_differences(strategy, towers):
    strategy.double().eval()
    inputs = make_inputs(towers, batch=3, sentences=2, dtype=torch.float64)
    parts = [
        getattr(getattr(inputs, side), part)
        for side, part in (name.split('_') for name in FEATURES)
    ]
    # words out of context too, for strategies that read them
    parts.append(inputs.language.words)
    leaves = [part.clone().requires_grad_() for part in parts]

    def loss(*features):
        given = dict(zip((*FEATURES, 'language_words'), features))
        return total_loss(strategy, with_features(inputs, **given))

    assert torch.autograd.gradcheck(loss, leaves, eps=1e-6, atol=1e-5, rtol=1e-3, fast_mode=True)


def test_an_empty_batch_costs_nothing(strategy, towers):
    inputs = rows(make_inputs(towers), torch.arange(0))
    loss = total_loss(strategy, inputs)
    loss.backward()
    assert float(loss.detach()) == 0.0


@pytest.mark.parametrize('early', [True, False])
def test_one_row_is_no_error(strategy, towers, early):
    inputs = rows(make_inputs(towers), torch.tensor([0]))
    inputs = dataclasses.replace(inputs, approach=torch.tensor([early]))
    loss = total_loss(strategy, inputs)
    loss.backward()
    assert torch.isfinite(loss)


def test_one_instruction_for_all_is_no_error(strategy, towers):
    loss = total_loss(strategy, make_inputs(towers, sentences=1))
    loss.backward()
    assert torch.isfinite(loss)


def test_a_sentence_without_words_has_finite_scores_and_losses(strategy, towers):
    inputs = make_inputs(towers)
    ids = inputs.language.ids.clone()
    ids[1] = 0
    inputs = dataclasses.replace(inputs, language=towers[1].eval()(ids))
    for name, value in scores(strategy, inputs).items():
        assert torch.isfinite(value).all(), name
    loss = total_loss(strategy, inputs)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(
        torch.isfinite(p.grad).all() for p in strategy.parameters() if p.grad is not None
    )


@pytest.mark.parametrize('side', ['vision', 'language'])
def test_a_feature_that_is_not_a_number_is_never_hidden(strategy, towers, side):
    """It is a named error, or a loss that is not a number either, at which the trainer stops."""
    inputs = make_inputs(towers)
    features = getattr(inputs, side)
    bad = {}
    for part in ('tokens', 'pooled', *(['words'] if side == 'language' else [])):
        bad[f'{side}_{part}'] = getattr(features, part).clone()
        bad[f'{side}_{part}'][1] = float('nan')
    try:
        loss = total_loss(strategy, with_features(inputs, **bad))
    except AlignmentError:
        return
    assert loss.isnan()


def test_weights_survive_saving_and_loading(strategy, towers):
    inputs = make_inputs(towers)
    for _ in range(2):  # let queues and momentum copies move
        strategy(inputs)
        strategy.after_step()
    torch.manual_seed(2)
    fresh = type(strategy)(WIDTH, embed=8)
    fresh.bind(*make_towers(seed=3))
    fresh.load_state_dict(strategy.state_dict())
    before, after = strategy.eval()(inputs), fresh.eval()(inputs)
    for name, value in before.losses.items():
        assert torch.equal(value, after.losses[name]), name


def test_a_checkpoint_without_training_state_scores_the_same(strategy, towers):
    inputs = make_inputs(towers)
    strategy(inputs)
    strategy.after_step()
    kept = {
        name: value
        for name, value in strategy.state_dict().items()
        if not name.startswith(strategy.training_only)
    }
    torch.manual_seed(2)
    fresh = type(strategy)(WIDTH, embed=8)  # never bound: as at run time
    fresh.load_state_dict(kept)
    for name, value in scores(fresh.eval(), inputs).items():
        assert torch.equal(value, scores(strategy.eval(), inputs)[name]), name


def test_diagnostics_are_detached_scalars(strategy, towers):
    for name, value in strategy(make_inputs(towers)).diagnostics.items():
        assert value.ndim == 0 and not value.requires_grad, name


@pytest.mark.parametrize('name', NAMES)
def test_a_setting_that_does_not_exist_is_refused_by_name(name):
    with pytest.raises(ConfigError, match='embedding_size'):
        make_alignment(name, WIDTH, {name: {'embedding_size': 8}})
