"""deepinv's physics as operators and a restoration as its reconstructor; run where deepinv is installed."""

import pytest
import torch
from tiny import tiny_pipeline

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.operators import GaussianBlur

SIZE = (32, 32)


def physics(kind):
    deepinv = pytest.importorskip("deepinv", exc_type=ImportError)
    noise = deepinv.physics.GaussianNoise(0.03)
    if kind == "blur":
        return deepinv.physics.Blur(filter=deepinv.physics.blur.gaussian_blur(1.0), padding="circular", noise_model=noise)
    if kind == "mask":
        return deepinv.physics.Inpainting((3, *SIZE), mask=0.6, noise_model=noise)
    return deepinv.physics.Downsampling((3, *SIZE), factor=2, noise_model=noise)


@pytest.mark.parametrize("kind", ["blur", "mask", "smaller"])
def test_physics_are_linear_operators(kind):
    from flashdiff_cli.with_deepinv import PhysicsOperator

    operator = PhysicsOperator(physics(kind), SIZE)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, *SIZE, generator=generator)
    y = torch.rand(2, 3, *operator.measured_size(SIZE), generator=generator)
    assert torch.allclose(operator.forward(x), operator.physics.A(x))
    assert (operator.forward(x) * y).sum().item() == pytest.approx((x * operator.adjoint(y)).sum().item(), rel=1e-3)
    assert operator.noise_std == pytest.approx(0.03)
    result = tiny_pipeline("kl")(operator.measure(2 * x - 1, 0.03, [generator] * 2), operator, 0.03, steps=10, start_step=2, solver="psld")
    assert result.images.shape == (2, 3, *SIZE) and torch.isfinite(result.images).all()


def test_a_restoration_is_a_reconstructor():
    blur = physics("blur")
    import deepinv

    from flashdiff_cli.with_deepinv import make_reconstructor

    pipe = tiny_pipeline("kl")
    model = make_reconstructor(pipe, steps=10, start_step=2, generator=torch.Generator().manual_seed(0))
    assert isinstance(model, deepinv.models.Reconstructor)
    y = blur(torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(1)))
    images = model(y, blur)
    assert images.shape == (1, 3, *SIZE) and images.min() >= 0 and images.max() <= 1


def test_what_is_no_linear_physics_is_said():
    blur = physics("blur")
    from flashdiff_cli.with_deepinv import PhysicsOperator

    with pytest.raises(UsageError, match="no LinearPhysics"):
        PhysicsOperator(GaussianBlur(1.0), SIZE)
    assert PhysicsOperator.stack([PhysicsOperator(blur, SIZE)] * 2).physics is blur


def test_without_deepinv_one_line_says_so(monkeypatch):
    import sys

    from flashdiff_cli.with_deepinv import make_reconstructor

    monkeypatch.setitem(sys.modules, "deepinv", None)
    with pytest.raises(FlashdiffError, match=r"flashdiff\[deepinv\]"):
        make_reconstructor(tiny_pipeline("kl"))
