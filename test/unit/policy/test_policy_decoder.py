"""A decoder that remembers its context decodes what the ordinary one does."""

import pytest
import torch

from vla_alignment_ros.policy.decoder import RememberingDecoder


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    made = RememberingDecoder(width=16, heads=4, layers=3).double().eval()
    for parameter in made.parameters():  # zero biases would hide one that is forgotten
        torch.nn.init.normal_(parameter, std=0.3)
    return made


@pytest.mark.parametrize('padded', [0, 3])
@pytest.mark.parametrize('rows', [1, 5])
def test_recalling_equals_decoding_the_context_for_every_row(decoder, rows, padded):
    x = torch.randn(rows, 6, 16, dtype=torch.float64)
    context = torch.randn(1, 9, 16, dtype=torch.float64)
    padding = torch.arange(9).unsqueeze(0) >= 9 - padded  # (1, M)
    expected = decoder(
        x, context.expand(rows, -1, -1), memory_key_padding_mask=padding.expand(rows, -1)
    )
    found = decoder.recall(x, decoder.remember(context, padding))
    assert torch.allclose(found, expected, atol=1e-12)


def test_what_is_padded_does_not_matter(decoder):
    x, context = torch.randn(2, 6, 16).double(), torch.randn(1, 9, 16).double()
    padding = torch.arange(9).unsqueeze(0) >= 6
    changed = context + 100 * padding.unsqueeze(-1)
    first = decoder.recall(x, decoder.remember(context, padding))
    assert torch.equal(first, decoder.recall(x, decoder.remember(changed, padding)))
