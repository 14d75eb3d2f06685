"""Averaged weights become fit to use, and words for a precision are understood."""

import pytest
import torch
from torch import nn

from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.training.optimization import network_dtype, renew_norms


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


@pytest.mark.parametrize('there, made_for_it', [(False, True), (True, False), (True, True)])
def test_half_precision_is_for_gpus_that_are_made_for_it(monkeypatch, there, made_for_it):
    def supported(including_emulation):
        return made_for_it or including_emulation

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: there)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', supported)
    half = there and made_for_it
    assert network_dtype('auto') == (torch.bfloat16 if half else torch.float32)
    assert network_dtype('float32') == torch.float32
    assert network_dtype('bfloat16') == torch.bfloat16
    with pytest.raises(ConfigError, match="'half' is none of auto, float32, bfloat16"):
        network_dtype('half')
