"""The path of a shaken camera, told from the power spectrum of its picture, and chosen among those that explain it."""

import pytest
import torch

from flashdiff_cli.kernel import blur_of
from flashdiff_cli.operators import GaussianBlur, MotionBlur
from flashdiff_cli.operators.motion_blur import kernels_along, path_kernels, straight_kernel
from flashdiff_cli.shake import AS_WELL, ITERATIONS, LIKELIER, ROUND_WIDTHS, ahead_of_round, find_path, misfit_of, roundest
from flashdiff_cli.spectrum import HARMONICS, HEADROOM, PictureSpectrum, explaining_kernel, paths
from tests.test_kernel import alike, drawing, inverted

NOISE = 0.01


def shaken(seed=1, length=11.0, bend=0.5, side=128):
    true = path_kernels(torch.tensor([length]), torch.tensor([bend]), torch.Generator().manual_seed(seed))
    x = drawing(side, seed=3)
    noise = 2 * NOISE * torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    return x, MotionBlur(true).on_signed(x) + noise, true[0]


def test_paths_have_the_length_and_direction_that_is_asked():
    parameters = torch.zeros(2, 2 + 4 * HARMONICS)
    parameters[:, 0], parameters[:, 1] = torch.tensor([9.0, 5.0]).log(), torch.tensor([0.0, 0.7])
    path = paths(parameters)
    assert path.mean(-1).abs().max() < 1e-9
    assert (path[..., 1:] - path[..., :-1]).square().sum(0).sqrt().sum(-1).tolist() == pytest.approx([9, 5], rel=0.01)
    kernels = kernels_along(path, 8)
    assert kernels.shape == (2, 17, 17) and kernels.sum((1, 2)).tolist() == pytest.approx([1, 1])
    for found, (length, angle) in zip(kernels, ((9.0, 0.0), (5.0, 0.7)), strict=True):
        assert alike(found, straight_kernel(length, angle)) > 0.99


def test_a_path_that_leaves_its_kernel_still_sums_to_one():
    far = torch.linspace(-9, 9, 50, dtype=torch.float64).expand(2, 1, -1)
    assert kernels_along(far, 4)[0].sum().item() == pytest.approx(1)


def test_the_spectrum_prefers_the_true_kernel_and_does_not_see_half_a_turn():
    _, y, true = shaken()
    spectrum = PictureSpectrum(y, NOISE)
    others = [straight_kernel(11.0, angle) for angle in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)] + [straight_kernel(1.0, 0.0)]
    at_true = misfit_of(true, spectrum)
    assert all(misfit_of(other, spectrum) > at_true + 0.02 for other in others)
    assert misfit_of(true.flip(0, 1), spectrum) == pytest.approx(at_true, abs=1e-4)


def test_gain_does_not_count_and_noise_does():
    _, y, true = shaken()
    bright, dim = (misfit_of(true, PictureSpectrum(c * y, c * NOISE)) for c in (1.0, 0.5))
    assert bright - dim == pytest.approx(2 * torch.tensor(2.0).log().item(), abs=0.05)
    assert misfit_of(true, PictureSpectrum(y, 5 * NOISE)) > misfit_of(true, PictureSpectrum(y, NOISE))


def test_the_noise_of_grey_pictures_is_not_averaged_out_in_their_luma():
    noise = 2 * 0.1 * torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    for planes in (noise, noise[:, :1].expand_as(noise)):
        spectrum = PictureSpectrum(planes, 0.1)
        assert spectrum.power.mean().item() == pytest.approx(spectrum.noise, rel=0.1)


@pytest.mark.parametrize(("seed", "length", "bend"), [(1, 11.0, 0.5), (4, 15.0, 0.3), (6, 8.0, 0.2)])
def test_a_path_is_found_that_explains_a_spectrum_as_the_true_one_does(seed, length, bend):
    _, y, true = shaken(seed, length, bend)
    kernel, spectrum = explaining_kernel(y, NOISE, 9.0)
    assert kernel.dtype == torch.float64 and kernel.sum().item() == pytest.approx(1) and kernel.min() >= 0
    assert misfit_of(kernel, spectrum) < misfit_of(true, spectrum) + 0.01
    assert misfit_of(kernel, spectrum) < misfit_of(straight_kernel(length, 0.0), spectrum) - 0.05


