"""Two processes over gloo against one process on the joint batch, in float64."""

from pathlib import Path

from joint_batch_worker import DualTower, joint_batch
from joint_processes import run_together
import pytest
import torch

from vla_alignment_ros.alignment.distributed import (
    average_gradients,
    distributed_info_nce,
    gather,
    world,
)
from vla_alignment_ros.alignment.losses import same_group, symmetric_info_nce

WORKER = Path(__file__).with_name('joint_batch_worker.py')


@pytest.fixture(scope='module')
def single():
    """Loss and gradients of one process, from the matrix of all pairs."""
    scenes, sentences, ids = joint_batch()
    model = DualTower()
    vision, language, scale = model(scenes, sentences)
    vision.retain_grad()
    language.retain_grad()
    loss = symmetric_info_nce(scale * vision @ language.T, same_group(ids, ids))
    loss.backward()
    parameters = {name: p.grad for name, p in model.named_parameters()}
    return loss.detach(), vision, language, parameters


@pytest.fixture(scope='module')
def processes(tmp_path_factory):
    """What each of two processes found."""
    return run_together(WORKER, tmp_path_factory.mktemp('joint'))


def test_the_mean_of_the_losses_is_the_joint_loss(single, processes):
    mean = torch.stack([found['loss'] for found in processes]).mean()
    assert float(mean) == pytest.approx(float(single[0]), abs=1e-12)


def test_embeddings_get_the_gradient_of_the_joint_loss(single, processes):
    for name, whole in zip(('vision', 'language'), single[1:3]):
        joined = torch.cat([found[name] for found in processes])
        assert torch.allclose(joined, whole.grad, atol=1e-12)


@pytest.mark.parametrize('exchange', ['ddp', 'average'])
def test_parameters_get_the_gradient_of_the_joint_loss(single, processes, exchange):
    assert 'scale.log_scale' in single[3]
    for found in processes:
        for name, whole in single[3].items():
            assert torch.allclose(found[f'{exchange}.{name}'], whole, atol=1e-12), name


def test_banks_stay_alike_and_hold_the_rows_of_all(single, processes):
    ids = joint_batch()[2]
    for found in processes:
        # 8 rows into a ring of 6: the first two are gone and the ring goes on at their place
        assert found['bank.ids'].tolist() == [*ids[6:].tolist(), *ids[2:6].tolist()]
        rows = torch.cat([single[1][6:], single[1][2:6]]).detach().float()
        assert torch.allclose(found['bank.vision'], rows)


def test_unequal_numbers_of_rows_are_refused_in_every_process(processes):
    assert all(bool(found['refused']) for found in processes)


def test_one_process_needs_no_group(single):
    assert world() == (0, 1)
    rows, ids = torch.ones(2, 3, requires_grad=True), torch.tensor([1, 2])
    assert all(a is b for a, b in zip(gather(rows, ids), (rows, ids)))
    scenes, sentences, ids = joint_batch()
    model = DualTower()
    loss = distributed_info_nce(*model(scenes, sentences), ids)
    loss.backward()
    average_gradients(model.parameters())
    assert float(loss.detach()) == pytest.approx(float(single[0]), abs=1e-12)
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, single[3][name], atol=1e-12)
