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
    return deepinv.physics.Downsampling((3, *SIZE), filter="bicubic", factor=2, noise_model=noise)


@pytest.mark.parametrize("kind", ["blur", "mask", "smaller"])
def test_physics_are_linear_operators(kind):
    from flashdiff_cli.with_deepinv import PhysicsOperator

    operator = PhysicsOperator(physics(kind), SIZE)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, *SIZE, generator=generator)
    y = torch.rand(2, 3, *operator.measured_size(SIZE), generator=generator)
    assert torch.allclose(operator.forward(x), operator.physics.A(x))
    assert (operator.forward(x) * y).sum().item() == pytest.approx((x * operator.adjoint(y)).sum().item(), rel=1e-3)
    assert operator.noise_std.item() == pytest.approx(0.03)
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
    with pytest.raises(UsageError, match="different physics"):
        PhysicsOperator.stack([PhysicsOperator(blur, SIZE), PhysicsOperator(physics("blur"), SIZE)])
    import deepinv

    several = deepinv.physics.Inpainting((3, *SIZE), mask=torch.ones(2, 3, *SIZE))
    with pytest.raises(UsageError, match="2 different samples"):
        PhysicsOperator(several, SIZE)
    with pytest.raises(UsageError, match="three channels"):
        PhysicsOperator(deepinv.physics.Decolorize(), SIZE)


def test_the_noise_is_the_physics_own():
    blur = physics("blur")
    import deepinv

    from flashdiff_cli.with_deepinv import PhysicsOperator

    for noise, expected in (
        (deepinv.physics.GaussianNoise(torch.tensor([0.02, 0.04])), [0.02, 0.04]),
        (deepinv.physics.ZeroNoise(), [0.0]),
        (deepinv.physics.PoissonNoise(0.1), None),
    ):
        blur.noise_model = noise
        found = PhysicsOperator(blur, SIZE).noise_std
        assert found is None if expected is None else found.tolist() == pytest.approx(expected)


def test_guided_steps_bring_a_restoration_nearer_to_its_measurement():
    """The data term is the physics' own: an encoder's estimate is moved towards y by the steps."""
    blur = physics("blur")
    from flashdiff_cli.with_deepinv import PhysicsOperator, make_reconstructor

    pipe = tiny_pipeline("kl")
    x = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    y = blur(x)
    misses = {}
    for solver in ("unguided", "ldps"):
        model = make_reconstructor(pipe, steps=10, start_step=4, solver=solver, generator=torch.Generator().manual_seed(0))
        misses[solver] = (blur.A(model(y, blur)) - y).square().mean().item()
    assert misses["ldps"] < misses["unguided"]
    with pytest.raises(UsageError, match="multiples"):
        make_reconstructor(pipe)(y[..., :30], blur)
    assert PhysicsOperator(blur, SIZE).describe() == {"physics": "Blur"}


def test_without_deepinv_one_line_says_so(monkeypatch):
    import sys

    from flashdiff_cli.with_deepinv import make_reconstructor

    monkeypatch.setitem(sys.modules, "deepinv", None)
    with pytest.raises(FlashdiffError, match=r"flashdiff\[deepinv\]"):
        make_reconstructor(tiny_pipeline("kl"))
