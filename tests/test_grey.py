"""Grey, toned and coloured pictures are told apart, and grey ones are given the noise that colour would show."""

import pytest
import torch

from flashdiff_cli.grey import LEAST_SMALL, colour_share, grey_as, may_be_noise, with_colour_noise
from flashdiff_cli.operators.estimate import common_noise, noise_bands, noise_level


def photo(side=128, seed=0):
    x = torch.rand(1, 3, side // 16, side // 16, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8
    return torch.nn.functional.interpolate(x, size=(side, side), mode="bicubic").clamp(-0.95, 0.95)


def grey(x):
    return x.mean(1, keepdim=True).expand(-1, 3, -1, -1)


def test_grey_and_toned_pictures_have_no_colour_of_their_own():
    x = photo()
    toned = (grey(x) + 1) * torch.tensor([1.0, 0.9, 0.7]).view(1, 3, 1, 1) - 1
    assert colour_share(x).item() == 1
    assert colour_share(grey(x)).item() == 0
    assert colour_share(toned).item() == 0
    assert colour_share(torch.cat([x, grey(x)])).tolist() == [1, 0]


def test_colour_pictures_stay_as_they_are():
    assert torch.equal(with_colour_noise(photo()), photo())


@pytest.mark.parametrize("std", [0.02, 0.1])
def test_the_noise_of_the_luma_shows_in_the_colours(std):
    noise = 2 * std * torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(1))
    found = with_colour_noise(grey(photo()) + noise)
    differences = torch.stack([found[:, 0] - found[:, 1], found[:, 2] - found[:, 1]], 1)
    assert noise_bands(differences)[..., -1].mean().item() == pytest.approx(2**0.5 * std, rel=0.35)
    luma = torch.einsum("c,bchw->bhw", torch.tensor([0.299, 0.587, 0.114]), found)[:, None]
    assert noise_level(luma).item() == pytest.approx(std, rel=0.1), "luma keeps its own"


def test_noise_that_is_in_the_colours_already_is_not_added_again():
    x = 0.02 * torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    assert colour_share(x).item() < 1
    assert noise_level(with_colour_noise(x)).item() == pytest.approx(0.01, rel=0.15)


def test_one_sample_does_not_change_another():
    x = torch.cat([photo(), grey(photo(seed=5))])
    assert torch.allclose(with_colour_noise(x)[1:], with_colour_noise(x[1:]))
    assert torch.equal(with_colour_noise(x)[:1], x[:1])


def test_what_came_grey_goes_grey():
    x = torch.cat([photo(), grey(photo(seed=5))])
    found = grey_as(photo(seed=7).expand(2, -1, -1, -1), x)
    assert torch.equal(found[0], photo(seed=7)[0])
    assert torch.equal(found[1, 0], found[1, 1]) and torch.allclose(found[1, 0], photo(seed=7)[0].mean(0))


def test_noise_that_all_channels_share_is_told_from_their_own():
    noise = 0.1 * torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    one = noise[:, :1].expand(1, 3, -1, -1)
    found = common_noise(torch.cat([photo(96) + noise, photo(96) + one, grey(photo(96)) + one]))
    assert found.tolist() == [0, 1, 1]


def test_texture_of_a_grey_picture_is_no_noise():
    fine = 0.4 * torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 8.0, 2.0], [1.0, 2.0, 1.0]])[None, None] / 20
    texture = torch.nn.functional.conv2d(fine, kernel, padding=1).expand(1, 3, -1, -1)
    noise = 0.2 * torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(1)).expand(1, 3, -1, -1)
    three = torch.cat([texture, grey(photo()) + noise, photo()])
    bands = noise_bands(three.mean(1, keepdim=True), three)[:, 0, 1:].amax(1)
    # What the classifier reads of them: half of a texture, all of a noise.
    assert may_be_noise(three, torch.tensor([0.5, 1.0, 0.0]) * bands).tolist() == [False, True, True]
    assert may_be_noise(three[1:2], 0.5 * bands[1:2]).tolist() == [False]


def test_in_small_pictures_what_is_hardly_read_as_noise_is_detail():
    x = torch.nn.functional.interpolate(photo(), size=48, mode="area") + 0.1 * torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(2))
    finer = noise_bands(x)[:, :, 1:].mean(1).amax(1)
    assert [may_be_noise(x, share * finer).item() for share in (0.6, 0.9)] == [False, True]
    # Noise so faint is not told from detail, however much of it is read.
    assert not may_be_noise(0.1 * x, torch.tensor([LEAST_SMALL - 1e-3]))
