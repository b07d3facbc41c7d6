"""What all operators have in common: exact adjoints, per-sample parameters, options, sizes."""

import numpy as np
import pytest
import torch
from PIL import Image

from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators import (
    OPERATORS,
    BoxInpainting,
    Composition,
    Downsampling,
    Identity,
)
from flashdiff_cli.operators.blur_network import BlurNetwork
from flashdiff_cli.operators.padding import Margins, fold, pad
from flashdiff_cli.registry import Option, Registry

TINY_NETWORK = {"channels": 4, "front_blocks": 1, "back_blocks": 1, "code_channels": 3, "adapter_channels": [4, 5]}

VALUES = {
    "gaussian-blur": {"blur_std": (0.6, 2.5, 1.3)},
    "identity": {},
    "random-inpainting": {"kept_fraction": (0.3, 0.9, 0.5)},
    "box-inpainting": {"box_fraction": (0.3, 0.8, 0.0)},
    "random-box-inpainting": {"box_area": (0.1, 0.5, 0.3)},
    "gaussian-inpainting": {"mask_std": (1.5, 4.0, 0.0), "mask_power": (4.0, 2.0, 1.0)},
    "mask-inpainting": {"mask_file": "mask.png"},
    "motion-blur": {"blur_length": (4.0, 25.0, 9.0), "blur_shake": (0.0, 1.0, 0.4)},
    "downsampling": {"factor": (3, 3, 3)},
    "enlargement": {"enlarged": (1.0, 2.0, 3.4)},
    "jpeg": {"jpeg_quality": (20.0, 50.0, 90.0)},
    "nonlinear-blur": {"weights": "network", "kernel_scale": (1.2, 0.4, 2.0)},
    "random-inpainting+gaussian-blur": {"kept_fraction": (0.3, 0.9, 0.5), "blur_std": (0.6, 2.5, 1.3)},
    "motion-blur+downsampling+box-inpainting": {"factor": (2, 2, 2), "box_fraction": (0.2, 0.5, 0.7)},
}
"""Parameters of three samples by operator; files are named as `folder` makes them."""

LINEAR = [name for name in VALUES if OPERATORS[name].linear]
SIZES = [(16, 16), (8, 8), (13, 22), (5, 3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("operators")
    torch.manual_seed(0)
    BlurNetwork(**TINY_NETWORK).save_pretrained(folder / "network")
    return folder


def prepared(name, size, folder, sample=None):
    """The values of one operator (of one sample of the three), its files written."""
    values = dict(VALUES[name])
    if "mask_file" in values:
        values["mask_file"] = str(folder / "mask-{}x{}.png".format(*size))
        pixels = np.random.default_rng(1).random(size) < 0.6
        Image.fromarray((255 * pixels).astype(np.uint8)).save(values["mask_file"])
    if "weights" in values:
        values["weights"] = str(folder / values["weights"])
    pick = (lambda v: v[sample]) if sample is not None else (lambda v: torch.tensor(v))
    return {k: pick(v) if isinstance(v, tuple) else v for k, v in values.items()}


def single(name, size, folder, seed=0, sample=1):
    return OPERATORS[name].from_options(size, seed, **prepared(name, size, folder, sample))


def batch(name, size, folder, seed=0):
    return OPERATORS[name].batch(size, torch.Generator().manual_seed(seed), **prepared(name, size, folder))


def image(size, count=3, dtype=torch.float64, seed=5):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_every_registered_operator_is_tested():
    assert set(OPERATORS) == {name for name in VALUES if "+" not in name}


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-11), (torch.float32, 1e-5)])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", LINEAR)
def test_the_adjoint_is_exact(name, size, dtype, tolerance, folder):
    operator = batch(name, size, folder)
    x = image(size, dtype=dtype)
    ax = operator.forward(x)
    assert ax.shape[-2:] == operator.measured_size(size)
    y = image(ax.shape[-2:], dtype=dtype, seed=6)
    left, right = (ax * y).double().flatten(1).sum(1), (x * operator.adjoint(y)).double().flatten(1).sum(1)
    assert ((left - right).abs() <= tolerance * left.abs()).all()
    assert operator.adjoint(y).shape == x.shape


