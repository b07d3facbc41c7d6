"""Measures of the bench against closed forms and against what other implementations give."""

import math

import pytest
import torch

from flashdiff_cli.bench import metrics
from flashdiff_cli.bench.metrics import Measures, gmsd, gradient, haarpsi, ms_ssim, ms_ssim_window, psnr, ssim

PIQ = [
    # height, width, phase, GMSD and HaarPSI of piq 0.8.0 in float64, of pattern(phase) against pattern(0).
    (64, 64, 0.3, 0.057894047193993554, 0.7712609490604522),
    (48, 96, 1.1, 0.1706786668047876, 0.42127450506337694),
    (65, 63, 0.05, 0.0022361889548142954, 0.9901893714099271),
]


def pattern(height, width, phase):
    """(1, 3, height, width) in [0, 1], float64: made from formulas, so that others can be asked about it."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (height, width)), indexing="ij")
    planes = []
    for c in range(3):
        slow = torch.sin(0.11 * (c + 1) * x + 0.07 * y + phase) * torch.cos(0.13 * y - 0.05 * c * x)
        planes.append(0.5 + 0.3 * slow + 0.15 * torch.sin(1.3 * x * (c + 1) + 0.9 * y + 2 * phase))
    return torch.stack(planes)[None].clamp(0, 1)


@pytest.mark.parametrize("height, width, phase, expected_gmsd, expected_haarpsi", PIQ)
def test_perceptual_measures_are_piqs(height, width, phase, expected_gmsd, expected_haarpsi):
    clean, other = pattern(height, width, 0.0), pattern(height, width, phase)
    assert gmsd(other, clean).item() == pytest.approx(expected_gmsd, rel=1e-9)
    assert haarpsi(other, clean).item() == pytest.approx(expected_haarpsi, rel=1e-9)


def test_a_batch_gives_what_single_images_give():
    clean = torch.cat([pattern(64, 64, p) for p in (0.0, 0.4, 0.9)])
    other = torch.cat([pattern(64, 64, p) for p in (0.2, 0.5, 2.0)])
    for function in (psnr, ssim, ms_ssim, gmsd, haarpsi, gradient):
        together = function(other, clean)
        assert together.shape == (3,)
        alone = torch.cat([function(a[None], b[None]) for a, b in zip(other, clean, strict=True)])
        assert torch.allclose(together, alone, rtol=1e-6)


def test_measures_of_an_image_against_itself():
    x = pattern(64, 64, 0.0)
    assert math.isinf(psnr(x, x).item())
    for function in (ssim, ms_ssim, haarpsi, gradient):
        assert function(x, x).item() == pytest.approx(1.0, abs=1e-6)
    assert gmsd(x, x).item() == pytest.approx(0.0, abs=1e-7)


def test_psnr_of_a_constant_difference():
    x = torch.full((2, 3, 16, 16), 0.5)
    assert psnr(x + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1), x).tolist() == pytest.approx([20.0, 40.0], abs=1e-3)


def test_gradient_of_a_ramp_is_the_ratio_of_the_slopes():
    ramp = torch.arange(16.0).view(1, 1, 1, 16).expand(1, 3, 16, 16) / 32
    assert gradient(0.5 * ramp, ramp).item() == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("side, window", [(256, 11), (176, 11), (175, 9), (128, 7), (112, 7), (111, 5), (80, 5), (48, 3), (47, None)])
def test_ms_ssim_takes_the_largest_window_that_fits(side, window):
    assert ms_ssim_window(side) == window
    found = ms_ssim(torch.rand(1, 3, side, 256), torch.rand(1, 3, side, 256))
    assert found is None if window is None else torch.isfinite(found).all()


def test_all_measures_come_by_name_with_none_where_one_cannot_be_taken():
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    rows = Measures()(clean * 3, clean)
    assert [set(row) for row in rows] == [set(metrics.MEASURES)] * 2
    assert rows[0]["ms_ssim"] is None and all(v is not None for k, v in rows[0].items() if k != "ms_ssim")
    clipped = psnr((clean * 3).clamp(-1, 1) / 2, clean / 2)
    assert [row["psnr"] for row in rows] == pytest.approx(clipped.tolist(), rel=1e-5)


def test_a_measure_whose_weights_are_out_of_reach_is_named(monkeypatch):
    def unreachable(network, device):
        if network == "vgg":
            raise OSError("no network")
        return lambda image, clean: torch.full((len(image),), 0.25)

    monkeypatch.setattr(metrics, "_lpips", unreachable)
    found = Measures(("psnr", "lpips_vgg", "lpips_alex"))
    assert found.usable == ("lpips_alex",)
    assert len(found.missing) == 1 and "lpips_vgg" in found.missing[0] and "no network" in found.missing[0]
    row = found(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32))[0]
    assert row["lpips_alex"] == 0.25 and "lpips_vgg" not in row


def test_fid_is_taken_between_files(monkeypatch, tmp_path):
    """With a feature that has a closed form: means m and variances v of a colour give (m1 - m2)^2 + (v1^.5 - v2^.5)^2."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    from flashdiff_cli.pictures.files import Picture, write_picture

    class MeanColour(torch.nn.Module):
        num_features = 1

        def forward(self, image):
            return image.double().mean((1, 2, 3))[:, None] / (255 if image.dtype == torch.uint8 else 1)

    def distance(name, count=100):
        return FrechetInceptionDistance(feature=MeanColour(), normalize=True, input_img_size=(3, 8, 8)).set_dtype(torch.float64)

    monkeypatch.setattr(metrics, "_distribution", distance)
    pairs = []
    for i, (restored, clean) in enumerate([(51, 102), (102, 204), (153, 102)]):
        files = []
        for name, value in (("restored", restored), ("clean", clean)):
            files.append(tmp_path / f"{name}{i}.png")
            write_picture(Picture(torch.full((1, 3, 8, 8), value / 127.5 - 1)), files[-1])
        pairs.append(tuple(files))
    a, b = torch.tensor([0.2, 0.4, 0.6]).double(), torch.tensor([0.4, 0.8, 0.4]).double()
    expected = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert Measures(("fid",)).of_folder("fid", pairs) == pytest.approx(expected.item(), abs=1e-4)
