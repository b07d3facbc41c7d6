"""Results are looked at before they are written, so that a broken model replaces nothing."""

import pytest
import torch

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.runs.checks import check_numbers, check_result

torch.manual_seed(0)
RAMP = torch.linspace(-1, 1, 32).expand(1, 3, 24, 32)
GREY = torch.full((1, 3, 24, 32), 0.3)


def spoilt(image, value):
    image = image.clone()
    image[0, 1, 3, 5] = value
    return image


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers(value):
    with pytest.raises(FlashdiffError, match="no numbers"):
        check_result(RAMP, spoilt(RAMP, value), filled=True)
    with pytest.raises(FlashdiffError, match="no numbers"):
        check_numbers(RAMP, spoilt(RAMP, value))


@pytest.mark.parametrize(
    ("before", "after"),
    [(RAMP, GREY), (RAMP, -torch.ones_like(RAMP)), (GREY, -torch.ones_like(GREY)), (RAMP, -1e9 - 1e6 * torch.rand_like(RAMP))],
    ids=["grey", "black", "flat to black", "far below black"],
)
def test_one_colour_where_the_picture_is_another(before, after):
    with pytest.raises(FlashdiffError, match="one colour"):
        check_result(before, after)


@pytest.mark.parametrize(
    ("before", "after", "filled"),
    [
        (GREY + 0.2 * torch.randn_like(GREY), GREY, False),  # the noise is gone
        (RAMP, RAMP * 0.9, False),
        (spoilt(torch.ones_like(GREY), -1.0), torch.ones_like(GREY), False),  # a speck is gone
        (RAMP, GREY, True),  # what varied was missing
        (RAMP[..., :1, :1], GREY[..., :1, :1], False),
    ],
)
def test_what_may_well_be(before, after, filled):
    check_result(before, after, filled)
