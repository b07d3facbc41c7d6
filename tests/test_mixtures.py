"""Degradations as pictures have them: repeatable, of every kind, stored as files are, and told as they should be."""

import pytest
import torch

from flashdiff_cli.operators import GaussianBlur, Jpeg
from flashdiff_cli.operators.inpainting import Inpainting
from flashdiff_cli.training.mixtures import KINDS, WEIGHTS, Draws, compress, degrade, drawing, holes_of, is_grey, recolour


def photo(size=48):
    x = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.avg_pool2d(x[None], 7, 1, 3)[0]


def draws(seed=0):
    return Draws(torch.Generator().manual_seed(seed))


def test_every_kind_has_a_weight():
    assert set(KINDS) == set(WEIGHTS) and sum(WEIGHTS.values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_is_repeated_by_its_seed(kind):
    first, second, other = (degrade(photo(), torch.Generator().manual_seed(seed), kind) for seed in (1, 1, 2))
    assert torch.equal(first.measured, second.measured) and first.noise_std == second.noise_std
    assert not torch.equal(first.measured, other.measured)
    assert first.measured.shape == first.clean.shape == (3, 48, 48) and torch.isfinite(first.measured).all()
    assert 0 <= first.noise_std < 1


def test_colours_are_kept_grey_or_toned():
    kinds = {"grey": 0, "other": 0}
    for seed in range(200):
        kinds["grey" if is_grey(recolour(photo(), draws(seed))) else "other"] += 1
    assert 10 < kinds["grey"] < 50


def test_grey_files_stay_grey():
    grey = photo().mean(0, keepdim=True).expand(3, -1, -1)
    assert is_grey(compress(grey, 60, "420", True))
    for kind in ("phone", "chain", "jpeg"):
        sample = KINDS[kind](grey, draws(3), True)
        assert is_grey(sample[0]), kind


def test_drawings_and_masks_differ_from_draw_to_draw():
    assert not torch.equal(drawing((32, 32), draws(1)), drawing((32, 32), draws(2)))
    assert drawing((32, 40), draws(1)).shape == (3, 32, 40)
    shares = [1 - holes_of((64, 64), draws(seed)).mean().item() for seed in range(20)]
    assert min(shares) < 0.2 < max(shares)
