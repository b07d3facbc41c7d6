"""Black and white are what a file says, else where nearly all values lie, never the largest one; and the way back."""

import io

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from flashdiff_cli.pictures.files import read_picture, write_picture
from flashdiff_cli.pictures.scale import find_scale

SIZE = (48, 64)


def scene(channels=3, seed=0):
    """Intensities from 0.02 to 0.98: a ramp with some texture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    values = np.stack([x / SIZE[1], y / SIZE[0], 1 - x / SIZE[1]], -1)[..., :channels] * 0.8 + 0.1
    return (values + rng.normal(0, 0.02, values.shape)).clip(0.02, 0.98)


def tiff(values, **options):
    file = io.BytesIO()
    photometric = "rgb" if values.shape[-1] > 2 else "minisblack"
    tifffile.imwrite(
        file,
        values.squeeze() if values.shape[-1] == 1 else values,
        metadata=None,
        **({"photometric": photometric} | options),
    )
    return file.getvalue()


def there_and_back(folder, data, ending=".tif"):
    """(picture as read, values of the file, values of what is written)."""
    (folder / f"a{ending}").write_bytes(data)
    picture = read_picture(folder / f"a{ending}")
    write_picture(picture, folder / f"b{ending}")
    return picture, *(tifffile.imread(folder / f"{name}{ending}") for name in "ab")


def shown(picture):
    return (picture.image[0].permute(1, 2, 0).numpy() + 1) / 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("odd", [1.004, 3.5, 260.0, 60000.0])
def test_one_bright_pixel_does_not_make_a_float_picture_black(tmp_path, channels, dtype, odd):
    values = scene(channels).astype(dtype)
    values[5, 6] = odd
    picture, before, after = there_and_back(tmp_path, tiff(values))
    assert abs(shown(picture)[..., :channels] - values.clip(0, 1).astype(np.float32)).max() < 1e-3
    assert after.dtype == before.dtype and np.allclose(after, before, rtol=1e-3, atol=1e-3)
    assert any("white is 1" in note for note in picture.notes)


def test_highlights_and_values_below_black_are_kept(tmp_path):
    values = scene().astype(np.float32) * 1.2
    values[:10] *= 6
    values[-6:] -= 0.3
    picture, before, after = there_and_back(tmp_path, tiff(values))
    assert np.allclose(after, before, atol=1e-5) and before.max() > 5 and before.min() < -0.1
    assert picture.image.min() >= -1 and picture.image.max() <= 1 and 0.3 < shown(picture).mean() < 0.8


@pytest.mark.parametrize(
    ("white", "dtype"),
    [(255, np.float32), (65535, np.float32), (4095, np.float32), (65535, np.int32), (4095, np.int16)],
)
def test_other_whites_are_found_although_some_pixels_lie_above(tmp_path, white, dtype):
    values = scene() * white
    values[3, 4:8] = 3 * white if dtype == np.float32 or white < 5000 else 2_000_000
    picture, before, after = there_and_back(tmp_path, tiff(values.astype(dtype)))
    assert picture.scale.white == white and abs(shown(picture) - (values / white).clip(0, 1)).max() < 2 / white + 1e-4
    assert after.dtype == before.dtype and np.allclose(after.astype(float), before, atol=max(1e-4 * white, 1))
    assert any(f"{white} was taken" in note for note in picture.notes)


@pytest.mark.parametrize("white", [1.0, 100.0, 255.0, 1023.0])
def test_what_the_file_says_is_white_is_white(tmp_path, white):
    values = (scene() * white * 0.6).astype(np.float32)
    picture, before, after = there_and_back(tmp_path, tiff(values, extratags=[(341, "f", 1, white, True), (340, "f", 1, 0.0, True)]))
    assert picture.scale.white == white and abs(shown(picture) - values / white).max() < 1e-4
    assert after.dtype == before.dtype and np.allclose(after, before, rtol=1e-4)
    again = read_picture(tmp_path / "b.tif")
    assert again.scale.white == white and torch.allclose(again.image, picture.image, atol=1e-5)


def test_a_maximum_that_only_describes_this_picture_is_not_white(tmp_path):
    values = scene().astype(np.float32)
    values[2, 2] = 37.5
    picture, *_ = there_and_back(tmp_path, tiff(values, extratags=[(341, "f", 1, 37.5, True), (340, "f", 1, float(values.min()), True)]))
    assert picture.scale.white == 1 and picture.scale.black == 0


def test_pictures_from_minus_one_to_one(tmp_path):
    values = (scene() * 2 - 1).astype(np.float32)
    picture, before, after = there_and_back(tmp_path, tiff(values))
    assert (picture.scale.black, picture.scale.white) == (-1, 1) and abs(shown(picture) - (values + 1) / 2).max() < 1e-4
    assert np.allclose(after, before, atol=1e-5)


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("channels", [1, 3])
def test_10_and_12_bits_stored_in_16(tmp_path, bits, channels):
    top = 2**bits - 1
    values = (scene(channels) * top).round().astype(np.uint16)
    for tags in ([(341, "H", 1, top, True)], [(281, "H", 1, top, True)], []):
        picture, before, after = there_and_back(tmp_path, tiff(values, extratags=tags))
        assert picture.scale.white == top and any(f"white is {top}" in note for note in picture.notes)
        assert after.dtype == np.uint16 and np.array_equal(after, before)


def packed(values, bits):
    """A TIFF whose samples are packed, written by its standard."""
    height, width, channels = values.shape
    each = ((values.reshape(height, -1, 1) >> np.arange(bits)[::-1]) & 1).reshape(height, -1).astype(np.uint8)
    rows = np.packbits(each, axis=1).tobytes()
    data = bytearray(tiff(np.zeros((height, width, channels), np.uint8)))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tags = file.pages.first.tags
        for name, number in (("BitsPerSample", bits), ("StripOffsets", len(data)), ("StripByteCounts", len(rows))):
            tag = tags[name]
            size = tag.valuebytecount // tag.count
            data[tag.valueoffset : tag.valueoffset + tag.valuebytecount] = number.to_bytes(size, "little") * tag.count
    return bytes(data) + rows


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_packed_samples_are_read_by_their_bits(tmp_path, bits):
    values = (scene() * (2**bits - 1)).round().astype(np.uint16)
    (tmp_path / "a.tif").write_bytes(packed(values, bits))
    picture = read_picture(tmp_path / "a.tif")
    assert np.array_equal(picture.to_samples(picture.scale), values) and picture.scale.white == 2**bits - 1


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int16, np.int32])
def test_whole_numbers_over_their_whole_range(tmp_path, dtype):
    top = np.iinfo(dtype).max
    values = (scene() * top).astype(dtype)
    picture, before, after = there_and_back(tmp_path, tiff(values))
    assert abs(shown(picture) - values / top).max() < 1e-4 and after.dtype == before.dtype
    assert abs(after.astype(np.float64) - before).max() <= max(1, 1e-6 * top)


def test_a_dark_picture_of_16_bits_stays_dark(tmp_path):
    values = (scene() * 0.2 * 65535).astype(np.uint16)
    picture, before, after = there_and_back(tmp_path, tiff(values))
    assert picture.scale is None and picture.notes == [] and np.array_equal(after, before)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_filled_from_around_them(tmp_path, odd):
    values = scene().astype(np.float32)
    values[10:13, 20:24] = odd
    values[30, 30, 1] = odd
    picture, _, after = there_and_back(tmp_path, tiff(values))
    clean = scene()
    assert np.isfinite(after).all() and abs(after - clean).max() < 0.25 and "13 pixels that are not finite" in picture.notes[0]
    assert abs(after[30, 30, [0, 2]] - clean[30, 30, [0, 2]]).max() < 1e-4


def test_a_picture_of_no_numbers_at_all_is_read():
    scale, note = find_scale(np.full((4, 4, 3), np.nan, np.float32))
    assert scale.white == 1 and note is None


def test_float_colours_with_opacity_keep_both(tmp_path):
    values = np.concatenate([scene() * 255, np.linspace(0, 255, SIZE[0] * SIZE[1]).reshape(*SIZE, 1)], -1).astype(np.float32)
    picture, before, after = there_and_back(tmp_path, tiff(values, extrasamples=["unassalpha"]))
    assert picture.alpha.max() == 65535 and abs(after - before).max() < 0.01


def test_other_formats_get_what_they_can_hold(tmp_path):
    values = scene().astype(np.float32)
    values[4, 4] = 9
    (tmp_path / "a.tif").write_bytes(tiff(values))
    picture = read_picture(tmp_path / "a.tif")
    for ending, note in ((".png", "float32 became 16 bits"), (".jpg", "became 8")):
        notes = []
        write_picture(picture, tmp_path / f"b{ending}", notes=notes)
        with Image.open(tmp_path / f"b{ending}") as file:
            assert abs(np.asarray(file.convert("RGB")) / 255.0 - values.clip(0, 1)).mean() < 0.02
        assert any(note in text for text in notes)


@pytest.mark.parametrize("compression", [None, "zlib", "lzma"])
def test_compressed_floats_come_back_compressed_alike(tmp_path, compression):
    picture, before, after = there_and_back(tmp_path, tiff(scene().astype(np.float32), compression=compression))
    assert np.allclose(before, after, atol=1e-6)
    with tifffile.TiffFile(tmp_path / "a.tif") as a, tifffile.TiffFile(tmp_path / "b.tif") as b:
        assert a.pages[0].compression == b.pages[0].compression
    assert picture.notes == []
