"""Grounding: words have cells, sentences are where they meet, and new pairs need nothing new."""

import dataclasses
import math

from alignment_inputs import cast, make_inputs, make_towers, WIDTH
import pytest
import torch
import torch.nn.functional as F

from vla_alignment_ros.alignment.base import AlignmentInputs, Labels
from vla_alignment_ros.alignment.grounded import GroundedAlignment, log1mexp, SHARPNESS
from vla_alignment_ros.alignment.labels import untold_contrasts
from vla_alignment_ros.encoders.language import LanguageFeatures
from vla_alignment_ros.encoders.vision import VisionFeatures

NAMES = torch.tensor([[0, 0], [2, 3], [4, 5], [2, 5]])  # row 0: nothing


@pytest.fixture
def towers():
    return make_towers()


def labelled(towers, dtype=torch.float64):
    """A batch of 6 scenes of 6 cells whose sentences hold words of names."""
    inputs = make_inputs(towers, dtype=dtype)
    generator = torch.Generator().manual_seed(3)
    cells = torch.randint(-1, 4, (6, 6), generator=generator)
    ids = torch.tensor([[7, 2, 3, 0, 0], [8, 4, 5, 9, 0], [7, 2, 5, 10, 11]]).repeat(2, 1)
    with torch.no_grad():
        language = cast(towers[1](ids), dtype)
    return dataclasses.replace(
        inputs,
        language=language,
        labels=Labels(cells, NAMES, torch.tensor([[1, 5]])),
        named=torch.tensor([1, 2, 3, 1, -1, 3]),
    )


def make(dtype=torch.float64, **weights):
    torch.manual_seed(0)
    return GroundedAlignment(WIDTH, embed=8, **weights).to(dtype)


def fit(strategy, inputs, scene, sentence, word, cell):
    """Log-probability that a word of a sentence fits a cell, straight from the definition."""
    region = strategy.region(inputs.vision.tokens[scene, cell])
    vector = strategy.word(inputs.language.words[sentence, word])
    cosine = float(F.cosine_similarity(region, vector, dim=0).detach())
    logit = float(strategy.log_scale.exp()) * cosine + float(strategy.bias)
    return -math.log1p(math.exp(-logit))


def meeting(strategy, inputs, scene, sentence, cell):
    total = 0.0
    for word in range(int(inputs.language.mask[sentence].sum())):
        gate = torch.sigmoid(strategy.gate(inputs.language.tokens[sentence, word]))
        total += float(gate.detach()) * fit(strategy, inputs, scene, sentence, word, cell)
    return total


def test_a_sentence_is_where_its_words_meet(towers):
    inputs, strategy = labelled(towers), make()
    found = strategy.sentence_regions(inputs.vision, inputs.language) / SHARPNESS
    for row in range(6):
        for cell in range(6):
            expected = meeting(strategy, inputs, row, row, cell)
            assert float(found[row, cell]) == pytest.approx(expected, abs=1e-9)


def test_losses_equal_the_definition(towers):
    inputs, strategy = labelled(towers), make()
    losses = strategy(inputs).losses
    cells, named = inputs.labels.cells, inputs.named

    logits = {}
    for scene in range(6):
        for sentence in range(6):
            values = [SHARPNESS * meeting(strategy, inputs, scene, sentence, c) for c in range(6)]
            logits[scene, sentence] = torch.tensor(values, dtype=torch.float64)

    yes, no = [], []
    early = [row for row in range(6) if inputs.approach[row]]
    for i in early:
        for j in early:
            at = logits[i, j]
            score = float((at.softmax(0) * at).sum()) / SHARPNESS
            if inputs.present[i, j]:
                yes.append(-score)
            else:
                no.append(-math.log(1 - math.exp(score)))
    scene = (sum(yes) / len(yes) + sum(no) / len(no)) / 2
    assert float(losses['scene']) == pytest.approx(scene, rel=1e-9)

    sentence = []
    for row in range(6):
        inside = (cells[row] == named[row]) & (named[row] > 0)
        if inside.any():
            whole = logits[row, row][cells[row] >= 0].logsumexp(0)
            sentence.append(float(whole - logits[row, row][inside].logsumexp(0)))
    assert float(losses['sentence']) == pytest.approx(sum(sentence) / len(sentence), rel=1e-9)

    members = {name: {int(w) for w in NAMES[name] if w} for name in range(4)}
    total, count = 0.0, 0
    where = {}  # any sentence and place at which a word stands
    for row in range(6):
        for place in range(int(inputs.language.mask[row].sum())):
            where.setdefault(int(inputs.language.ids[row, place]), (row, place))
    for word in (2, 3, 4, 5):
        row, place = where[word]
        for i in range(6):
            for n in range(6):
                name = int(cells[i, n])
                if name < 0 or (name, word) == (1, 5):
                    continue
                log_yes = fit(strategy, inputs, i, row, place, n)
                if word in members[name]:
                    total, count = total - log_yes, count + 1
                else:
                    total -= 0.1 * math.log(1 - math.exp(log_yes))
    assert float(losses['word']) == pytest.approx(total / count, rel=1e-9)


