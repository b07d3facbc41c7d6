"""Blind estimates of blur and noise, on measurements whose truth is known."""

import pytest
import torch

from flashdiff_cli.operators import GaussianBlur, Identity, Jpeg, MotionBlur
from flashdiff_cli.operators.composition import Composition
from flashdiff_cli.operators.estimate import common_noise, effective_noise_std, fit_blur, noise_level, rounding_noise


def scene(batch: int = 2, size: int = 64) -> torch.Tensor:
    """Piecewise constant images with edges, in [-1, 1]."""
    cells = torch.rand(batch, 3, size // 8, size // 8, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    return cells.repeat_interleave(8, 2).repeat_interleave(8, 3)


@pytest.mark.parametrize("std", [0.5, 1.0, 2.0, 3.0])
def test_the_width_is_exact_where_the_scene_is_known(std):
    x = scene()
    y = GaussianBlur(std).measure(x, 0.02, [torch.Generator().manual_seed(i) for i in range(2)])
    assert fit_blur(y, x).tolist() == pytest.approx([std, std], rel=0.06)


def test_estimates_are_per_sample():
    x = scene()
    y = GaussianBlur(torch.tensor([0.6, 2.5])).forward(x)
    both = fit_blur(y, x)
    assert both[0] < 1 < 2 < both[1]
    assert torch.allclose(fit_blur(y[1:], x[1:]), both[1:])


@pytest.mark.parametrize("std", [0.01, 0.05, 0.2])
def test_the_noise_level_is_found(std):
    y = GaussianBlur(1.5).measure(scene(2, 128), std, [torch.Generator().manual_seed(i) for i in range(2)])
    assert noise_level(y).tolist() == pytest.approx([std, std], rel=0.1)


@pytest.mark.parametrize("background", [1.0, 1.3, -1.0])
@pytest.mark.parametrize("std", [0.02, 0.05, 0.1])
def test_noise_is_read_where_white_and_black_have_not_cut_it(background, std):
    """Two thirds of the picture are burnt out or black: half of the noise is missing there, or all of it."""
    x = scene(1, 192)
    x[..., 64:, :] = background
    y = Identity().measure(x, std, [torch.Generator().manual_seed(4)])
    stored = (((y + 1) * 127.5).clamp(0, 255).round()) / 127.5 - 1
    assert noise_level(stored).item() == pytest.approx(std, rel=0.08)


def test_noise_of_a_burnt_out_picture_is_not_the_same_in_all_channels():
    """Where white has cut all channels their differences are 0, which says nothing of the noise."""
    x = scene(1, 192)
    x[..., 64:, :] = 1.1
    for shape, share in (((1, 3, 192, 192), 0.0), ((1, 1, 192, 192), 1.0)):
        noise = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(6))
        seen = ((x + noise + 1) * 127.5).clamp(0, 255).round() / 127.5 - 1
        assert common_noise(seen).item() == share


def test_black_on_white_has_no_noise():
    """Text and line art: no block but is cut by white or black, and none is noisy."""
    page = torch.ones(1, 3, 96, 96)
    page[..., 10:90:9, 8:80] = -1
    page[..., 10:90:9, 30:34] = 0.2
    assert noise_level(page).item() < 0.01


def test_a_constant_picture_has_no_noise_and_some_width():
    flat = torch.zeros(1, 3, 32, 32)
    assert noise_level(flat).item() == 0
    assert 0.2 <= fit_blur(flat, flat).item() <= 6


def test_more_noise_than_was_told_is_heeded_after_a_blur_only():
    ramp = torch.linspace(-0.8, 0.8, 64).expand(2, 3, 64, 64)
    blur = GaussianBlur(torch.tensor([1.0, 2.0]))
    y = blur.measure(ramp, torch.tensor([0.05, 0.02]), [torch.Generator().manual_seed(i) for i in range(2)])
    assert effective_noise_std(torch.tensor([0.02, 0.02]), y, blur).tolist() == pytest.approx([0.05, 0.02], rel=0.1)
    # What is not far off is taken as it was told, and so is more than there is.
    for told in (0.04, 0.2):
        assert effective_noise_std(told, y[:1], blur.subset(torch.tensor([True, False]))).item() == pytest.approx(told)
    texture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    still = MotionBlur.make((64, 64), torch.Generator().manual_seed(0), kernel_file="", blur_length=0.0, blur_shake=0.0)
    for operator in (Identity(), GaussianBlur(0.1), still, Composition(blur, Identity())):
        assert effective_noise_std(0.01, texture, operator).item() == pytest.approx(0.01), "that may be detail"
    assert effective_noise_std(0.01, texture, Composition(Identity(), GaussianBlur(2.0))).item() > 0.1


def detailed(size: int = 96) -> torch.Tensor:
    """An image with detail of all sizes, (1, 3, size, size) in [-1, 1]."""
    parts = []
    for side in (6, 12, 24, 48, size):
        x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(side)) - 0.5
        parts.append(torch.nn.functional.interpolate(x, size=(size, size), mode="bicubic") * (6 / side) ** 0.7)
    return sum(parts).clamp(-1, 1)


def stored(x: torch.Tensor) -> torch.Tensor:
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


@pytest.mark.parametrize("quality", [90, 75, 50])
@pytest.mark.parametrize("offset", [0, 3])
def test_rounding_in_a_jpeg_is_found_in_any_file_and_on_any_grid(quality, offset):
    file = stored(Jpeg(quality).on_signed(detailed()))[..., offset:, offset:]
    found, true = rounding_noise(file).item(), Jpeg(quality).noise_std().item()
    assert 0.4 * true < found < 2 * true


@pytest.mark.parametrize("blur", [0.05, 1.0, 2.5])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_pictures_that_were_not_compressed_have_no_rounding(blur, noise):
    y = GaussianBlur(blur).measure(detailed(), noise, [torch.Generator().manual_seed(0)])
    assert rounding_noise(stored(y)).item() == 0


def test_rounding_is_read_picture_by_picture():
    both = torch.cat([detailed(), stored(Jpeg(60).on_signed(detailed()))])
    assert torch.equal(rounding_noise(both)[1:], rounding_noise(both[1:])) and rounding_noise(both)[0] == 0
    assert rounding_noise(torch.zeros(2, 3, 16, 64)).tolist() == [0, 0]


@pytest.mark.parametrize("quality", [90, 75])
def test_noise_is_found_behind_compression(quality):
    """A second difference reads a tenth of it: the finest cosines are gone."""
    smooth = torch.nn.functional.avg_pool2d(detailed(128), 9, 1, 4)
    noisy = smooth + 2 * 0.03 * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(1))
    found = noise_level(stored(Jpeg(quality, "444").on_signed(noisy))).item()
    assert found == pytest.approx(0.03, rel=0.35)