def test_the_same_path_is_found_again():
    _, y, _ = shaken(side=96)
    (first, _), (second, _) = (explaining_kernel(y, NOISE, 9.0) for _ in range(2))
    assert torch.equal(first, second)


def test_small_pictures_have_no_spectrum_to_tell_from():
    assert explaining_kernel(drawing(24), NOISE, 9.0) is None
    asked = []

    def restore(kernel, caution=1.5):
        asked.append(kernel)
        return drawing(28)

    find_path(drawing(28), straight_kernel(5.0, 0.0), NOISE, restore)
    assert len(asked) == 4, "the straight path is refined as without"
    assert find_path(drawing(28), straight_kernel(5.0, 0.0), NOISE, restore, AS_WELL) is None, "there is nothing that tells a path"
    assert explaining_kernel(drawing(64), NOISE, 40.0) is None


@pytest.mark.parametrize("turned", [False, True])
def test_the_direction_of_a_path_is_told_by_what_it_restores(turned):
    """A start at a wrong direction, and a path that is bent, so that its turn is another path."""
    true = path_kernels(torch.tensor([13.0]), torch.tensor([0.7]), torch.Generator().manual_seed(8))[0]
    true = true.flip(0, 1) if turned else true
    x = drawing(128, seed=3)
    y = blur_of(true).on_signed(x) + 2 * NOISE * torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    asked = []

    def restore(kernel, caution=1.5):
        asked.append(kernel)
        return inverted(y, kernel, (2 * caution * NOISE) ** 2)

    found = find_path(y, straight_kernel(6.0, 2.0), NOISE, restore)
    assert len(asked) <= 2 + ITERATIONS + 1 + 5
    gain = (inverted(y, straight_kernel(6.0, 2.0)) - x).square().mean() / (inverted(y, found) - x).square().mean()
    assert gain > 1.5


def test_noise_is_bounded_by_the_quietest_frequencies():
    _, y, true = shaken()
    told, bounded = (PictureSpectrum(y, std, headroom=1.0) for std in (NOISE, 9 * NOISE))
    assert told.noise < bounded.noise < 0.1 * (9**2) * told.noise
    assert misfit_of(true, bounded) < roundest(bounded)[1]
    assert PictureSpectrum(y, 9 * NOISE).noise == pytest.approx(HEADROOM * bounded.noise)


@pytest.mark.parametrize("width", [0.9, 1.7, 3.1])
def test_the_width_of_a_round_blur_is_told_from_the_spectrum(width):
    x = drawing(128, seed=3)
    y = GaussianBlur(width).on_signed(x) + 2 * NOISE * torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    kernel, _ = roundest(PictureSpectrum(y, NOISE))
    assert kernel.sum().item() == pytest.approx(1) and torch.equal(kernel, kernel.flip(0, 1))
    found = (kernel.sum(0) @ torch.arange(-14, 15).double().square()).sqrt().item()
    assert found == pytest.approx(width, rel=0.25)
    assert ROUND_WIDTHS.min() < width < ROUND_WIDTHS.max()


@pytest.mark.parametrize("blurred", [True, False])
def test_a_picture_that_may_be_blurred_has_no_path_where_a_round_blur_explains_it(blurred):
    x, y, _ = shaken()
    if blurred:
        y = GaussianBlur(2.0).on_signed(x) + 2 * NOISE * torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    ahead = ahead_of_round(y, NOISE, 6.0)
    assert ahead < AS_WELL if blurred else ahead > LIKELIER
    for unless_round in (AS_WELL, LIKELIER):
        found = find_path(y, straight_kernel(6.0, 2.0), NOISE, lambda kernel, caution=1.5: x, unless_round)
        assert (found is None) == blurred
    assert find_path(y, straight_kernel(6.0, 2.0), NOISE, lambda kernel, caution=1.5: x) is not None, "a sure motion is one"


def test_a_picture_that_a_round_blur_restores_with_less_doubt_has_no_path():
    x, y, _ = shaken()
    assert find_path(y, straight_kernel(6.0, 2.0), NOISE, lambda kernel, caution=1.5: x, -1.0) is not None

    def restore(kernel, caution=1.5):
        # What explains the picture by the round blur, and no other.
        return y if torch.equal(kernel, kernel.flip(0, 1)) and kernel.shape == (29, 29) else -y

    assert find_path(y, straight_kernel(6.0, 2.0), NOISE, restore, -1.0) is None
