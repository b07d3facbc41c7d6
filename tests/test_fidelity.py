"""The last step of data consistency: against its closed form, and where it must do nothing or everything."""

import math

import pytest
import torch

from flashdiff_cli.fidelity import MARGIN, correct, gain, restrain
from flashdiff_cli.operators import OPERATORS, BoxInpainting, GaussianBlur
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
    assert gain(Identity(0.5), x).tolist() == pytest.approx([0.25, 0.25], rel=0.05)
    kernel = GaussianBlur(1.5).forward(torch.nn.functional.pad(torch.ones(1, 3, 1, 1), (31, 32, 31, 32)))
    assert gain(GaussianBlur(1.5), x)[0].item() == pytest.approx(kernel[0, 0].square().sum().item(), rel=0.2)


def test_without_noise_the_identity_gives_the_measurement():
    truth = pictures()
    found = correct(truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(2)), truth, Identity(), torch.zeros(2))
    assert torch.allclose(found, truth, atol=1e-3)


def test_white_errors_shrink_as_wiener_says():
    """y = x + n, x' = x + e: the best linear mend is t^2 / (t^2 + s^2) of the residual, sample by sample."""
    truth = pictures(2, 64)
    generator = torch.Generator().manual_seed(4)
    noise_std, error_std = torch.tensor([0.02, 0.05]), torch.tensor([0.06, 0.02])
    y = truth + 2 * noise_std.view(-1, 1, 1, 1) * torch.randn(truth.shape, generator=generator)
    image = truth + 2 * error_std.view(-1, 1, 1, 1) * torch.randn(truth.shape, generator=generator)
    found = correct(image, y, Identity(), noise_std)
    share = (error_std**2 / (error_std**2 + noise_std**2)).view(-1, 1, 1, 1)
    assert (found - (image + share * (y - image))).abs().max() < 0.02
    assert bool(((found - truth).square().mean((1, 2, 3)) < (image - truth).square().mean((1, 2, 3))).all())
    alone = correct(image[1:], y[1:], Identity(), noise_std[1:])
    assert torch.allclose(found[1:], alone, atol=1e-3)


def test_what_noise_explains_is_left_alone():
    truth = pictures(1, 64)
    y = truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(5))
    assert torch.equal(correct(truth, y, Identity(), torch.tensor([0.06])), truth)


@pytest.mark.parametrize("operator", [GaussianBlur(1.2), BoxInpainting.from_options((32, 32), 0, box_fraction=0.5)], ids=["blur", "box"])
def test_a_measurement_without_noise_is_met(operator):
    truth = pictures(1)
    y = operator.on_signed(truth)
    image = truth + 0.05 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(6))
    found = correct(image, y, operator, torch.zeros(1))
    before, after = (y - operator.on_signed(image)).square().mean(), (y - operator.on_signed(found)).square().mean()
    assert after < 0.02 * before
    assert (found - truth).square().mean() < (image - truth).square().mean()


def test_nonlinear_operators_leave_the_image():
    class Square(Identity):
        linear = False

    x = pictures(1)
    assert correct(x, x + 1, Square(), torch.zeros(1)) is x
    assert "gaussian-blur" in OPERATORS


def test_what_lies_nearer_to_the_estimate_than_the_measurement_is_left_alone():
    y, mean = torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), 0.2)
    near = mean + 0.1
    found, share = restrain(near, mean, y)
    assert torch.equal(found, near) and torch.equal(share, torch.ones(2))


def test_what_lies_further_is_drawn_to_a_share_of_the_measurement_s_distance():
    y, mean = torch.zeros(2, 3, 8, 8), torch.stack([torch.full((3, 8, 8), 0.2), torch.full((3, 8, 8), 0.4)])
    found, share = restrain(mean + 0.5, mean, y)
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
        found, _ = restrain(wild, mean, y)
        assert (wild - x).square().mean() > (y - x).square().mean() > (found - x).square().mean()