def test_the_gate_is_taught_which_words_name_the_thing(towers):
    inputs, strategy = labelled(towers), make()
    expected = []
    for row in range(6):
        if inputs.named[row] <= 0:
            continue
        name = {int(w) for w in NAMES[inputs.named[row]]}
        for place in range(int(inputs.language.mask[row].sum())):
            logit = float(strategy.gate(inputs.language.tokens[row, place]).detach())
            said = int(inputs.language.ids[row, place]) in name
            expected.append(math.log1p(math.exp(-logit if said else logit)))
    found = float(strategy(inputs).losses['gate'])
    assert found == pytest.approx(sum(expected) / len(expected), rel=1e-9)


def test_without_labels_only_the_scene_teaches(towers):
    inputs = dataclasses.replace(labelled(towers), labels=None)
    assert set(make()(inputs).losses) == {'scene'}


def test_scores_of_all_pairs_are_those_of_each_pair(towers):
    inputs, strategy = labelled(towers), make()
    every = strategy.similarity(inputs.vision, inputs.language)
    for shift in range(3):
        language = inputs.language.rows((torch.arange(6) + shift) % 6)
        one = strategy.vision_language(inputs.vision, language)
        assert torch.allclose(one, every.roll(-shift, 1).diagonal())


def test_gradients_of_all_losses_are_those_of_finite_differences(towers):
    inputs = labelled(towers)
    # what is not told teaches nothing, which finite differences cannot know
    told = dataclasses.replace(inputs.labels, untold=torch.zeros(0, 2, dtype=torch.long))
    inputs = dataclasses.replace(inputs, labels=told)
    strategy = make()

    def losses(tokens, words):
        vision = dataclasses.replace(inputs.vision, tokens=tokens)
        # one vector per word, wherever it stands
        said = dataclasses.replace(inputs.language, words=words[inputs.language.ids])
        changed = dataclasses.replace(inputs, vision=vision, language=said)
        return torch.stack(list(strategy(changed).losses.values()))

    tokens = inputs.vision.tokens.clone().requires_grad_()
    words = torch.randn(12, WIDTH, dtype=torch.float64).requires_grad_()
    torch.autograd.gradcheck(losses, (tokens, words), atol=1e-6)


def test_what_the_data_cannot_tell_teaches_nothing(towers):
    """Word 5 is untold of name 1: no loss may move its fit in cells that show name 1."""
    inputs = labelled(towers)
    cells = torch.ones_like(inputs.labels.cells)  # every cell shows name 1
    plain = dataclasses.replace(
        inputs, labels=dataclasses.replace(inputs.labels, cells=cells), named=inputs.named * 0 + 1
    )

    def gradient(inputs):
        vectors = torch.randn(12, WIDTH, dtype=torch.float64, generator=torch.Generator())
        vectors.requires_grad_()
        said = dataclasses.replace(inputs.language, words=vectors[inputs.language.ids])
        losses = make()(dataclasses.replace(inputs, language=said)).losses
        (losses['scene'] + losses['word'] + losses['sentence']).backward()
        return vectors.grad

    assert not gradient(plain)[5].any() and gradient(plain)[4].any()
    told = dataclasses.replace(plain.labels, untold=torch.zeros(0, 2, dtype=torch.long))
    assert gradient(dataclasses.replace(plain, labels=told))[5].any()


