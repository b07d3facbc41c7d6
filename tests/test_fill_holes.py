"""Missing pixels: what they are filled with, and the noise that the kept ones show."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from skimage.restoration import inpaint_biharmonic

from flashdiff_cli.operators import OPERATORS
from flashdiff_cli.operators import fill as module
from flashdiff_cli.operators.composition import Composition
from flashdiff_cli.operators.fill import fill
from flashdiff_cli.operators.gaussian_blur import GaussianBlur
from flashdiff_cli.operators.inpainting import GaussianInpainting, MaskInpainting
from flashdiff_cli.operators.kept_noise import kept_noise, measured_noise


def crop(name, side=64):
    values = {"astronaut": data.astronaut()[40:, 150:], "coffee": data.coffee()[100:, 250:]}[name][:side, :side]
    return torch.from_numpy(values.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def scratches(height, width):
    keep = torch.ones(height, width, dtype=torch.bool)
    for start in range(-height, width, 24):
        for row in range(height):
            for column in (start + row, start + row + 1):
                if 0 <= column < width:
                    keep[row, column] = False
    return keep


def scattered(height, width, missing=0.7, seed=0):
    return torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) >= missing


def box(height, width):
    keep = torch.ones(height, width, dtype=torch.bool)
    keep[height // 4 : height // 4 + 12, width // 3 : width // 3 + 12] = False
    return keep


def border(height, width):
    keep = torch.ones(height, width, dtype=torch.bool)
    keep[:, :3] = keep[-2:] = False
    return keep


def in_holes(result, truth, keep):
    """PSNR in dB."""
    return 10 * torch.log10(4 / (result - truth)[..., ~keep].square().mean()).item()


@pytest.mark.parametrize("make", [scratches, scattered, box, border])
def test_what_is_kept_stays_and_what_a_hole_hides_does_not_matter(make):
    image = crop("coffee", 48)
    keep = make(48, 48)
    filled = fill(torch.where(keep, image, torch.nan), keep[None])
    assert torch.equal(filled[..., keep], image[..., keep])
    assert filled.isfinite().all()
    assert (filled.amax((2, 3)) <= image[..., keep].amax(2)).all() and (filled.amin((2, 3)) >= image[..., keep].amin(2)).all()


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
@pytest.mark.parametrize("make", [scratches, scattered, box])
def test_nearer_to_the_truth_than_a_biharmonic_fill(name, make):
    image = crop(name)
    keep = make(64, 64)
    values = ((image[0].permute(1, 2, 0) + 1) / 2 * keep[..., None]).numpy().astype(np.float64)
    other = 2 * torch.from_numpy(inpaint_biharmonic(values, ~keep.numpy(), channel_axis=-1)).permute(2, 0, 1)[None] - 1
    assert in_holes(fill(image, keep[None]), image, keep) > in_holes(other.clamp(-1, 1), image, keep) - 0.1


def test_a_ramp_goes_on_and_an_edge_is_carried_through():
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    ramp = ((rows + 2 * columns) / 72 - 1).expand(1, 3, -1, -1)
    assert (fill(ramp, scattered(48, 48)[None]) - ramp).abs().max() < 0.05
    edge = torch.where(columns > 0.4 * rows + 14, 0.7, -0.7).expand(1, 3, -1, -1)
    keep = torch.ones(48, 48, dtype=torch.bool)
    keep[18:30, 14:34] = False
    assert in_holes(fill(edge, keep[None]), edge, keep) > 17, "the mean of the border has 9"


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3), (7, 5), (8, 33)])
@pytest.mark.parametrize("kept", ["all", "one", "none"])
def test_any_size_and_any_share(size, kept):
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    keep = torch.full(size, kept == "all")
    keep[0, 0] |= kept == "one"
    filled = fill(image, keep[None])
    expected = {"all": image, "one": image[..., :1, :1].expand_as(image), "none": torch.zeros_like(image)}[kept]
    assert torch.allclose(filled, expected, atol=1e-5)


def test_each_sample_by_itself_and_in_bands(monkeypatch):
    image = torch.cat([crop("astronaut"), crop("coffee")])
    keep = torch.stack([scattered(64, 64), box(64, 64)])
    both = fill(image, keep)
    for i in range(2):
        assert torch.allclose(fill(image[i : i + 1], keep[i : i + 1]), both[i : i + 1], atol=1e-5)
    monkeypatch.setattr(module, "BAND", 64 * 20)
    assert (fill(image, keep) - both).abs().mean() < 0.01


def test_an_encoder_sees_no_hole():
    image = crop("coffee", 48)
    keep = scratches(48, 48)
    operator = MaskInpainting(keep.float())
    y = operator.on_signed(image)
    assert torch.equal(operator.seen(y), fill(image, keep[None])) and torch.equal(operator.resize_to_image(y), y)
    chain = Composition(GaussianBlur(1.0), operator)
    assert torch.equal(chain.seen(y), operator.seen(y)) and torch.equal(chain.kept(), operator.kept())
    assert GaussianBlur(1.0).kept() is None and torch.equal(GaussianBlur(1.0).seen(y), y)
    soft = GaussianInpainting(6.0, (48, 48))
    assert (
        in_holes(soft.seen(soft.on_signed(image)), image, soft.mask[0, 0] >= 0.999)
        > in_holes(soft.on_signed(image), image, soft.mask[0, 0] >= 0.999) + 6
    )


def smooth(side=96):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(40, 216, (5, 5, 3), dtype=np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(coarse)).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.mark.parametrize("make", [scratches, box, border, lambda h, w: scattered(h, w, 0.5), scattered, lambda h, w: scattered(h, w, 0.85)])
@pytest.mark.parametrize("std", [0.02, 0.05, 0.1])
def test_noise_of_what_is_kept(make, std):
    image, keep = smooth(), make(96, 96)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(2))
    y = MaskInpainting(keep.float()).on_signed(image + 2 * std * noise)
    assert kept_noise(y, keep[None]).item() == pytest.approx(std, rel=0.25)


@pytest.mark.parametrize("make", [scratches, box, border, scattered])
@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_the_edges_of_holes_are_no_noise(make, name):
    image, keep = crop(name, 96), make(96, 96)
    operator = MaskInpainting(keep.float())
    assert measured_noise(operator.on_signed(image), operator).item() < 0.02


def test_noise_where_next_to_nothing_is_kept():
    image = smooth(32)
    keep = torch.zeros(1, 32, 32, dtype=torch.bool)
    assert kept_noise(image, keep).tolist() == [0]
    keep[0, 3, 4] = True
    assert kept_noise(image, keep).tolist() == [0]
    assert kept_noise(torch.zeros(2, 3, 1, 1), torch.ones(1, 1, 1, dtype=torch.bool)).tolist() == [0, 0]
    assert measured_noise(image, OPERATORS["identity"]()).item() == measured_noise(image, None).item()
