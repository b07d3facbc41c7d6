"""Filling what is missing: nothing else changes, whatever is hidden there has no say, and a ramp goes on."""

import pytest
import torch

from flashdiff_cli.pictures.fill import fill_smoothly


def ramp(height=40, width=56):
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x / width, y / height, (x + y) / (width + height)])[None].float()


@pytest.mark.parametrize("hidden", [0.0, 99.0, float("nan"), float("inf")])
def test_what_is_hidden_has_no_say(hidden):
    image, missing = ramp(), torch.zeros(40, 56, dtype=torch.bool)
    missing[7:30, 20:41] = True
    filled = fill_smoothly(torch.where(missing, hidden, image), missing)
    assert torch.equal(filled[..., ~missing], image[..., ~missing])
    assert (filled - image).abs().max() < 0.15 and torch.equal(filled, fill_smoothly(torch.where(missing, -5.0, image), missing))


@pytest.mark.parametrize("kept", [(0, 0), (39, 55), (20, 3)])
def test_one_pixel_that_is_left_fills_all(kept):
    missing = torch.ones(40, 56, dtype=torch.bool)
    missing[kept] = False
    filled = fill_smoothly(ramp(), missing)
    assert torch.allclose(filled, ramp()[..., kept[0], kept[1]][..., None, None].expand_as(filled), atol=1e-6)


def test_nothing_or_everything_missing_changes_nothing():
    image = ramp()
    for missing in (torch.zeros(40, 56, dtype=torch.bool), torch.ones(40, 56, dtype=torch.bool)):
        assert torch.equal(fill_smoothly(image, missing), image)


def test_each_image_of_a_batch_has_its_own_holes():
    images, missing = torch.cat([ramp(), 1 - ramp()]), torch.zeros(2, 1, 40, 56, dtype=torch.bool)
    missing[0, :, 5:20, 5:20], missing[1, :, 25:33, 30:50] = True, True
    filled = fill_smoothly(images, missing)
    for i in range(2):
        assert torch.allclose(filled[i : i + 1], fill_smoothly(images[i : i + 1], missing[i, 0]), atol=1e-6)