def test_copies_in_other_colours_teach_the_words_that_say_no_colour(towers):
    """Words 2 and 4 say colours: the copies teach 3 and 5, in every cell that is labelled."""
    inputs, strategy = labelled(towers), make()
    rows = torch.tensor([4, 0])
    seen = dataclasses.replace(inputs.vision, tokens=inputs.vision.tokens[rows] + 0.3)
    cells = inputs.labels.cells[rows]
    labels = dataclasses.replace(inputs.labels, colours=torch.tensor([2, 4, 9]))
    inputs = dataclasses.replace(
        inputs, labels=labels, recoloured=seen, recoloured_cells=cells
    )
    total, count = 0.0, 0
    vectors = {2: (0, 1), 3: (0, 2), 4: (1, 1), 5: (1, 2)}
    where = {int(inputs.language.ids[r, p]): (r, p) for r, p in vectors.values()}
    other = dataclasses.replace(inputs, vision=seen)
    for word in (3, 5):
        for i in range(2):
            for n in range(6):
                name = int(cells[i, n])
                if name >= 0:
                    yes = fit(strategy, other, i, *where[word], n)
                    stands = word in {int(w) for w in NAMES[name] if w}
                    total -= yes if stands else 0.1 * math.log(1 - math.exp(yes))
                    count += stands
    assert float(strategy(inputs).losses['shape']) == pytest.approx(total / count, rel=1e-9)
    assert 'shape' not in strategy(labelled(towers)).losses


def test_log1mexp_is_exact_at_both_ends():
    x = torch.tensor([-1e-5, -0.1, -1.0, -30.0], dtype=torch.float64)
    expected = torch.tensor([math.log(-math.expm1(float(v))) for v in x], dtype=torch.float64)
    assert torch.allclose(log1mexp(x), expected, rtol=1e-12)
    assert torch.isfinite(log1mexp(torch.zeros(1)))


# -- what it is for -------------------------------------------------------------------------------

COLOURS, SHAPES = (1, 2, 3), (4, 5, 6)  # word ids
HELD_OUT = (2, 5)


def scene(pairs):
    """One cell per thing and two empty ones; a cell shows its colour and shape, and noise."""
    look = torch.eye(8)
    cells = [look[c] + look[s] for c, s in pairs] + [torch.zeros(8)] * 2
    return torch.stack(cells)


def batch(scenes, sentences, names):
    """`scenes` lists of pairs, one sentence (a pair) each; every cell is labelled."""
    tokens = torch.stack([scene(pairs) for pairs in scenes])
    tokens = tokens + 0.05 * torch.randn(tokens.shape)
    ids = torch.tensor(sentences)
    words = torch.eye(8)[ids]
    language = LanguageFeatures(words, words, ids, torch.ones_like(ids).bool(), words.mean(1))
    table = torch.tensor([(0, 0), *names])
    place = {name: i for i, name in enumerate(names, start=1)}
    cells = torch.tensor([[place[p] for p in pairs] + [0, 0] for pairs in scenes])
    holds = [[s in pairs for s in sentences] for pairs in scenes]
    count = torch.arange(len(scenes))
    return AlignmentInputs(
        vision=VisionFeatures(tokens, tokens.mean(1), torch.zeros(tokens.shape[1], 2), ()),
        language=language,
        group=count,
        referent=count,
        approach=torch.ones(len(scenes), dtype=torch.bool),
        present=torch.tensor(holds),
        task=torch.zeros_like(count),
        named=torch.tensor([place[s] for s in sentences]),
        labels=Labels(cells, table, untold_contrasts(table)),
    )


def test_a_pair_that_was_never_shown_is_found_and_known_to_be_there():
    torch.manual_seed(0)
    names = [(c, s) for c in COLOURS for s in SHAPES if (c, s) != HELD_OUT]
    strategy = GroundedAlignment(8, embed=8)
    optimizer = torch.optim.AdamW(strategy.parameters(), lr=0.02)
    for _ in range(150):
        picks = [torch.randperm(len(names))[:3].tolist() for _ in range(12)]
        scenes = [[names[i] for i in row] for row in picks]
        inputs = batch(scenes, [pairs[0] for pairs in scenes], names)
        optimizer.zero_grad()
        sum(strategy(inputs).losses.values()).backward()
        optimizer.step()
    look_alikes = [(2, 4), (3, 5)]  # same colour, same shape
    there = batch([[HELD_OUT, *look_alikes]], [HELD_OUT], [*names, HELD_OUT])
    gone = batch([[(2, 6), *look_alikes]], [HELD_OUT], [*names, HELD_OUT])
    regions = strategy.sentence_regions(there.vision, there.language)
    assert int(regions.argmax()) == 0
    yes = strategy.vision_language(there.vision, there.language).exp()
    no = strategy.vision_language(gone.vision, gone.language).exp()
    assert float(yes) > 0.5 > float(no)
