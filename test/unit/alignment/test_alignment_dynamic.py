"""Dynamic alignment: routing against its definition, what the task is for, and dead experts."""

from alignment_inputs import make_inputs, make_towers, plain_inputs, rows, total_loss, WIDTH
import pytest
import torch
import torch.nn.functional as F

from vla_alignment_ros.alignment.dynamic import DynamicAlignment
from vla_alignment_ros.alignment.experts import Routing
from vla_alignment_ros.alignment.losses import symmetric_info_nce
from vla_alignment_ros.errors import ConfigError


def project(mixture, features, context):
    """One row at a time: its best two experts, their gates renormalised."""
    found = []
    for x, c in zip(features, context):
        p = (mixture.router.weight @ c + mixture.router.bias).softmax(0)
        best = p.argsort(descending=True)[:2]
        found.append(sum(p[i] / p[best].sum() * mixture.experts[i](x) for i in best))
    return F.normalize(torch.stack(found), dim=-1)


@torch.no_grad()
def test_scores_and_losses_equal_their_definition():
    torch.manual_seed(0)
    model = DynamicAlignment(WIDTH, embed=8, tasks=3).double()
    inputs = make_inputs(make_towers(), dtype=torch.float64)
    losses = model(inputs).losses

    said, seen = inputs.language.pooled, inputs.vision.pooled
    guess = model.task(said).softmax(-1)
    task = (guess.unsqueeze(-1) * model.task_embedding.weight).sum(1)
    v = project(model.vision, seen, seen)
    l = project(model.language, said, torch.cat([said, task], dim=1))  # noqa: E741
    similarity = v @ l.T
    assert torch.allclose(model.similarity(inputs.vision, inputs.language), similarity, atol=1e-9)
    late = symmetric_info_nce(model.scale.log_scale.exp() * similarity, inputs.present)
    assert torch.allclose(losses['vl_late'], 0.3 * late, atol=1e-9)
    known = inputs.task > 0
    expected = -guess[known, inputs.task[known] - 1].log().mean()
    assert 0 < known.sum() < len(known)
    assert torch.allclose(losses['task'], 0.1 * expected, atol=1e-9)
    p = (seen @ model.vision.router.weight.T + model.vision.router.bias).softmax(-1)
    chosen = F.one_hot(p.topk(2).indices, 4).sum(1).double()  # (B, X)
    balance = 4 * (chosen.mean(0) / 2 * p.mean(0)).sum()
    assert torch.allclose(losses['balance_vision'], 0.01 * balance, atol=1e-9)


def test_balance_is_one_when_all_experts_are_used_alike_and_most_when_the_same_two_are():
    even = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]])
    assert float(Routing(even, 2).balance()) == pytest.approx(1.0)
    same = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]])
    assert float(Routing(same, 2).balance()) == pytest.approx(2.0)  # X / k
    assert Routing(same, 2).use.tolist() == [0.5, 0.5, 0.0, 0.0]


def two_tasks(count):
    """The same words ask for opposite scenes in two tasks.

    Which task it is stands in two marks of the sentence that must be read together (exclusive or),
    so that no linear router can see it.
    """
    what, marks = torch.randn(count, WIDTH - 2), torch.randint(2, (count, 2))
    task = marks[:, 0] ^ marks[:, 1]
    said = torch.cat([what, 2 * (2.0 * marks - 1)], dim=1)
    seen = F.pad(what, (0, 2)) * (1 - 2 * task.unsqueeze(1))
    return plain_inputs(
        seen.unsqueeze(1), said.unsqueeze(1), torch.arange(count), task=task + 1
    )


def told_apart(tasks):
    """Share of held-out sentences that prefer their own scene to that of the other task."""
    torch.manual_seed(0)
    model = DynamicAlignment(WIDTH, embed=16, experts=2, tasks=tasks, task_weight=1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = total_loss(model, two_tasks(48))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_step()
    right = two_tasks(200)
    wrong = plain_inputs(-right.vision.tokens, right.language.tokens, right.referent)
    better = model.vision_language(right.vision, right.language) > model.vision_language(
        wrong.vision, wrong.language
    )
    return float(better.float().mean())


def test_the_task_tells_apart_what_the_router_alone_cannot():
    assert told_apart(tasks=2) > 0.95
    assert told_apart(tasks=0) < 0.8


def least_used(balance_weight):
    """Share of the least used scene expert, when at first two of four are never chosen."""
    torch.manual_seed(0)
    model = DynamicAlignment(WIDTH, embed=8, tasks=0, balance_weight=balance_weight)
    with torch.no_grad():
        model.vision.router.bias.copy_(torch.tensor([3.0, 3.0, -3.0, -3.0]))
    scenes, sentences = torch.randn(8, WIDTH), torch.randn(8, WIDTH)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-2)
    for _ in range(80):
        which = torch.randint(8, (32,))
        inputs = plain_inputs(scenes[which].unsqueeze(1), sentences[which].unsqueeze(1), which)
        loss = total_loss(model, inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(model(inputs).diagnostics['vision_expert_3'])


def test_the_balance_loss_revives_dead_experts():
    assert least_used(balance_weight=0.0) < 0.02
    assert least_used(balance_weight=0.1) > 0.1


def test_a_scene_s_regions_average_to_its_own_vector():
    """The experts are linear and a scene has one gate, so regions and score mean the same."""
    torch.manual_seed(0)
    model = DynamicAlignment(WIDTH, embed=8)
    vision = make_inputs(make_towers()).vision
    regions = model.project_scene(vision.tokens, vision)  # (B, N, E)
    assert torch.allclose(regions.mean(1), model.project_scene(vision.pooled, vision), atol=1e-5)


def test_the_router_decides_in_single_precision_under_autocast():
    torch.manual_seed(0)
    model = DynamicAlignment(WIDTH, embed=8)
    language = make_inputs(make_towers()).language
    expected = model.language.route(torch.cat([language.pooled] * 2, dim=1)).gates
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = model.language.route(torch.cat([language.pooled] * 2, dim=1)).gates
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_a_task_that_was_not_noted_costs_nothing():
    model = DynamicAlignment(WIDTH, tasks=3)
    inputs = rows(make_inputs(make_towers()), torch.tensor([0, 3]))  # both of task 0
    assert float(model(inputs).losses['task'].detach()) == 0.0


def test_more_tasks_than_set_are_refused_with_the_setting_to_raise():
    model = DynamicAlignment(WIDTH, tasks=1)
    with pytest.raises(ConfigError, match='tasks is 1: raise it'):
        model(make_inputs(make_towers()))


@pytest.mark.parametrize('settings', [{'top_k': 1}, {'top_k': 5}, {'tasks': -1}])
def test_settings_without_a_meaning_are_refused(settings):
    with pytest.raises(ConfigError):
        DynamicAlignment(WIDTH, **settings)
