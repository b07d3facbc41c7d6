"""The operators against what the paper's reference implementation computes."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from flashdiff_cli.models.convert import convert_nonlinear_blur
from flashdiff_cli.models.kernel_wizard import convert_state_dict
from flashdiff_cli.operators import OPERATORS, BoxInpainting, GaussianBlur, GaussianInpainting, NonlinearBlur
from flashdiff_cli.operators.nonlinear_blur import load_network

TOLERANCE = 1e-4


def relative_error(value, expected):
    assert value.shape == expected.shape
    return ((value - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()


def references(parity, prefix):
    """(tensors, cases, degradation level, tensor) of all tensors named prefix + level, in every folder of results."""
    found = []
    for path in sorted(parity.glob("*/cases.json")):
        expected, cases = load_file(path.with_name("expected.safetensors")), json.loads(path.read_text())
        for name, value in expected.items():
            if match := re.fullmatch(re.escape(prefix) + r"([\d.]+)", name):
                found.append((expected, cases, float(match[1]), value))
    assert found, f"no tensor in {parity} is named {prefix}..."
    return found


def blur_std(case, t):
    """The reference's width at a degradation level: "0.3 + (3.0-0.3)*t" in the cases' own words."""
    low, high, base = map(float, re.fullmatch(r"([\d.]+) \+ \(([\d.]+)-([\d.]+)\)\*t", case["std_of_t"]).groups())
    assert low == base
    return low + (high - low) * t


def test_gaussian_blur(parity):
    for expected, cases, t, value in references(parity, "operator.gaussian_blur.t"):
        x = (expected["image"] + 1) / 2
        operator = GaussianBlur(blur_std(cases["gaussian_blur"], t))
        assert relative_error(operator.forward(x), value) <= TOLERANCE


def test_the_reference_adjoint_of_the_gaussian_blur_and_the_exact_one(parity):
    for expected, cases, t, value in references(parity, "operator.gaussian_blur.transpose.t"):
        x = (expected["image"] + 1) / 2
        std = blur_std(cases["gaussian_blur"], t)
        assert relative_error(GaussianBlur(std, adjoint_rule="reference").adjoint(x), value) <= TOLERANCE
        exact = GaussianBlur(std)
        assert relative_error(exact.adjoint(x), value) > TOLERANCE, "the reference's is off at the borders"
        ax, y = exact.forward(x).double(), x.flip(-1)
        inner = (ax * y).sum()
        assert abs(inner - (x.double() * exact.adjoint(y)).sum()) <= 1e-5 * inner


def test_random_masks(parity):
    for _, cases, t, value in references(parity, "operator.inpainting.random.mask.t"):
        case = cases["inpainting.random"]
        low, high = case["mask_min_ratio"], case["mask_max_ratio"]
        kept = high - (high - low) * t
        operator = OPERATORS["random-inpainting"].from_options(tuple(value.shape), 0, kept_fraction=kept)
        assert torch.equal(operator.mask[0, 0], value)


def test_box_masks(parity):
    for _, cases, t, value in references(parity, "operator.inpainting.box.mask.t"):
        side = t * cases["inpainting.box"]["box_size"]
        operator = BoxInpainting(side / min(value.shape), tuple(value.shape))
        assert torch.equal(operator.mask[0, 0], value)


def test_gaussian_masks(parity):
    for _, cases, t, value in references(parity, "operator.inpainting.gaussian.mask.t"):
        case = cases["inpainting.gaussian"]
        # The reference leaves the image whole at level 0, whatever the least width.
        std = case["mask_min_std"] + (case["mask_max_std"] - case["mask_min_std"]) * t if t > 0 else 0.0
        operator = GaussianInpainting(std, tuple(value.shape), case["mask_pow"])
        assert relative_error(operator.mask[0, 0], value) <= TOLERANCE


@pytest.fixture(scope="module")
def nonlinear(parity):
    folder = parity / "nonlinear_blur"
    return (
        torch.load(folder / "weights.pth", weights_only=True),
        json.loads((folder / "options.json").read_text()),
        load_file(folder / "expected.safetensors"),
    )


def test_the_nonlinear_blur(parity, nonlinear, tmp_path):
    state, options, expected = nonlinear
    config, converted = convert_state_dict(state)
    assert (config["in_channels"], config["channels"]) == (options["input_nc"], options["nf"])
    assert (config["front_blocks"], config["back_blocks"]) == (options["front_RBs"], options["back_RBs"])
    assert config["code_channels"] == options["kernel_dim"] and len(config["adapter_channels"]) == 5
    done = convert_nonlinear_blur(parity / "nonlinear_blur" / "weights.pth", tmp_path / "blur")
    assert done.tensors == len(converted)
    operator = NonlinearBlur(load_network(str(tmp_path / "blur")), expected["kernel_code"])
    assert relative_error(operator.forward(expected["image_01"]), expected["adapt_kernel"]) <= TOLERANCE


def test_every_tensor_of_the_nonlinear_blur_is_used(nonlinear):
    state, _, _ = nonlinear
    _, converted = convert_state_dict(state)
    left = len([key for key in state if not key.startswith("kernel_extractor.")])
    assert len(converted) == left
    assert {id(value) for value in converted.values()} <= {id(value) for value in state.values()}
