"""Severity and width from the reconstruction: the terms, their limits, and their place in the pipeline."""

import math

import pytest
import torch
from tiny import tiny_pipeline

from flashdiff_cli.calibration import (
    TERMS,
    VARIANCE_LIMITS,
    WIDTH_LIMITS,
    BlurFeatures,
    calibrated_variance,
    calibrated_width,
    mean_gradient,
    terms,
)
from flashdiff_cli.operators.estimate import fit_blur, noise_level

BOUNDS = [[-1.0, 1.0], [-4.0, -1.0], [-5.0, 0.0], [-6.0, 2.0]]
CALIBRATION = {
    "variance": [0.5, 1.0, 0.1, 0.7, 0.3, 0.25, 0.0, 0.2, 0.0, 0.0, 0.0, 0.0, 0.05, 0.0, 0.04],
    "width": [0.2, 1.0] + [0.0] * 13,
    "bounds": BOUNDS,
}


def blur_features(*rows):
    return BlurFeatures(*(torch.tensor(column) for column in zip(*rows, strict=True)))


def test_the_mean_gradient_of_a_ramp():
    ramp = torch.linspace(-1, 1, 21).expand(2, 3, 5, 21)
    assert mean_gradient(ramp) == pytest.approx([0.1, 0.1])


def test_terms_by_hand_and_clamped_outside_the_fit():
    found = terms(blur_features((2.0, 0.045, 0.1, 0.5), (100.0, 0.0, 1e3, 0.0)), BOUNDS)
    x, n, g, v = math.log(2), math.log(0.05), math.log(0.102), math.log(0.500001)
    assert found.shape == (2, TERMS)
    pairs = [x * x, x * n, x * g, x * v, n * n, n * g, n * v, g * g, g * v, v * v]
    assert found[0].tolist() == pytest.approx([1, x, n, g, v, *pairs], rel=1e-5)
    assert found[1].tolist() == pytest.approx([1, 1, -4, 0, -6, 1, -4, 0, -6, 16, 0, 24, 0, 0, 36])


def test_variance_and_width_by_hand_and_within_limits():
    one = blur_features((2.0, 0.045, 0.1, 0.5))
    x, n, g, v = math.log(2), math.log(0.05), math.log(0.102), math.log(0.500001)
    expected = math.exp(0.5 + x + 0.1 * n + 0.7 * g + 0.3 * v + 0.25 * x * x + 0.2 * x * g + 0.05 * g * g + 0.04 * v * v)
    assert calibrated_variance(one, CALIBRATION).item() == pytest.approx(expected, rel=1e-5)
    assert calibrated_width(one, CALIBRATION).item() == pytest.approx(2 * math.exp(0.2), rel=1e-5)
    for constant, end in ((-1e4, 0), (1e4, 1)):
        extreme = {"variance": [constant] + [0.0] * 14, "width": [constant] + [0.0] * 14, "bounds": BOUNDS}
        assert calibrated_variance(one, extreme).item() == pytest.approx(VARIANCE_LIMITS[end])
        assert calibrated_width(one, extreme).item() == pytest.approx(WIDTH_LIMITS[end])
    flat = blur_features((0.2, 0.0, 0.0, 0.0))
    assert calibrated_variance(flat, CALIBRATION).isfinite().all()


def test_the_pipeline_uses_it_for_the_encoder_that_has_one():
    plain = tiny_pipeline()
    pipe = tiny_pipeline(defaults={"calibration": {"severity": CALIBRATION}})
    y = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) / 2
    found, own = pipe.analyse(y), plain.analyse(y)
    shown = BlurFeatures(fit_blur(y, found.decoded), noise_level(y), mean_gradient(found.decoded), own.variance)
    assert torch.equal(found.latent, own.latent) and own.blur_features is None
    assert torch.equal(found.variance, calibrated_variance(shown, CALIBRATION))
    assert not torch.equal(found.variance, own.variance)
    alone = torch.cat([pipe.analyse(y[i : i + 1]).variance for i in range(2)])
    assert torch.allclose(alone, found.variance, rtol=1e-4)
    operator, noise_std = pipe.estimate_operator(y, found)
    assert torch.equal(operator.blur_std, calibrated_width(shown, CALIBRATION)) and torch.equal(noise_std, noise_level(y))
    assert torch.equal(plain.estimate_operator(y, own)[0].blur_std, shown.width)
