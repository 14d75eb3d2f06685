"""Copies in other colours: the same shapes, and nothing that was grey becomes coloured."""

import torch

from vla_alignment_ros.training.recolour import recoloured


def pictures(count=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 60 + 120 * torch.rand(count, 6, 5, 3, generator=generator)


def test_grey_stays_grey_and_keeps_its_brightness():
    grey = pictures()[..., :1].expand(-1, -1, -1, 3)
    assert torch.allclose(recoloured(grey, torch.Generator().manual_seed(0)), grey, atol=1e-3)


def test_a_picture_is_turned_as_a_whole_and_pictures_differently():
    red = torch.zeros(16, 4, 4, 3)
    red[..., 0] = 150.0
    found = recoloured(red, torch.Generator().manual_seed(0))
    assert (found == found[:, :1, :1]).all()
    assert len({tuple(c.tolist()) for c in found[:, 0, 0]}) == 16
    assert (found[..., 0] < 150.0).all()  # none keeps its colour


def test_brightness_stays_where_nothing_is_cut_off():
    pixels = 100 + 0.2 * (pictures() - 100)
    found = recoloured(pixels, torch.Generator().manual_seed(0))
    assert torch.allclose(found.mean(-1), pixels.mean(-1), atol=1e-3)
    assert 0 <= found.min() and found.max() <= 255


def test_the_generator_alone_decides():
    pixels = pictures()
    first, again, other = (recoloured(pixels, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
