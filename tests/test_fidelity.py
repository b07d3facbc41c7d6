"""The last step of data consistency: against its closed form, and where it must do nothing or everything."""

import pytest
import torch

from flashdiff_cli.fidelity import correct, gain
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
