"""The JPEG operator against a real encoder, its tables, and what it knows of rounding; enlargement against Pillow."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from flashdiff_cli.operators import Enlargement, Jpeg
from flashdiff_cli.operators.jpeg import CHROMA_TABLE, LUMA_TABLE, quantisation_table


def photograph(size=96, seed=0):
    """Smooth shapes, an edge and fine texture: (1, 3, size, size), in whole steps of 1 / 255."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    planes = [0.5 + 0.4 * np.sin(7 * x + 3 * k) * np.cos(5 * y - k) for k in range(3)]
    values = np.stack(planes, -1) + 0.15 * (x + y > 1)[..., None] + 0.04 * rng.standard_normal((size, size, 1))
    return torch.from_numpy((values.clip(0, 1) * 255).round() / 255).permute(2, 0, 1)[None].float()


def pil(x):
    return Image.fromarray((x[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))


def unpil(picture):
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None].float() / 255


def stored(x, quality, subsampling):
    buffer = io.BytesIO()
    pil(x).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return Image.open(buffer)


@pytest.mark.parametrize("quality", [5, 30, 49, 50, 75, 95, 100])
def test_the_tables_are_those_that_an_encoder_writes(quality):
    found = stored(photograph(), quality, 2).quantization
    for base, index in ((LUMA_TABLE, 0), (CHROMA_TABLE, 1)):
        ours = quantisation_table(torch.tensor([float(quality)]), base)[0]
        assert sorted(ours.flatten().tolist()) == sorted(map(float, found[index]))


@pytest.mark.parametrize("chroma, subsampling", [("420", 2), ("444", 0)])
@pytest.mark.parametrize("quality", [10, 40, 85])
def test_it_compresses_as_an_encoder_does(quality, chroma, subsampling):
    x = photograph()
    ours, real = Jpeg(float(quality), chroma).forward(x), unpil(stored(x, quality, subsampling))
    lost = (real - x).square().mean().sqrt()
    # Encoders round to whole intensities in between, and a coefficient near the middle of two steps may fall to either.
    assert (ours - real).square().mean().sqrt() < max(0.25 * lost, 2.5 / 255)


def test_compressing_twice_changes_nothing():
    once = Jpeg(40.0, "444").forward(0.25 + 0.5 * photograph().double())
    torch.testing.assert_close(Jpeg(40.0, "444").forward(once), once, atol=1e-9, rtol=0)


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (8, 40)], ids=str)
def test_any_size_comes_back_at_its_size_and_gradients_pass(size):
    x = torch.rand(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y = Jpeg(torch.tensor([10.0, 90.0])).forward(x)
    assert y.shape == x.shape
    (gradient,) = torch.autograd.grad(y.sum(), x)
    # Straight through the rounding, what is left is linear and keeps sums of pixels, padding apart.
    assert gradient.abs().sum() > 0 and torch.isfinite(gradient).all()


@pytest.mark.parametrize("chroma", ["420", "444"])
def test_an_image_that_agrees_has_the_luma_coefficients_of_the_compressed_one(chroma):
    truth = 0.25 + 0.5 * photograph(seed=1).double()
    operator = Jpeg(30.0, chroma)
    y = operator.forward(truth)
    off = (truth + 0.03 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).clamp(0, 1)
    found = operator.project(off, y)
    table = operator._table(0, y)
    held, seen = (operator.coefficients(part)[0] / table for part in (found, y))
    assert ((held - seen.round()).abs() <= 0.5 + 1e-6).all()
    # A projection onto a convex set that holds the truth cannot move away from it (in luma, where it acts).
    luma = [operator.coefficients(part)[0] for part in (off, found, truth)]
    assert (luma[1] - luma[2]).square().sum() < (luma[0] - luma[2]).square().sum()


def test_the_truth_agrees_already():
    truth = 0.25 + 0.5 * photograph(seed=2).double()
    operator = Jpeg(30.0)
    torch.testing.assert_close(operator.project(truth, operator.forward(truth)), truth, atol=1e-9, rtol=0)


def test_enlargement_is_what_a_picture_program_does():
    x = photograph(size=90)
    for factor in (2.0, 3.0):
        small = pil(x).resize((round(90 / factor),) * 2, Image.Resampling.BICUBIC)
        real = unpil(small.resize((90, 90), Image.Resampling.BICUBIC))
        # Pillow rounds the small picture to whole intensities.
        assert (Enlargement(factor).forward(x).clamp(0, 1) - real).abs().max() < 3 / 255


def test_enlargement_by_one_changes_nothing():
    x = photograph()
    torch.testing.assert_close(Enlargement(1.0).forward(x), x, atol=1e-5, rtol=0)
