"""What the deviation head measures in a picture, on pictures whose spectra are known."""

import math

import pytest
import torch

from flashdiff_cli.deviation import BANDS, BLOCK, DeviationHead, band_average, cosine_basis, log_ratio
from flashdiff_cli.operators import GaussianBlur


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(0)
    made = DeviationHead(12, 4, 5, width=8).eval()
    for layer in (made.whole[-1], made.out):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return made


def noise(batch=2, size=128, std=0.1):
    return std * torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_the_basis_is_orthonormal():
    rows = cosine_basis(BLOCK).flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(BLOCK * BLOCK), atol=1e-5)
    assert torch.allclose(rows[0], torch.full((BLOCK * BLOCK,), 1 / BLOCK), atol=1e-6)


def test_bands_are_means_over_the_diagonals():
    weights = band_average(BLOCK)[..., 0, 0]
    assert torch.allclose(weights.sum(1), torch.ones(BANDS))
    n = torch.arange(BLOCK)
    assert set((n[:, None] + n).flatten()[weights[2] > 0].tolist()) == {3} and (weights[2] > 0).sum() == 4


@pytest.mark.parametrize("std", [0.02, 0.1, 0.4])
def test_white_noise_is_all_noise(head, std):
    around, whole = head.statistics(noise(std=std))
    assert whole[:, 0] == pytest.approx([2 * math.log(std)] * 2, abs=0.1)
    # A signal-to-noise ratio of 0 within what so few blocks can tell, in every band.
    assert (whole[:, 1:].exp() - 0.1).abs().max() < 0.15
    assert around.exp().mean() == pytest.approx(0.3, abs=0.1)


def test_a_cosine_stands_in_its_own_band(head):
    x = torch.arange(128)
    # Three half-waves in a block: 3 cycles in 16 pixels.
    wave = 0.5 * torch.cos(math.pi * (x + 0.5) * 3 / BLOCK)
    around, _ = head.statistics(noise(1, std=0.01) + wave)
    inner = around[0, :, 4:-4, 4:-4].mean((1, 2))
    assert inner.argmax() == 2 and inner[2] > inner[10] + 4


def test_blur_lowers_the_high_bands(head):
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(1, 1, 128, 128, generator=generator).expand(1, 3, -1, -1)
    previous = None
    for std in (0.5, 0.8, 1.2, 2.0):
        _, whole = head.statistics(GaussianBlur(std).forward((image + 1) / 2) * 2 - 1 + noise(1, std=0.05))
        here = whole[0, 1 + BANDS : 1 + BANDS + 8]
        assert previous is None or ((here <= previous + 0.05).all() and here.sum() < previous.sum() - 1)
        previous = here


def test_log_ratio_has_a_floor():
    energy = torch.tensor([0.0, 0.5, 1.0, 11.0])
    assert torch.allclose(log_ratio(energy, 0.1).exp(), torch.tensor([0.05, 0.05, 0.1, 10.1]))


def test_samples_do_not_see_each_other(head):
    y = noise(3, 64) + torch.linspace(-1, 1, 64)
    features = torch.randn(3, 12, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        together = head(features, y)
        alone = torch.cat([head(features[i : i + 1], y[i : i + 1]) for i in range(3)])
    assert together.shape == (3, 5, 16, 16) and (together > 0).all()
    assert torch.allclose(together, alone, rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e6])
def test_no_picture_makes_it_fail(head, value):
    y = torch.full((1, 3, 64, 64), value)
    with torch.no_grad():
        deviation = head(torch.full((1, 12, 16, 16), value), y)
    assert deviation.isfinite().all() and deviation.square().isfinite().all()
