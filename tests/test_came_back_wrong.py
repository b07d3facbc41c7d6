"""Kinds of pictures that once came back worse than they were, through the model that comes with the program."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_files import saved
from PIL import Image, ImageDraw

from flashdiff_cli.commands.app import main
from flashdiff_cli.operators import GaussianBlur

EXAMPLES = Path(__file__).parent.parent / "examples"
SIDE = 128
SMALL = (("light", 64), ("blurry", 48))


def clean(name="light"):
    """(H, W, 3) in [0, 1]."""
    with Image.open(EXAMPLES / f"{name}-clean.png") as picture:
        return np.asarray(picture.convert("RGB").crop((40, 40, 40 + SIDE, 40 + SIDE)), dtype=np.float64) / 255


def stored(values, mode="RGB"):
    return Image.fromarray((255 * values).clip(0, 255).round().astype(np.uint8)).convert(mode)


def blurred(values, std):
    image = torch.from_numpy(values).float().permute(2, 0, 1)[None]
    return GaussianBlur(std).forward(image)[0].permute(1, 2, 0).double().numpy()


def noisy(values, std, seed=0):
    return values + np.random.default_rng(seed).normal(0, std, values.shape)


def luma(values):
    return np.repeat(values @ (0.299, 0.587, 0.114), 3).reshape(values.shape)


def screenshot():
    picture = Image.new("RGB", (160, 112), "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 160, 16), fill=(40, 90, 200))
    draw.rectangle((8, 60, 60, 100), fill=(240, 180, 40))
    draw.rectangle((64, 60, 110, 100), fill=(30, 140, 90))
    for line in range(4):
        draw.text((8, 20 + 10 * line), "The quick brown fox jumps", fill="black")
    return picture


def cutout(colour):
    """A blurred portrait cut out, with a colour under what is transparent."""
    values = noisy(blurred(clean(), 1.5), 0.02)
    y, x = np.mgrid[:SIDE, :SIDE]
    inside = (x - SIDE / 2) ** 2 + (y - SIDE / 2) ** 2 < (0.47 * SIDE) ** 2
    whole = np.where(inside[..., None], values, colour)
    picture = stored(whole)
    picture.putalpha(Image.fromarray(np.uint8(255) * inside))
    return picture


@pytest.fixture(scope="module")
def restored(tmp_path_factory):
    """Records by name, and the folders of inputs and outputs, of one run over all of them."""
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "in").mkdir()
    grey = noisy(luma(clean())[..., :1], 0.1)
    files = {
        "grey.png": saved(stored(np.repeat(grey, 3, -1), "L"), "PNG"),
        "grey-blurred.png": saved(stored(blurred(luma(clean("blurry")), 2.5), "L"), "PNG"),
        "screenshot.jpg": saved(screenshot(), "JPEG", quality=60),
        "phone.jpg": saved(stored(noisy(blurred(clean("blurry"), 2.5), 3 / 255)), "JPEG", quality=90),
        "black.png": saved(cutout(0.0), "PNG"),
        "white.png": saved(cutout(1.0), "PNG"),
    }
    for name, side in SMALL:
        files[f"{name}-{side}.png"] = saved(stored(clean(name)).resize((side, side), Image.Resampling.BOX), "PNG")
    small = np.asarray(stored(clean()).resize((64, 64), Image.Resampling.BOX)) / 255
    files["small-noisy.png"] = saved(stored(noisy(small, 0.07)), "PNG")
    for name, data in files.items():
        (folder / "in" / name).write_bytes(data)
    with pytest.raises(SystemExit) as leave:
        main(["restore", str(folder / "in"), "-o", str(folder / "out"), "-q"])
    assert leave.value.code == 0
    lines = (folder / "out" / ".flashdiff.jsonl").read_text().splitlines()
    found = {line["output"]: line["record"] for line in map(json.loads, lines) if line.get("record")}
    return found, folder


def psnr(path, values):
    with Image.open(path) as picture:
        return -10 * math.log10(max(np.square(np.asarray(picture.convert("RGB")) / 255 - values).mean(), 1e-12))


def gain(restored, name, values):
    folder = restored[1]
    return psnr(folder / "out" / name, values) - psnr(folder / "in" / name, values)


def test_grey_pictures_are_restored(restored):
    assert restored[0]["grey.png"]["degradation"]["kind"] == "noise" and gain(restored, "grey.png", luma(clean())) > 5
    assert restored[0]["grey-blurred.png"]["degradation"]["kind"] == "gaussian-blur"
    assert gain(restored, "grey-blurred.png", luma(clean("blurry"))) > 0.5
    with Image.open(restored[1] / "out" / "grey.png") as picture:
        assert picture.mode == "L"


def test_a_screenshot_comes_back_no_worse(restored):
    wanted = np.asarray(screenshot()) / 255
    assert gain(restored, "screenshot.jpg", wanted) > -0.1
    with Image.open(restored[1] / "out" / "screenshot.jpg") as picture:
        assert np.asarray(picture)[66:94, 72:104].std((0, 1)).max() < 2
    assert restored[0]["screenshot.jpg"]["operator"].get("jpeg_quality", 60) == 60, "the file's own tables say so"


def test_a_small_clean_picture_is_left_alone(restored):
    for name, side in SMALL:
        file = f"{name}-{side}.png"
        with Image.open(restored[1] / "in" / file) as before:
            assert psnr(restored[1] / "out" / file, np.asarray(before) / 255) > 45, restored[0][file]["degradation"]


def test_a_small_noisy_picture_is_not_left_alone(restored):
    small = np.asarray(stored(clean()).resize((64, 64), Image.Resampling.BOX)) / 255
    assert restored[0]["small-noisy.png"]["degradation"]["kind"] == "noise" and gain(restored, "small-noisy.png", small) > 3


def test_what_transparency_hides_decides_nothing(restored):
    black, white = restored[0]["black.png"], restored[0]["white.png"]
    assert black["degradation"] == white["degradation"] and black["steps"] == white["steps"] and black["operator"] == white["operator"]
    assert black["degradation"]["kind"] == "gaussian-blur"
    with Image.open(restored[1] / "out" / "white.png") as picture:
        assert picture.mode == "RGBA" and picture.getpixel((0, 0)) == (255, 255, 255, 0)


def test_a_soft_noisy_jpeg_is_no_labyrinth(restored):
    assert gain(restored, "phone.jpg", clean("blurry")) > 0.5


def test_scratches_vanish(tmp_path, cli):
    values, kept = clean(), np.ones((SIDE, SIDE), bool)
    for place in range(10, SIDE, 31):
        kept[place : place + 2] = kept[:, place + 7 : place + 9] = False
    stored(values * kept[..., None]).save(tmp_path / "scratched.png")
    Image.fromarray(kept).save(tmp_path / "mask.png")
    assert cli("restore", tmp_path / "scratched.png", "--mask", tmp_path / "mask.png", "-q")[0] == 0
    with Image.open(tmp_path / "scratched-restored.png") as picture:
        after = np.asarray(picture) / 255
    assert abs((after - values)[~kept].mean()) < 0.01 and -10 * math.log10(np.square((after - values)[~kept]).mean()) > 24
    assert np.abs(after - values)[kept].max() == 0
