"""A step in parts or processes against one pass over the joint batch, in float64."""

import copy
from pathlib import Path

from joint_processes import run_together, WORLD
from joint_step_worker import CASES, double_model, joint_batch, ROWS, seeded, share
import pytest
from small_model import WEIGHTS, with_copies
import torch
from torch import nn

from vla_alignment_ros.alignment.registry import STRATEGIES
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.policy.objective import compare, draw, facts, read_rows
from vla_alignment_ros.training.step import learn

WORKER = Path(__file__).with_name('joint_step_worker.py')
COMPOSITIONS = (*sorted(STRATEGIES), 'vla+grounded', 'clip+align')


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def half():
    """What a GPU computes networks in."""
    return torch.autocast('cpu', torch.bfloat16)


def float_batch():
    return {k: v.float() if torch.is_tensor(v) and v.dtype == torch.double else v
            for k, v in joint_batch().items()}  # fmt: skip


def close(ours, expected):
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(ours[name].double(), value.double(), rtol=1e-9, atol=1e-11), name


@pytest.mark.parametrize('alignment', COMPOSITIONS)
def test_a_batch_in_parts_has_the_losses_and_gradients_of_the_whole(alignment):
    model, batch = double_model(alignment), joint_batch()
    learn(model, batch, WEIGHTS, seeded(0))
    model.alignment.after_step()  # queues and banks hold something
    model.zero_grad()
    parted = copy.deepcopy(model)
    losses, diagnostics, total = learn(model, batch, WEIGHTS, seeded(1))
    assert losses['align_mining_hinge'] > 0 and losses['align_hindsight'] > 0
    assert ('align_grounded_shape' in losses) == ('grounded' in alignment)
    again = learn(parted, batch, WEIGHTS, seeded(1), parts=4)
    close(again[0], losses)
    close(again[1], diagnostics)
    assert float(again[2]) == pytest.approx(float(total), rel=1e-12)
    close(gradients(parted), gradients(model))
    assert any('log_scale' in name for name in gradients(parted))
    for one in (model, parted):
        one.alignment.after_step()
    close(parted.state_dict(), model.state_dict())


@pytest.mark.parametrize(
    'alignment, parts', [*((name, 1) for name in COMPOSITIONS), ('vla+grounded', 4), ('align', 4)]
)
def test_networks_in_half_precision_are_contrasted_in_full(alignment, parts):
    model, batch = double_model(alignment).float(), float_batch()
    expected, _, _ = learn(copy.deepcopy(model), batch, WEIGHTS, seeded(1))
    seen = []

    def note(_, args):
        (inputs,) = args
        tensors = [inputs.vision.tokens, inputs.language.pooled, *inputs.keys.values()]
        seen.append({t.dtype for t in (*tensors, inputs.fused, inputs.action)})
        seen.append(torch.is_autocast_enabled('cpu'))

    model.alignment.register_forward_pre_hook(note)
    losses, _, total = learn(model, batch, WEIGHTS, seeded(1), parts, half)
    model.alignment.after_step()
    assert seen[-2:] == [{torch.float32}, False] and total.dtype == torch.float32
    for name, value in expected.items():
        assert float(losses[name]) == pytest.approx(float(value), rel=0.1, abs=0.05), name
    for name, gradient in gradients(model).items():
        assert gradient.dtype == torch.float32 and torch.isfinite(gradient).all(), name


def test_parts_on_their_own_would_have_another_contrast():
    """The check above can fail: each part alone has other negatives."""
    model, batch = double_model('clip'), joint_batch()
    whole, _, _ = learn(model, batch, WEIGHTS, seeded(1))
    halves = [learn(model, share(batch, rank, 2), WEIGHTS, seeded(1))[0] for rank in range(2)]
    mean = sum(float(half['align_clip_vl']) for half in halves) / 2
    assert abs(mean - float(whole['align_clip_vl'])) > 1e-3


def test_without_alignment_losses_parts_agree_too():
    model, batch = double_model('vla'), joint_batch()
    weights = {**WEIGHTS, 'alignment': 0.0}
    parted = copy.deepcopy(model)
    losses, _, _ = learn(model, batch, weights, seeded(1))
    close(learn(parted, batch, weights, seeded(1), parts=2)[0], losses)
    close(gradients(parted), gradients(model))
    assert set(losses) == {'action', 'keyframe'}


def test_batch_norms_see_one_part():
    """Said in the docstring: with batch statistics a part is not the whole."""
    model, batch = double_model('clip'), joint_batch()
    model.vision.train()
    parted = copy.deepcopy(model)
    whole, _, _ = learn(model, batch, WEIGHTS, seeded(1))
    pieces, _, _ = learn(parted, batch, WEIGHTS, seeded(1), parts=2)
    assert float(whole['keyframe']) != pytest.approx(float(pieces['keyframe']), rel=1e-6)
    norm = next(m for m in parted.vision.modules() if isinstance(m, nn.BatchNorm2d))
    once = next(m for m in model.vision.modules() if isinstance(m, nn.BatchNorm2d))
    assert int(norm.num_batches_tracked) == 4 * int(once.num_batches_tracked)


@pytest.mark.parametrize('parts', [0, 3, 16])
def test_parts_that_do_not_divide_the_batch_are_refused(parts):
    model = double_model('clip')
    with pytest.raises(ConfigError, match=rf'optimizer.batch 8 .* optimizer.parts {parts} '):
        learn(model, joint_batch(), WEIGHTS, parts=parts)


def test_copies_that_parts_do_not_divide_are_refused():
    batch = with_copies(joint_batch(), range(3))
    with pytest.raises(ConfigError, match='optimizer.recolour makes 3 copies'):
        learn(double_model('grounded'), batch, WEIGHTS, parts=2)


# -- several processes ----------------------------------------------------------------------------


@pytest.fixture(scope='module')
def processes(tmp_path_factory):
    """What each of two processes found."""
    return run_together(WORKER, tmp_path_factory.mktemp('joint'), timeout_s=400)


def in_one_process(alignment):
    """The same two steps on the joint batch, by the plain forward and backward pass."""
    model, batch = double_model(alignment), joint_batch()
    for step in range(2):
        model.zero_grad()
        drawn = [
            draw(model, share(batch, rank, WORLD), seeded(10 * step + rank))
            for rank in range(WORLD)
        ]
        size = ROWS // WORLD
        order = torch.cat([d['swapped_from'] + size * rank for rank, d in enumerate(drawn)])
        joint = {name: torch.cat([d[name] for d in drawn]) for name in ('noise', 'time')}
        joint |= {**batch, 'swapped_from': order, 'swapped': batch['sentence'][order]}
        losses, _ = compare(model, read_rows(model, joint, True), facts(model, joint), WEIGHTS)
        torch.stack([value.double() for value in losses.values()]).sum().backward()
        model.alignment.after_step()
    state = {n: v for n, v in model.state_dict().items() if model.serves_training(n)}
    return {name: value.detach() for name, value in losses.items()}, gradients(model), state


@pytest.mark.timeout(500)
@pytest.mark.parametrize('alignment', CASES)
def test_two_processes_learn_what_one_learns_from_the_joint_batch(processes, alignment):
    losses, grads, state = in_one_process(alignment)
    for found in processes:
        mine = {'loss': {}, 'grad': {}, 'state': {}}
        for name, value in found.items():
            case, _, rest = name.partition('/')
            if case == alignment:
                kind, _, key = rest.partition('.')
                mine[kind][key] = value
        close(mine['loss'], losses)
        close(mine['grad'], grads)
        close(mine['state'], state)
        assert any('log_scale' in name for name in mine['grad'])
