"""Operators of one sample each, joined to one of many: a batch does what single runs do."""

import pytest
import torch
from test_nonlinear_blur import network as tiny_network

from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators import (
    OPERATORS,
    Composition,
    Downsampling,
    GaussianBlur,
    Identity,
    MotionBlur,
    NonlinearBlur,
    Operator,
)

SIZE = (32, 40)
EACH = [
    ("gaussian-blur", [{"blur_std": v} for v in (0.4, 2.7, 1.3)]),
    ("motion-blur", [{"blur_length": v} for v in (3.0, 30.0, 12.0)]),
    ("random-inpainting", [{"kept_fraction": v} for v in (0.2, 0.9, 0.5)]),
    ("box-inpainting", [{"box_fraction": v} for v in (0.2, 0.6, 0.0)]),
    ("random-box-inpainting", [{"box_area": v} for v in (0.1, 0.5, 0.3)]),
    ("gaussian-inpainting", [{"mask_std": v} for v in (2.0, 9.0, 0.0)]),
    ("downsampling", [{"factor": 2}] * 3),
    ("identity", [{}] * 3),
    ("gaussian-blur+random-inpainting", [{"blur_std": v, "kept_fraction": v / 3} for v in (0.5, 2.5, 1.5)]),
]


def close(a, b):
    return torch.allclose(a, b, atol=2e-6)


@pytest.mark.parametrize("name, options", EACH)
def test_a_stack_does_what_each_does_alone(name, options):
    alone = [OPERATORS[name].from_options(SIZE, seed, **values) for seed, values in enumerate(options)]
    together = Operator.stack(alone)
    x = torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    y = together.forward(x)
    assert close(y, torch.cat([o.forward(x[i : i + 1]) for i, o in enumerate(alone)]))
    assert close(together.adjoint(y), torch.cat([o.adjoint(y[i : i + 1]) for i, o in enumerate(alone)]))
    assert [together.describe(i) for i in range(3)] == [o.describe() for o in alone]
    last = together.subset(torch.tensor([False, False, True]))
    assert close(last.forward(x[2:]), alone[2].forward(x[2:]))


def test_a_stack_of_nonlinear_blurs(tmp_path):
    network = tiny_network()
    codes = torch.randn(2, network.config.code_channels, 2, 2, generator=torch.Generator().manual_seed(1))
    alone = [NonlinearBlur(network, codes[i : i + 1], 1.0 + i) for i in range(2)]
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    together = Operator.stack(alone)
    assert close(together.forward(x), torch.cat([o.forward(x[i : i + 1]) for i, o in enumerate(alone)]))
    assert together.describe(1)["kernel_scale"] == 2.0
    with pytest.raises(UsageError, match="networks"):
        Operator.stack([alone[0], NonlinearBlur(tiny_network(), codes[:1])])


def test_one_operator_is_its_own_stack():
    blur = GaussianBlur(1.0)
    assert Operator.stack([blur]) is blur


@pytest.mark.parametrize(
    "operators",
    [
        [GaussianBlur(1.0), Identity()],
        [GaussianBlur(1.0), GaussianBlur(1.0, "reference")],
        [Downsampling(2, SIZE), Downsampling(4, SIZE)],
        [MotionBlur(torch.ones(1, 3, 3) / 9), MotionBlur(torch.ones(1, 3, 3) / 9, kernel_file="k.png")],
        [OPERATORS["box-inpainting"].from_options(s, 0, box_fraction=0.5) for s in (SIZE, (16, 16))],
        [Composition(Identity()), Composition(Identity(), Identity())],
    ],
)
def test_what_cannot_share_a_batch_says_so(operators):
    with pytest.raises(UsageError, match="one by one"):
        Operator.stack(operators)


def test_a_kind_without_a_stack_of_its_own_says_so():
    class Odd(Identity):
        name = "odd"
        _stack = classmethod(Operator._stack.__func__)

    with pytest.raises(UsageError, match="odd"):
        Operator.stack([Odd(), Odd()])
