"""Severity from the reconstruction: its terms, its limits, and its place in the pipeline."""

import math

import pytest
import torch
from tiny import tiny_pipeline

from flashdiff_cli.calibration import HIGHEST, LOWEST, calibrated_variance, mean_gradient, terms
from flashdiff_cli.operators.estimate import fit_blur, noise_level

CALIBRATION = {"coefficients": [0.5, 1.0, 0.25, 0.1, 0.7], "log_width": [-1.0, 1.0]}


def test_the_mean_gradient_of_a_ramp():
    ramp = torch.linspace(-1, 1, 21).expand(2, 3, 5, 21)
    assert mean_gradient(ramp) == pytest.approx([0.1, 0.1])


def test_terms_by_hand():
    ramp = torch.linspace(-1, 1, 21).expand(2, 3, 5, 21)
    found = terms(torch.tensor([2.0, 100.0]), torch.tensor([0.045, 0.0]), ramp, (-1.0, 1.0))
    assert found[0].tolist() == pytest.approx([1, math.log(2), math.log(2) ** 2, math.log(0.05), math.log(0.102)], rel=1e-4)
    assert found[1, :3].tolist() == [1, 1, 1]


def test_the_variance_by_hand_and_within_limits():
    ramp = torch.linspace(-1, 1, 21).expand(1, 3, 5, 21)
    x = math.log(2)
    expected = math.exp(0.5 + x + 0.25 * x * x + 0.1 * math.log(0.05) + 0.7 * math.log(0.102))
    one = torch.tensor([2.0]), torch.tensor([0.045]), ramp
    assert calibrated_variance(*one, CALIBRATION).item() == pytest.approx(expected, rel=1e-5)
    for constant, limit in ((1e4, HIGHEST), (-1e4, LOWEST)):
        extreme = CALIBRATION | {"coefficients": [constant, 0, 0, 0, 0]}
        assert calibrated_variance(*one, extreme).item() == pytest.approx(limit)
    flat = calibrated_variance(torch.tensor([0.2]), torch.tensor([0.0]), torch.zeros(1, 3, 8, 8), CALIBRATION)
    assert flat.isfinite().all() and flat > 0


def test_the_pipeline_uses_it_for_the_encoder_that_has_one():
    plain = tiny_pipeline()
    pipe = tiny_pipeline(defaults={"severity_calibration": {"severity": CALIBRATION}})
    y = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) / 2
    found, own = pipe.analyse(y), plain.analyse(y)
    width = fit_blur(y, found.decoded)
    assert torch.equal(found.latent, own.latent) and own.width is None
    assert torch.equal(found.width, width)
    assert torch.equal(found.variance, calibrated_variance(width, noise_level(y), found.decoded, CALIBRATION))
    assert not torch.equal(found.variance, own.variance)
    alone = torch.cat([pipe.analyse(y[i : i + 1]).variance for i in range(2)])
    assert torch.allclose(alone, found.variance, rtol=1e-4)
    operator, _ = pipe.estimate_operator(y, found)
    assert torch.allclose(operator.blur_std, plain.estimate_operator(y, own)[0].blur_std)
