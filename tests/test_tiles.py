"""Pieces of pictures: they cover, blend without seams, share their noise, and each has its own start."""

import itertools
import math

import pytest
import torch
from tiny import tiny_pipeline

from flashdiff_cli.operators import OPERATORS, BoxInpainting, Downsampling, GaussianBlur
from flashdiff_cli.operators.composition import Composition
from flashdiff_cli.pictures.files import Picture
from flashdiff_cli.pictures.tiles import OVERLAP, Canvas, Tile, cut
from flashdiff_cli.runs.restorer import Restorer, Settings
from flashdiff_cli.runs.tiled import weighted_median


@pytest.mark.parametrize("size", [(64, 64), (64, 400), (272, 1008), (1600, 96), (512, 528)])
@pytest.mark.parametrize("tile", [64, 128, 200])
def test_tiles_cover_the_picture_and_overlap(size, tile):
    size_multiple = 16
    tiles = cut(size, tile, size_multiple)
    seen = torch.zeros(size)
    for t in tiles:
        assert t.top % size_multiple == t.left % size_multiple == 0
        assert (t.height, t.width) == (tiles[0].height, tiles[0].width) and max(t.height, t.width) <= max(tile, OVERLAP + size_multiple)
        t.of(seen).add_(1)
    assert seen.min() >= 1
    rows, columns = sorted({t.top for t in tiles}), sorted({t.left for t in tiles})
    assert len(tiles) == len(rows) * len(columns)
    for starts, side in ((rows, tiles[0].height), (columns, tiles[0].width)):
        assert all(a + side - b >= OVERLAP for a, b in itertools.pairwise(starts))


def test_a_canvas_gives_back_what_the_tiles_were_cut_from():
    image = torch.randn(3, 96, 208)
    canvas = Canvas(3, (96, 208))
    for tile in cut((96, 208), 64, 16):
        canvas.add(tile, tile.of(image))
    assert torch.allclose(canvas.image(), image, atol=1e-5)


def test_between_tiles_that_disagree_the_change_is_spread():
    canvas = Canvas(1, (64, 112))
    for tile, value in ((Tile(0, 0, 64, 64), 0.0), (Tile(0, 48, 64, 64), 1.0)):
        canvas.add(tile, torch.full((1, 64, 64), value))
    step = canvas.image()[0, 0].diff().abs()
    assert step.max() < 0.2


@pytest.mark.parametrize(
    ("operator", "border"),
    [
        (GaussianBlur(1.5), 12),
        (BoxInpainting.from_options((96, 96), 0, box_fraction=0.4), 0),
        (Downsampling(2, (96, 96)), 4),
        (Composition(GaussianBlur(1.0), Downsampling(2, (96, 96))), 8),
        (OPERATORS["motion-blur"].from_options((96, 96), 3), 16),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_window_measures_what_the_whole_measures_there(operator, border):
    x = torch.rand(1, 3, 96, 96)
    tile = Tile(16, 32, 64, 48)
    whole = tile.of(operator.forward(x), operator.stride)
    part = operator.window(tile.top, tile.left, tile.height, tile.width).forward(tile.of(x))
    assert part.shape == whole.shape
    inner = (..., slice(border, part.shape[-2] - border), slice(border, part.shape[-1] - border))
    assert part[inner].numel() and torch.allclose(part[inner], whole[inner], atol=1e-5)


def test_the_weighted_median():
    values, even = torch.tensor([3.0, 1.0, 2.0]), torch.ones(3)
    assert weighted_median(values, even) == 2.0
    assert weighted_median(values, torch.tensor([5.0, 1.0, 1.0])) == 3.0
    assert weighted_median(values, torch.zeros(3)) in values.tolist()


@pytest.fixture
def restorer(tmp_path):
    folder = tmp_path / "tiny"
    pipe = tiny_pipeline(defaults={"solver": "ldps", "steps": 40, "eta": 0.0})
    # An untrained deviation is the same everywhere; this one depends on what it sees.
    torch.nn.init.normal_(pipe.severity.deviation.out.weight, std=0.5, generator=torch.Generator().manual_seed(5))
    pipe.save_pretrained(folder, safe_serialization=True)
    return Restorer(folder)


def picture(height, width):
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(1, 3, height // 8, width // 8, generator=generator)
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear") * 2 - 1
    return Picture(image + 0.1 * torch.randn(image.shape, generator=generator), digest=b"1" * 32)


def test_each_tile_has_its_own_severity_and_the_record_says_so(restorer):
    source = picture(96, 160)
    source.image[..., :80] *= 0.05
    restored, record = restorer.restore(source, Settings(tile=64, start_step=None))
    assert restored.image.shape == source.image.shape and torch.isfinite(restored.image).all()
    assert len(record.tiles) == 8
    assert len({tile["severity"] for tile in record.tiles}) > 4
    assert record.steps == record.start_step == max(tile["start_step"] for tile in record.tiles)
    assert record.network_evaluations == sum(tile["network_evaluations"] for tile in record.tiles)
    assert record.variance == pytest.approx(sum(tile["severity"] ** 2 for tile in record.tiles) / 8)
    _, looked = restorer.analyse(source, Settings(tile=64))
    assert looked.severity == pytest.approx(record.severity, rel=1e-4) and looked.operator == record.operator
    assert [t["start_step"] for t in looked.tiles] == [t["start_step"] for t in record.tiles]


def test_a_picture_of_one_tile_is_restored_as_without_tiles(restorer):
    source = picture(64, 56)
    whole, one = restorer.restore(source, Settings(tile=0))
    cut_, two = restorer.restore(source, Settings(tile=64))
    assert torch.equal(whole.image, cut_.image) and one.tiles is None and two.tiles is None


def test_encode_of_a_large_picture_is_that_of_its_tiles(restorer):
    source = picture(96, 160)
    whole, _ = restorer.analyse(source, Settings(tile=0))
    parts, record = restorer.analyse(source, Settings(tile=64))
    assert parts["latent"].shape == whole["latent"].shape and parts["decoded"].shape == whole["decoded"].shape
    assert len(record.tiles) == 8 and torch.isfinite(parts["latent"]).all()


def test_progress_of_tiles_never_goes_back(restorer):
    seen = []
    restorer.restore(picture(64, 160), Settings(tile=64, start_step=3), callback=lambda *done: seen.append(done))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len({total for _, total in seen}) == 1 and seen[-1][0] == seen[-1][1]


def test_masks_are_cut_with_the_picture(restorer):
    source = picture(96, 160)
    settings = Settings(operator="box-inpainting", operator_options={"box_fraction": 0.5}, noise_std=0.01, tile=64, start_step=1)
    _, record = restorer.restore(source, settings)
    assert len(record.tiles) == 8 and math.isfinite(record.severity)
