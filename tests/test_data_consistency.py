"""The last step of data consistency: against its closed form, and where it must do nothing or everything."""

import math

import pytest
import torch

from flashdiff_cli.data_consistency import MARGIN, data_consistency, limit_deviation, mean_gain, shrink
from flashdiff_cli.operators import OPERATORS, BoxInpainting, GaussianBlur, Jpeg
from flashdiff_cli.operators.base import Operator


class Identity(Operator):
    name = "plain"

    def __init__(self, scale=1.0):
        self.scale = scale

    def forward(self, x):
        return self.scale * x

    adjoint = forward

    def describe(self, index=0):
        return {}

    def subset(self, active):
        return self


def pictures(batch=2, size=32):
    generator = torch.Generator().manual_seed(1)
    return 0.5 * torch.rand(batch, 3, size, size, generator=generator) - 0.25


def test_the_gain_is_the_mean_square_of_the_operator():
    x = pictures(2, 64)
    assert mean_gain(Identity(0.5), x).tolist() == pytest.approx([0.25, 0.25], rel=0.05)
    kernel = GaussianBlur(1.5).forward(torch.nn.functional.pad(torch.ones(1, 3, 1, 1), (31, 32, 31, 32)))
    assert mean_gain(GaussianBlur(1.5), x)[0].item() == pytest.approx(kernel[0, 0].square().sum().item(), rel=0.2)


def test_without_noise_the_identity_gives_the_measurement():
    truth = pictures()
    found = data_consistency(truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(2)), truth, Identity(), torch.zeros(2))
    assert torch.allclose(found, truth, atol=1e-3)


def stripes(batch=2, size=64):
    """Fine stripes in the left half, nothing in the right: detail that a first stage would lose."""
    wave = 0.2 * torch.sin(torch.arange(size) * 1.9)
    detail = torch.zeros(batch, 3, size, size)
    detail[..., : size // 2] = wave[: size // 2]
    return detail


def test_detail_comes_back_and_noise_does_not():
    flat, detail = torch.full((2, 3, 64, 64), 0.1), stripes()
    noise_std = torch.tensor([0.02, 0.04])
    noise = 2 * noise_std.view(-1, 1, 1, 1) * torch.randn(flat.shape, generator=torch.Generator().manual_seed(4))
    y = flat + detail + noise
    found = data_consistency(flat, y, Identity(), noise_std)
    error = found - flat - detail
    left, right = (part.square().mean((1, 2, 3)) for part in (error[..., 8:24], error[..., 40:]))
    assert bool((left < 0.3 * detail[..., 8:24].square().mean((1, 2, 3))).all()), "most of the detail is back"
    assert bool((left < noise[..., 8:24].square().mean((1, 2, 3))).all()), "with less noise than the measurement has"
    assert bool((right < 0.1 * noise[..., 40:].square().mean((1, 2, 3))).all()), "and next to none where there is no detail"
    alone = data_consistency(flat[1:], y[1:], Identity(), noise_std[1:])
    assert torch.allclose(found[1:], alone, atol=1e-4)


def test_what_noise_explains_is_nearly_left_alone():
    truth = pictures(1, 64)
    noise = 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(5))
    found = data_consistency(truth, truth + noise, Identity(), torch.tensor([0.06]))
    assert (found - truth).square().mean() < 0.01 * noise.square().mean()


def test_noise_that_a_sharpening_amplifies_is_known_by_its_frequency():
    """Behind a blur the noise of the solution is coloured: white noise of the same power would let its peaks through."""
    truth = torch.full((1, 3, 64, 64), 0.2)
    y = truth + 0.04 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(6))
    blur, noise = GaussianBlur(1.5), torch.tensor([0.02])
    sharpened = blur.proximal(truth, y, torch.tensor([0.0016]), torch.tensor([0.01]))
    found = data_consistency(truth, y, blur, noise)
    assert (found - truth).square().mean() < 0.05 * (sharpened - truth).square().mean()


def test_without_noise_all_of_a_difference_is_kept():
    d = pictures(1, 40)
    assert torch.allclose(shrink(d, torch.zeros_like(d), 3.0, 0.7), d, atol=1e-5)
    assert torch.allclose(shrink(d[..., :37], torch.zeros_like(d[..., :37]), 3.0, 0.0), d[..., :37], atol=1e-5)


def test_a_compressed_image_is_no_further_off_than_its_file():
    truth = stripes(1) + pictures(1, 64) * 0.2
    jpeg = Jpeg(60, "444")
    y = jpeg.on_signed(truth)
    blurred = torch.nn.functional.avg_pool2d(truth, 3, 1, 1)
    found = data_consistency(blurred, y, jpeg, torch.zeros(1))
    assert (found - truth).square().mean() < 1.05 * (y - truth).square().mean() < (blurred - truth).square().mean()


@pytest.mark.parametrize("operator", [GaussianBlur(1.2), BoxInpainting.from_options((32, 32), 0, box_fraction=0.5)], ids=["blur", "box"])
def test_a_measurement_without_noise_is_met(operator):
    truth = pictures(1)
    y = operator.on_signed(truth)
    image = truth + 0.05 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(6))
    found = data_consistency(image, y, operator, torch.zeros(1))
    before, after = (y - operator.on_signed(image)).square().mean(), (y - operator.on_signed(found)).square().mean()
    assert after < 0.02 * before
    assert (found - truth).square().mean() < (image - truth).square().mean()


def test_nonlinear_operators_leave_the_image():
    class Square(Identity):
        linear = False

    x = pictures(1)
    assert data_consistency(x, x + 1, Square(), torch.zeros(1)) is x
    assert "gaussian-blur" in OPERATORS


def test_what_lies_nearer_to_the_estimate_than_the_measurement_is_left_alone():
    y, mean = torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), 0.2)
    near = mean + 0.1
    found, share = limit_deviation(near, mean, y)
    assert torch.equal(found, near) and torch.equal(share, torch.ones(2))


def test_what_lies_further_is_drawn_to_a_share_of_the_measurement_s_distance():
    y, mean = torch.zeros(2, 3, 8, 8), torch.stack([torch.full((3, 8, 8), 0.2), torch.full((3, 8, 8), 0.4)])
    found, share = limit_deviation(mean + 0.5, mean, y)
    distance = (found - mean).square().flatten(1).mean(1)
    torch.testing.assert_close(distance, MARGIN * torch.tensor([0.04, 0.16]))
    torch.testing.assert_close(share, (MARGIN * torch.tensor([0.04, 0.16]) / 0.25).sqrt())


def test_with_the_posterior_mean_the_restored_image_beats_its_measurement_on_average():
    # x ~ N(0, 1), y = x + n, n ~ N(0, s^2): the posterior is N(y / (1 + s^2), s^2 / (1 + s^2)), and a wild sampler doubles its spread.
    generator = torch.Generator().manual_seed(0)
    for s in (0.3, 0.6):
        x = 0.2 * torch.randn(64, 3, 16, 16, generator=generator)
        y = x + 0.2 * s * torch.randn(x.shape, generator=generator)
        mean = y / (1 + s * s)
        wild = mean + 2 * 0.2 * math.sqrt(s * s / (1 + s * s)) * torch.randn(x.shape, generator=generator)
        found, _ = limit_deviation(wild, mean, y)
        assert (wild - x).square().mean() > (y - x).square().mean() > (found - x).square().mean()