@pytest.mark.parametrize("size", [(13, 22), (5, 3)], ids=str)
@pytest.mark.parametrize("name", LINEAR)
def test_the_adjoint_is_what_autograd_finds_and_is_itself_differentiable(name, size, folder):
    operator = batch(name, size, folder)
    x = image(size).requires_grad_()
    ax = operator.forward(x)
    y = image(ax.shape[-2:], seed=6).requires_grad_()
    (pulled,) = torch.autograd.grad((ax * y.detach()).sum(), x)
    torch.testing.assert_close(operator.adjoint(y), pulled, rtol=1e-10, atol=1e-12)
    (pushed,) = torch.autograd.grad((operator.adjoint(y) * x.detach()).sum(), y)
    torch.testing.assert_close(pushed, ax.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operators_are_linear(name, folder):
    operator, size = batch(name, (13, 22), folder), (13, 22)
    a, b = image(size), image(size, seed=9)
    torch.testing.assert_close(operator.forward(2 * a - 3 * b), 2 * operator.forward(a) - 3 * operator.forward(b))


@pytest.mark.parametrize("name", VALUES)
def test_a_batch_gives_what_single_runs_give(name, folder):
    size = (13, 22)
    operator, x = batch(name, size, folder), image(size)
    together = operator.forward(x)
    y = image(together.shape[-2:], seed=6)
    for i in range(3):
        alone = operator.subset(torch.arange(3) == i)
        torch.testing.assert_close(alone.forward(x[i : i + 1])[0], together[i], rtol=1e-6, atol=1e-7)
        assert alone.describe() == operator.describe(i)
        if operator.linear:
            torch.testing.assert_close(alone.adjoint(y[i : i + 1])[0], operator.adjoint(y)[i], rtol=1e-6, atol=1e-7)
    pair = operator.subset(torch.tensor([True, False, True]))
    torch.testing.assert_close(pair.forward(x[[0, 2]]), together[[0, 2]], rtol=1e-6, atol=1e-7)
    assert pair.describe(1) == operator.describe(2)


@pytest.mark.parametrize("name", VALUES)
def test_one_parameter_stands_for_any_batch(name, folder):
    operator, x = single(name, (13, 22), folder), image((13, 22))
    whole = operator.forward(x)
    torch.testing.assert_close(operator.forward(x[2:])[0], whole[2], rtol=1e-6, atol=1e-7)
    kept = operator.subset(torch.tensor([False, True, True]))
    torch.testing.assert_close(kept.forward(x[1:]), whole[1:], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", VALUES)
def test_an_operator_can_be_built_again_from_its_description(name, folder):
    operator, x = single(name, (13, 22), folder, seed=4), image((13, 22))
    again = OPERATORS[name].from_options((13, 22), 4, **operator.describe())
    torch.testing.assert_close(again.forward(x), operator.forward(x))
    assert again.name == operator.name == name


@pytest.mark.parametrize(
    "name",
    ["random-inpainting", "random-box-inpainting", "motion-blur", "nonlinear-blur", "random-inpainting+gaussian-blur"],
)
def test_draws_are_frozen_and_follow_the_seed(name, folder):
    x, operator = image((16, 16)), single(name, (16, 16), folder, seed=1)
    assert torch.equal(operator.forward(x), operator.forward(x))
    assert torch.equal(operator.forward(x), single(name, (16, 16), folder, seed=1).forward(x))
    assert not torch.allclose(operator.forward(x), single(name, (16, 16), folder, seed=2).forward(x))
    values = {k: torch.tensor([v, v]) if isinstance(v, float) else v for k, v in prepared(name, (16, 16), folder, 0).items()}
    twins = OPERATORS[name].batch((16, 16), torch.Generator().manual_seed(0), **values)
    one, other = twins.forward(x[:1].expand(2, -1, -1, -1))
    assert not torch.allclose(one, other), "each member of a batch has its own draw"


@pytest.mark.parametrize("name", VALUES)
def test_half_precision_in_gives_half_precision_out(name, folder):
    operator, x = single(name, (16, 16), folder), image((16, 16), dtype=torch.bfloat16)
    y = operator.forward(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), operator.forward(x.float()), rtol=0.03, atol=0.03)
    if operator.linear:
        assert operator.adjoint(y).dtype == torch.bfloat16


@pytest.mark.parametrize("name", VALUES)
def test_options_are_checked(name, folder):
    values = prepared(name, (16, 16), folder, 1)
    with pytest.raises(UsageError, match="`no_such` does not go with `operator`"):
        OPERATORS[name].from_options((16, 16), 0, **values, no_such=1)
    with pytest.raises(UsageError, match="`no_such` does not go with `operator`"):
        OPERATORS[name].batch((16, 16), torch.Generator(), **values, no_such=1)
    for option in OPERATORS[name].options:
        if option.default is None:
            rest = {k: v for k, v in values.items() if k != option.name}
            with pytest.raises(UsageError, match=f"`{option.name}` is needed"):
                OPERATORS[name].from_options((16, 16), 0, **rest)
            with pytest.raises(UsageError, match=f"`{option.name}` is needed"):
                OPERATORS[name].batch((16, 16), torch.Generator(), **rest)
        if option.maximum is not None:
            with pytest.raises(UsageError, match=f"out of range; give a number from {option.minimum:g}"):
                OPERATORS[name].from_options((16, 16), 0, **(values | {option.name: option.maximum + 1}))
            with pytest.raises(UsageError, match="out of range"):
                OPERATORS[name].from_options((16, 16), 0, **(values | {option.name: option.minimum - 1}))


def test_options_say_what_is_wrong():
    with pytest.raises(UsageError, match="`filter` 'sinc' is unknown; choose from bicubic, box"):
        OPERATORS["downsampling"].from_options((8, 8), 0, factor=2, filter="sinc")
    with pytest.raises(UsageError, match="`blur_std` 'much' is not a float"):
        OPERATORS["gaussian-blur"].from_options((8, 8), 0, blur_std="much")
    with pytest.raises(UsageError, match="`blur_std` nan is out of range"):
        OPERATORS["gaussian-blur"].from_options((8, 8), 0, blur_std=float("nan"))
    with pytest.raises(UsageError, match="of at least 1"):
        Option("some", float, "", None, 1.0).parse(0.5)
    with pytest.raises(UsageError, match="unknown operator 'fog'; choose from .*motion-blur"):
        OPERATORS["gaussian-blur+fog"]
    assert "gaussian-blur+identity" in OPERATORS and "gaussian-blur+fog" not in OPERATORS
    registry = Registry("thing")
    registry.add(Identity)
    with pytest.raises(ValueError, match="already registered"):
        registry.add(Identity)


def test_a_measurement_is_the_operator_on_intensities_plus_noise():
    x = 2 * image((64, 64), 2, torch.float32) - 1
    generators = lambda: [torch.Generator().manual_seed(i) for i in range(2)]
    operator = BoxInpainting(0.5, (64, 64))
    y = operator.measure(x, torch.tensor([0.05, 0.2]), generators())
    clean = operator.measure(x, 0.0, generators())
    assert torch.equal(clean[..., 16:48, 16:48], torch.full((2, 3, 32, 32), -1.0)), "dropped intensities are 0"
    torch.testing.assert_close(clean[..., :16, :], x[..., :16, :])
    noise = (y - clean).flatten(1).std(1)
    torch.testing.assert_close(noise, torch.tensor([0.1, 0.4]), rtol=0.03, atol=0)
    alone = operator.measure(x[1:], 0.2, generators()[1:])
    assert torch.equal(alone[0], y[1])


# Borders


@pytest.mark.parametrize("size", [(9, 6), (3, 2), (1, 4)], ids=str)
@pytest.mark.parametrize("margins", [(0, 0, 0, 0), (2, 0, 1, 5), (7, 8, 11, 3)], ids=str)
def test_mirrored_borders(size, margins):
    x = image(size, 1)
    top, bottom, left, right = margins
    expected = np.pad(x[0, 0].numpy(), ((top, bottom), (left, right)), mode="reflect")
    padded = pad(x, Margins(*margins))
    np.testing.assert_array_equal(padded[0, 0].numpy(), expected)
    for mode, repeat_edge in (("reflect", False), ("symmetric", True)):
        y = image(padded.shape[-2:], 1, seed=6)
        mirrored = np.pad(x[0, 0].numpy(), ((top, bottom), (left, right)), mode=mode)
        folded = fold(y, Margins(*margins), repeat_edge)[0, 0].numpy()
        assert (mirrored * y[0, 0].numpy()).sum() == pytest.approx((x[0, 0].numpy() * folded).sum(), rel=1e-12)


@pytest.mark.parametrize("name", [n for n in VALUES if "inpainting" in n and "+" not in n] + ["identity"])
def test_an_extended_operator_measures_padded_images(name, folder):
    operator, x = single(name, (13, 22), folder), image((13, 22))
    margins = Margins(0, 3, 0, 10)
    torch.testing.assert_close(operator.extend((16, 32)).forward(pad(x, margins)), pad(operator.forward(x), margins))


def test_extending_keeps_to_the_size():
    chained = Composition(Downsampling(2, (12, 20)), BoxInpainting(0.5, (6, 10))).extend((16, 24))
    assert chained.forward(image((16, 24))).shape[-2:] == (8, 12)
    with pytest.raises(UsageError, match="larger than 8 x 8"):
        BoxInpainting(0.5, (9, 9)).extend((8, 8))
    with pytest.raises(UsageError, match="cannot be extended"):
        Downsampling(2, (12, 20)).extend((12, 18))


def test_what_is_not_linear_has_no_adjoint(folder):
    network = single("nonlinear-blur", (8, 8), folder)
    assert not network.linear and not OPERATORS["identity+nonlinear-blur"].linear
    for operator in (network, Composition(Identity(), network)):
        assert not operator.linear
        with pytest.raises(UsageError, match="is not linear, so it has no adjoint"):
            operator.adjoint(image((8, 8)))
