"""Averaged weights become fit to use."""

import torch
from torch import nn

from vla_alignment_ros.training.optimization import renew_norms


def test_norms_get_the_statistics_of_what_they_see():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    inputs = [5 + 3 * torch.randn(8, 3, 6, 6) for _ in range(4)]
    momentum = network[1].momentum
    renew_norms(network, inputs)
    seen = torch.stack([network[0](x).mean((0, 2, 3)) for x in inputs]).mean(0)
    assert torch.allclose(network[1].running_mean, seen, atol=1e-5)
    assert not network[1].training and network[1].momentum == momentum
    out = network(torch.cat(inputs))
    assert torch.allclose(out.mean((0, 2, 3)), torch.zeros(4), atol=1e-2)
    assert torch.allclose(out.std((0, 2, 3)), torch.ones(4), atol=2e-2)


def test_a_network_without_norms_is_not_run():
    renew_norms(nn.Linear(2, 2), iter(lambda: 1 / 0, None))
