"""Noise in pictures that seem to suffer from nothing: found where they are smooth, and left to the network of mixtures."""

import pytest
import torch

from flashdiff_cli.diagnosis import Diagnosis
from flashdiff_cli.operators import Identity
from flashdiff_cli.second_look import NOISY, SMALLEST, hidden_noise, look_again
from flashdiff_cli.severity import SeverityEstimate
from tests.test_kernel import drawing

SEEN = Diagnosis("none", Identity(), 0.001, {"none": 0.97, "noise": 0.01})


class Smoother:
    """Stands for a network of mixtures: takes away what it was made with."""

    def __init__(self, removed):
        self.removed, self.asked = removed, 0

    def restore(self, image, measurement, operator, noise_std):
        assert operator is None
        self.asked += 1
        return measurement - self.removed


class Estimate:
    estimate = SeverityEstimate(torch.zeros(1, 4, 8, 8), torch.ones(1))
    decoded = torch.zeros(1, 3, 64, 64)


def noise(std, side=64, seed=0):
    """Of neighbours that are alike, as enlarged noise is."""
    small = torch.randn(1, 3, side // 2, side // 2, generator=torch.Generator().manual_seed(seed))
    return 2 * std * torch.nn.functional.interpolate(small, scale_factor=2)


@pytest.mark.parametrize("std", [0.01, 0.05])
def test_what_is_taken_away_from_smooth_blocks_is_noise(std):
    x = drawing(64, seed=3)
    assert hidden_noise(x + noise(std), x) == pytest.approx(std, rel=0.25)
    # Texture in half of the picture is no noise; small pictures have a block that is not whole.
    texture = noise(std)
    texture[..., :40] = 0
    assert hidden_noise(x + texture, x) == 0
    assert hidden_noise((x + noise(std))[..., :20, :12], x[..., :20, :12]) == pytest.approx(std, rel=0.5)


def test_a_picture_with_noise_that_does_not_look_like_it_is_restored_without_an_operator():
    x = drawing(64, seed=3)
    looks = {
        "noisy": look_again(SEEN, x, lambda part, kind: Estimate(), None, Smoother(noise(2 * NOISY)), 8),
        "clean": look_again(SEEN, x, lambda part, kind: Estimate(), None, Smoother(noise(NOISY / 3)), 8),
    }
    assert looks["noisy"].kind == "noise" and looks["noisy"].noise_std == pytest.approx(2 * NOISY, rel=0.25)
    assert looks["noisy"].doubted and looks["noisy"].mixed and looks["noisy"].uncertain and looks["noisy"].start_step == 0
    assert not looks["noisy"].with_rounding(0.02).share.any(), "nothing is mixed in"
    assert looks["clean"] is SEEN


def test_only_what_seems_clean_is_looked_at_and_only_with_a_network_for_it():
    never, found = Smoother(torch.zeros(1)), Diagnosis("jpeg", Identity(), 0.0, {"jpeg": 0.9})
    x = drawing(64, seed=3)
    assert look_again(found, x, lambda part, kind: Estimate(), None, never, 8) is found and not never.asked
    assert look_again(SEEN, x, lambda part, kind: Estimate(), None, None, 8) is SEEN
    assert look_again(SEEN, x[..., : SMALLEST - 8], lambda part, kind: Estimate(), None, never, 8) is SEEN and not never.asked
