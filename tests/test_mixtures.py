"""Degradations as pictures have them: repeatable, of every kind, and stored as files are."""

import pytest
import torch

from flashdiff_cli.training.mixtures import KINDS, WEIGHTS, Draws, blur_of, compress, degrade, drawing, is_grey, recolour, specks


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
    assert torch.equal(first.measured, second.measured)
    assert not torch.equal(first.measured, other.measured)
    assert first.measured.shape == first.clean.shape == (3, 48, 48) and torch.isfinite(first.measured).all()
    assert first.measured.abs().max() <= 1


def test_what_was_soft_already_is_to_stay_soft():
    """Half of the pictures that were only compressed have a soft picture as their truth; of those that were blurred, none."""
    sharp = torch.rand(3, 48, 48, generator=torch.Generator().manual_seed(0)).round() * 2 - 1
    grainy = lambda kind, seed: degrade(sharp, torch.Generator().manual_seed(seed), kind).clean.diff(dim=2).abs().mean() > 0.5
    soft = [not grainy("jpeg", seed) for seed in range(60)]
    blurred = [not grainy("gaussian-blur", seed) for seed in range(60)]
    assert 20 < sum(soft) < 45 and sum(blurred) < 8, "drawings aside"


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
        assert is_grey(sample), kind


def test_drawings_and_masks_differ_from_draw_to_draw():
    assert not torch.equal(drawing((32, 32), draws(1)), drawing((32, 32), draws(2)))
    assert drawing((32, 40), draws(1)).shape == (3, 32, 40)


def test_blurs_of_every_shape_keep_the_light():
    kernels = [blur_of(draws(seed)) for seed in range(40)]
    assert {type(blur).__name__ for blur in kernels} == {"GaussianBlur", "MotionBlur"}
    for blur in kernels:
        assert torch.allclose(blur.forward(torch.full((1, 3, 40, 40), 0.3)), torch.tensor(0.3), atol=1e-5)


def test_specks_are_black_or_white_and_few():
    found = specks(torch.zeros(3, 64, 64), draws(4))
    hit = found != 0
    assert 0 < hit.float().mean() < 0.05 and set(found[hit].tolist()) <= {-1.0, 1.0}
    assert (hit[0] == hit[1]).all(), "a dead pixel is dead in every colour"
