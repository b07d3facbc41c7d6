"""Each kind of operator against what it promises: closed forms, other libraries, and refusals."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators import (
    OPERATORS,
    BoxInpainting,
    Composition,
    Downsampling,
    GaussianBlur,
    GaussianInpainting,
    Identity,
    MaskInpainting,
    MotionBlur,
    RandomBoxInpainting,
    RandomInpainting,
)
from flashdiff_cli.operators import motion_blur as motion
from flashdiff_cli.operators.padding import Margins, pad


def image(size, count=3, seed=5):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Gaussian blur


def test_gaussian_blur_of_a_point_and_of_a_plain():
    x = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    x[..., 20, 20] = 1
    offsets = torch.arange(-20, 21, dtype=torch.float64)
    bell = torch.exp(-0.5 * (offsets / 1.7) ** 2)
    bell /= bell.sum()
    torch.testing.assert_close(GaussianBlur(1.7).forward(x)[0, 0], bell[:, None] * bell, rtol=1e-5, atol=1e-9)
    plain = torch.full((2, 3, 7, 4), 0.3, dtype=torch.float64)
    torch.testing.assert_close(GaussianBlur(9.0).forward(plain), plain)


def test_the_reference_adjoint_differs_from_the_exact_one_at_the_borders_only():
    y = image((80, 64), 1)
    exact, reference = (GaussianBlur(1.0, adjoint_rule=rule).adjoint(y) for rule in ("exact", "reference"))
    difference = (exact - reference).abs()
    assert difference[..., 8:-8, 8:-8].max() < 1e-12 and difference.max() > 0.05
    x = image((80, 64), 1, seed=8)
    ax = GaussianBlur(1.0).forward(x)
    assert abs((ax * y).sum() - (x * reference).sum()) > 1e-5 * (ax * y).sum(), "the reference's is no adjoint"
    assert GaussianBlur(1.0, "reference").subset(torch.tensor([True])).describe() == {
        "blur_std": 1.0,
        "adjoint_rule": "reference",
    }


# Inpainting


def test_random_masks_keep_their_share_and_are_nested():
    thresholds = torch.rand(2, 128, 128, generator=torch.Generator().manual_seed(3))
    few, many = RandomInpainting(0.2, thresholds), RandomInpainting(torch.tensor([0.6, 0.9]), thresholds)
    assert few.mask.mean().item() == pytest.approx(0.2, abs=0.01)
    torch.testing.assert_close(many.mask.mean((1, 2, 3)), torch.tensor([0.6, 0.9]), rtol=0, atol=0.01)
    assert (few.mask <= many.mask).all()
    assert RandomInpainting(1.0, thresholds).mask.min() == 1 and RandomInpainting(0.0, thresholds).mask.max() == 0


@pytest.mark.parametrize("size, fraction, box", [((12, 12), 0.5, (3, 3, 6, 6)), ((13, 20), 0.4, (4, 7, 5, 5))])
def test_box_masks(size, fraction, box):
    top, left, height, width = box
    expected = torch.ones(size)
    expected[top : top + height, left : left + width] = 0
    assert torch.equal(BoxInpainting(fraction, size).mask[0, 0], expected)


def test_random_boxes_have_the_asked_area_and_shape_and_stay_inside():
    areas = torch.linspace(0.02, 0.45, 64)
    operator = RandomBoxInpainting.batch((90, 110), torch.Generator().manual_seed(0), box_area=areas)
    holes = 1 - operator.mask[:, 0]
    torch.testing.assert_close(holes.mean((1, 2)), areas, rtol=0.1, atol=0.003)
    heights, widths = holes.amax(2).sum(1), holes.amax(1).sum(1)
    assert torch.equal(heights * widths, holes.sum((1, 2))), "a hole is one rectangle"
    ratios = torch.minimum(heights, widths) / torch.maximum(heights, widths)
    assert ratios.min() > 0.44 and ratios.max() <= 1 and ratios.min() < 0.6 and ratios.max() > 0.9
    assert (heights > widths).any() and (heights < widths).any()
    tops = holes.amax(2).argmax(1)
    assert tops.float().std() > 5, "places differ"
    everything, nothing = (RandomBoxInpainting(a, torch.rand(1, 4), (40, 10)).mask.mean() for a in (1.0, 0.0))
    assert everything == 0 and nothing == 1


def test_gaussian_masks():
    operator = GaussianInpainting(torch.tensor([3.0, 0.0]), (21, 31), 2.0)
    assert operator.mask[0, 0, 10, 15] == 0 and operator.mask[1].min() == 1
    assert operator.mask[0, 0, 10 + 4, 15 + 2].item() == pytest.approx((1 - math.exp(-20 / 18)) ** 2, rel=1e-6)


def test_a_mask_belongs_to_one_size(tmp_path):
    with pytest.raises(UsageError, match="mask of box-inpainting is 16 x 8 pixels and the image 8 x 8"):
        BoxInpainting(0.5, (8, 16)).forward(image((8, 8)))
    path = tmp_path / "wide.png"
    Image.fromarray(np.zeros((8, 16), np.uint8)).save(path)
    with pytest.raises(UsageError, match=r"wide.png is 16 x 8 pixels and the image 8 x 8"):
        MaskInpainting.from_options((8, 8), 0, mask_file=str(path))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16", "F"])
def test_mask_files_of_every_kind(mode, tmp_path):
    kept = np.random.default_rng(0).random((9, 7)) < 0.5
    picture = Image.fromarray((255 * kept).astype(np.uint8))
    if mode == "I;16":
        picture = Image.fromarray((65535 * kept).astype(np.uint16))
    elif mode == "F":
        picture = Image.fromarray(kept.astype(np.float32))
    elif mode != "L":
        picture = picture.convert(mode)
    path = tmp_path / ("mask.tiff" if mode == "F" else "mask.png")
    picture.save(path)
    operator = MaskInpainting.from_options((9, 7), 0, mask_file=str(path))
    np.testing.assert_array_equal(operator.mask[0, 0].numpy(), kept.astype(np.float32))


def test_unreadable_files_are_named(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    for name, option in (("mask-inpainting", "mask_file"), ("motion-blur", "kernel_file")):
        with pytest.raises(UsageError, match=f"`{option}` .*missing.png: no such file"):
            OPERATORS[name].from_options((8, 8), 0, **{option: str(tmp_path / "missing.png")})
        with pytest.raises(UsageError, match=f"`{option}` .*broken.png: cannot be read"):
            OPERATORS[name].from_options((8, 8), 0, **{option: str(broken)})
        with pytest.raises(UsageError, match=f"`{option}` .*: cannot be read"):
            OPERATORS[name].from_options((8, 8), 0, **{option: str(tmp_path)})


# Motion blur


@pytest.mark.parametrize("radius", [3, 9])
def test_a_point_becomes_the_kernel(radius):
    side = 2 * radius + 1
    kernel = image((side, side), 1)[0, 0]
    kernel /= kernel.sum()
    x = torch.zeros(1, 1, 2 * side, 2 * side + 3, dtype=torch.float64)
    x[..., side, side] = 1
    y = MotionBlur(kernel[None]).forward(x)
    near = y[0, 0, side - radius : side + radius + 1, side - radius : side + radius + 1]
    torch.testing.assert_close(near, kernel)
    assert y.sum().item() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("size", [(31, 24), (6, 9)], ids=str)
def test_direct_and_fourier_convolution_agree(size, monkeypatch):
    operator = MotionBlur(torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    x = image(size, 2)
    assert operator.kernel.shape[-1] // 2 <= motion.DIRECT_RADIUS
    direct = operator.forward(x), operator.adjoint(x)
    monkeypatch.setattr(motion, "DIRECT_RADIUS", 0)
    fourier = operator.forward(x), operator.adjoint(x)
    assert operator._spectra, "the second run went through the Fourier domain"
    torch.testing.assert_close(fourier, direct)


def test_random_paths_have_the_asked_length_and_shape():
    lengths, shakes = torch.tensor([0.0, 6.0, 40.0, 40.0]), torch.tensor([1.0, 0.0, 0.0, 1.0])
    kernels = motion.path_kernels(lengths, shakes, torch.Generator().manual_seed(1))
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(4, dtype=torch.float64))
    assert kernels.min() >= 0
    offsets = torch.arange(kernels.shape[1], dtype=torch.float64) - kernels.shape[1] // 2
    y, x = (kernels * offsets[:, None]).sum((1, 2)), (kernels * offsets).sum((1, 2))
    torch.testing.assert_close(torch.stack([y, x]), torch.zeros(2, 4, dtype=torch.float64), rtol=0, atol=1e-9)
    yy, xx = (kernels * offsets[:, None] ** 2).sum((1, 2)), (kernels * offsets**2).sum((1, 2))
    xy = (kernels * offsets[:, None] * offsets).sum((1, 2))
    spread = torch.linalg.eigvalsh(torch.stack([yy, xy, xy, xx], -1).view(-1, 2, 2)).sqrt()
    assert kernels[0, len(offsets) // 2, len(offsets) // 2].item() == pytest.approx(1), "no path, no blur"
    # A straight steady path of length l spreads by l / sqrt(12) along itself, and across only what the pixels add.
    torch.testing.assert_close(spread[1:3, 1], lengths[1:3].double() / 12**0.5, rtol=0.05, atol=0.0)
    assert spread[1:3, 0].max() < 0.7
    assert spread[3, 0] > 1 and spread[3, 1] < spread[2, 1], "a shaky path bends"


def test_kernel_files(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 255, (5, 7)).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "kernel.png")
    np.save(tmp_path / "kernel.npy", values.astype(np.float64) * 3)
    square = np.zeros((7, 7))
    square[1:6] = values / values.sum()
    for name in ("kernel.png", "kernel.npy"):
        operator = MotionBlur.from_options((16, 16), 0, kernel_file=str(tmp_path / name))
        np.testing.assert_allclose(operator.kernel[0].numpy(), square, rtol=1e-6)
        assert operator.describe() == {"kernel_file": str(tmp_path / name)}
    np.save(tmp_path / "even.npy", np.ones((2, 2)))
    even = MotionBlur.from_options((16, 16), 0, kernel_file=str(tmp_path / "even.npy"))
    assert even.kernel.shape == (1, 3, 3) and even.kernel[0, :2, :2].sum() == pytest.approx(1)


@pytest.mark.parametrize(
    "values, reason",
    [
        (np.zeros((3, 3)), "not all 0"),
        (-np.ones((3, 3)), "at least 0"),
        (np.full((3, 3), np.nan), "at least 0"),
        (np.zeros((0, 3)), "at least 0"),
        (np.ones(3), "two-dimensional"),
        (np.array([["a"]]), "two-dimensional"),
        (np.array([[{}]], dtype=object), "of numbers, not object"),
    ],
)
def test_kernels_that_make_no_sense(values, reason, tmp_path):
    np.save(tmp_path / "kernel.npy", values, allow_pickle=True)
    with pytest.raises(UsageError, match=f"`kernel_file` .*kernel.npy: .*{reason}"):
        MotionBlur.from_options((8, 8), 0, kernel_file=str(tmp_path / "kernel.npy"))


# Downsampling


def test_box_downsampling_is_the_mean_of_blocks():
    x = image((12, 18))
    torch.testing.assert_close(Downsampling(3, (12, 18), "box").forward(x), F.avg_pool2d(x, 3))
    odd = image((7, 5))
    expected = F.avg_pool2d(pad(odd, Margins(0, 1, 0, 1)), 2)
    torch.testing.assert_close(Downsampling(2, (7, 5), "box").forward(odd), expected)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bicubic_downsampling_is_what_others_compute_away_from_the_border(factor):
    x = image((16 * factor, 16 * factor), 1)
    y = Downsampling(factor, x.shape[-2:]).forward(x)
    expected = F.interpolate(x, scale_factor=1 / factor, mode="bicubic", antialias=True)
    torch.testing.assert_close(y[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2], rtol=1e-4, atol=1e-5)


def test_downsampling_does_not_alias_and_lifts_back():
    stripes = (torch.arange(32) % 2).double().expand(1, 3, 32, 32)
    assert (Downsampling(4, (32, 32)).forward(stripes) - 0.5).abs().max() < 0.02
    ramp = torch.linspace(0, 1, 40, dtype=torch.float64).expand(1, 3, 21, 40)
    operator = Downsampling(2, (21, 40))
    lifted = operator.resize_to_image(operator.forward(ramp))
    assert lifted.shape == ramp.shape and (lifted - ramp)[..., 10:-10].abs().max() < 1e-6
    chained = Composition(operator, BoxInpainting(0.0, (11, 20)))
    assert torch.equal(chained.resize_to_image(chained.forward(ramp)), lifted)
    assert torch.equal(Identity().resize_to_image(ramp), ramp)


def test_downsampling_belongs_to_one_size_and_one_factor():
    operator = Downsampling(2, (8, 12))
    with pytest.raises(UsageError, match="built for images of 12 x 8 pixels, not 8 x 8"):
        operator.forward(image((8, 8)))
    with pytest.raises(UsageError, match="measurements of 6 x 4 pixels, not 4 x 4"):
        operator.adjoint(image((4, 4)))
    with pytest.raises(UsageError, match="`factor` must be the same"):
        Downsampling.batch((8, 8), torch.Generator(), factor=torch.tensor([2, 3]))


# Composition


def test_a_composition_acts_in_order():
    x = image((12, 12), 1)
    blur, box = GaussianBlur(1.5), BoxInpainting(0.5, (12, 12))
    both = Composition(blur, box)
    assert both.name == "gaussian-blur+box-inpainting"
    assert torch.equal(both.forward(x), box.forward(blur.forward(x)))
    assert both.forward(x)[..., 3:9, 3:9].abs().max() == 0
    assert Composition(box, blur).forward(x)[..., 3:9, 3:9].abs().max() > 0
    assert both.describe() == {"blur_std": 1.5, "box_fraction": 0.5}
    assert Composition(blur, GaussianBlur(2.0)).describe() == {"blur_std": [1.5, 2.0]}
    with pytest.raises(UsageError, match="at least one"):
        Composition()


def test_a_chain_draws_as_its_first_part_alone_does():
    chain = OPERATORS["random-inpainting+gaussian-blur"]
    assert [option.name for option in chain.options] == ["kept_fraction", "blur_std", "adjoint_rule"]
    both = chain.from_options((16, 16), 7, kept_fraction=0.4, blur_std=1.0)
    alone = RandomInpainting.from_options((16, 16), 7, kept_fraction=0.4)
    assert torch.equal(both.operators[0].mask, alone.mask)
