"""The data term solved in pixels: against the general solver, a dense solution, and its limits."""

import pytest
import torch

from flashdiff_cli.operators import Enlargement, GaussianBlur, Identity, MotionBlur
from flashdiff_cli.operators.base import Operator
from flashdiff_cli.operators.inpainting import Inpainting
from flashdiff_cli.operators.motion_blur import path_kernels
from flashdiff_cli.operators.proximal import conjugate_gradient, inverse_mirrored_cosines, mirrored_cosines


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(size=(40, 48)):
    x = torch.rand(2, 3, *size, generator=generator(), dtype=torch.float64)
    return torch.nn.functional.avg_pool2d(x, 5, 1, 2) * 2 - 1


def shake():
    return MotionBlur(path_kernels(torch.tensor([7.0, 11.0]), torch.tensor([0.3, 0.5]), generator()))


@pytest.mark.parametrize("size", [(2, 3), (7, 8), (16, 5)])
def test_mirrored_cosines_are_inverted(size):
    x = torch.randn(2, 3, *size, generator=generator(), dtype=torch.float64)
    assert torch.allclose(inverse_mirrored_cosines(mirrored_cosines(x)), x)


def test_a_blur_is_diagonal_in_mirrored_cosines():
    x, blur = smooth(), GaussianBlur(torch.tensor([0.7, 2.0]))
    assert torch.allclose(mirrored_cosines(blur.forward(x)), blur._response(x) * mirrored_cosines(x), atol=1e-8)


@pytest.mark.parametrize("operator", [GaussianBlur(torch.tensor([1.0, 2.5])), shake()], ids=["gaussian", "motion"])
def test_closed_forms_are_the_general_solution(operator):
    truth = smooth()
    y = operator.on_signed(truth) + 0.02 * torch.randn(truth.shape, generator=generator(1), dtype=torch.float64)
    x = truth + 0.05 * smooth().flip(-1)
    s, t = torch.tensor([4e-4, 1e-3]), torch.tensor([1e-2, 4e-3])
    found, general = operator.proximal(x, y, s, t), Operator.proximal(operator, x, y, s, t)
    # Borders weigh half in the closed form of the Gaussian.
    inner = (..., slice(8, -8), slice(8, -8))
    assert (found - general)[inner].abs().max() < 0.01 * (general - x).abs().max()


def test_the_general_solution_is_the_dense_one():
    operator = Enlargement(2.0)
    truth = smooth((6, 8))[:1]
    y, x = operator.on_signed(truth), torch.zeros_like(truth)
    s, t = torch.tensor([0.01]), torch.tensor([0.04])
    basis = torch.eye(truth[0].numel(), dtype=torch.float64).unflatten(1, truth.shape[1:])
    matrix = torch.cat([operator.forward(one[None]).flatten(1) for one in basis]).T
    right = matrix.T @ (y - operator.on_signed(x)).flatten() * 0.04
    dense = torch.linalg.solve(0.04 * matrix.T @ matrix + 0.01 * torch.eye(len(matrix), dtype=torch.float64), right)
    assert torch.allclose((operator.proximal(x, y, s, t) - x).flatten(), dense, atol=1e-3)


def test_identity_and_masks_weigh_pixel_by_pixel():
    x, y = smooth(), smooth().flip(-2)
    s, t = torch.tensor([0.01, 0.02]), torch.tensor([0.03, 0.02])
    share = (t / (t + s)).view(2, 1, 1, 1)
    assert torch.allclose(Identity().proximal(x, y, s, t), x + share * (y - x), atol=1e-3)
    mask = (torch.rand(2, *x.shape[-2:], generator=generator(2)) < 0.5).double()
    found = Inpainting(mask).proximal(x, Inpainting(mask).on_signed(y), s, t)
    kept = mask[:, None].expand_as(x) > 0
    assert torch.allclose(found[~kept], x[~kept])
    assert torch.allclose(found[kept], (x + share * (y - x))[kept], atol=1e-3)


def test_without_an_error_nothing_changes_and_without_noise_the_data_are_met():
    operator, x = shake(), smooth()
    y = operator.on_signed(smooth().flip(-1))
    assert torch.equal(operator.proximal(x, y, torch.full((2,), 0.01), torch.zeros(2)), x)
    met = operator.proximal(x, y, torch.zeros(2), torch.ones(2))
    before, after = ((operator.on_signed(image) - y).square().mean() for image in (x, met))
    assert after < 1e-2 * before


def test_samples_are_solved_by_themselves():
    operator, x = shake(), smooth()
    y = operator.on_signed(x.flip(-1))
    s, t = torch.tensor([1e-4, 1e-2]), torch.tensor([1e-2, 1e-3])
    alone = operator.subset(torch.tensor([False, True])).proximal(x[1:], y[1:], s[1:], t[1:])
    assert torch.allclose(operator.proximal(x, y, s, t)[1:], alone, atol=1e-4)


def test_a_preconditioner_needs_fewer_steps():
    diagonal = torch.logspace(0, 4, 64, dtype=torch.float64).expand(1, -1)
    right = torch.ones(1, 64, dtype=torch.float64)
    exact = right / diagonal
    plain = conjugate_gradient(lambda v: diagonal * v, right, iterations=5)
    helped = conjugate_gradient(lambda v: diagonal * v, right, lambda v: v / diagonal, iterations=5)
    assert (helped - exact).abs().max() < 1e-9 < (plain - exact).abs().max()


def test_a_shake_is_solved_where_the_image_is_hardly_believed():
    """Faint noise and an error of the image a thousand times its variance: where conjugate gradients take longest."""
    blur = MotionBlur(path_kernels(torch.tensor([13.0]), torch.tensor([0.4]), generator(2)))
    truth = smooth((160, 160))[:1].float()
    y = blur.on_signed(truth) + 0.02 * torch.randn(truth.shape, generator=generator(1))
    s, t = torch.tensor([4e-4]), torch.tensor([0.7])
    found = blur.proximal(y, y, s, t)
    right = t * blur.adjoint(y - blur.on_signed(y))
    left = t * blur.adjoint(blur.forward(found - y)) + s * (found - y)
    assert (left - right).norm() < 2e-3 * right.norm()
