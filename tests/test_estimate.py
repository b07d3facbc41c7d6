"""Blind estimates of blur and noise, on measurements whose truth is known."""

import pytest
import torch

from flashdiff_cli.operators import GaussianBlur, Identity, MotionBlur
from flashdiff_cli.operators.composition import Composition
from flashdiff_cli.operators.estimate import at_least_shown, fit_blur, noise_level


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


def test_a_constant_picture_has_no_noise_and_some_width():
    flat = torch.zeros(1, 3, 32, 32)
    assert noise_level(flat).item() == 0
    assert 0.2 <= fit_blur(flat, flat).item() <= 6


def test_more_noise_than_was_told_is_heeded_after_a_blur_only():
    ramp = torch.linspace(-0.8, 0.8, 64).expand(2, 3, 64, 64)
    blur = GaussianBlur(torch.tensor([1.0, 2.0]))
    y = blur.measure(ramp, torch.tensor([0.05, 0.02]), [torch.Generator().manual_seed(i) for i in range(2)])
    assert at_least_shown(torch.tensor([0.02, 0.02]), y, blur).tolist() == pytest.approx([0.05, 0.02], rel=0.1)
    # What is not far off is taken as it was told, and so is more than there is.
    for told in (0.04, 0.2):
        assert at_least_shown(told, y[:1], blur.subset(torch.tensor([True, False]))).item() == pytest.approx(told)
    texture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    still = MotionBlur.make((64, 64), torch.Generator().manual_seed(0), kernel_file="", blur_length=0.0, blur_shake=0.0)
    for operator in (Identity(), GaussianBlur(0.1), still, Composition(blur, Identity())):
        assert at_least_shown(0.01, texture, operator).item() == pytest.approx(0.01), "that may be detail"
    assert at_least_shown(0.01, texture, Composition(Identity(), GaussianBlur(2.0))).item() > 0.1
