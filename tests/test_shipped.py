"""The program on the model that comes with it, from the command line to the pictures."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from flashdiff_cli.classifier import KINDS
from flashdiff_cli.operators import Enlargement, GaussianBlur, Identity, Jpeg, MotionBlur
from flashdiff_cli.operators.motion_blur import straight_kernel
from flashdiff_cli.pictures.files import Picture, read_picture, write_picture

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = ("light", "blurry", "heavy")


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float64) / 255


def psnr(a, b):
    return -10 * math.log10(max(np.square(pixels(a) - pixels(b)).mean(), 1e-12))


def middle(image, side):
    """Of (..., H, W), on which a run takes as much less as it is smaller."""
    top, left = ((size - side) // 2 for size in image.shape[-2:])
    return image[..., top : top + side, left : left + side]


def cropped(source, target, side):
    write_picture(Picture(middle(read_picture(source).image, side)), target)


@pytest.fixture
def photos(tmp_path):
    for name in NAMES:
        shutil.copyfile(EXAMPLES / f"{name}.png", tmp_path / f"{name}.png")
    return tmp_path


def test_photographs_come_back_nearer_to_what_they_were(tmp_path, cli):
    photos, originals = tmp_path / "photos", tmp_path / "originals"
    photos.mkdir(), originals.mkdir()
    for name in NAMES:
        cropped(EXAMPLES / f"{name}.png", photos / f"{name}.png", 160)
        cropped(EXAMPLES / f"{name}-clean.png", originals / f"{name}.png", 160)
    code, out, err = cli("restore", photos, "--json", "--quiet")
    assert code == 0, err
    records = {Path(r["input"]).stem: r for r in map(json.loads, out.splitlines())}
    assert set(records) == set(NAMES)
    for name, record in records.items():
        clean = originals / f"{name}.png"
        gained = psnr(record["output"], clean) - psnr(photos / f"{name}.png", clean)
        assert gained > 1.0, f"{name}: {gained:.2f} dB"
        assert record["network_evaluations"] == record["steps"] and record["operator"]["estimated"]
        assert (record["steps"] > 0) == (record["degradation"]["kind"] not in ("noise", "jpeg")), "what takes only noise out takes no steps"
        assert record["steps"] == record["start_step"] < record["schedule_steps"] / 4
    assert records["light"]["severity"] < min(records["blurry"]["severity"], records["heavy"]["severity"])
    assert 2 * records["light"]["steps"] < records["heavy"]["steps"]
    # A blur of less than a pixel drowns in noise of 0.05.
    assert records["light"]["degradation"]["kind"] in ("noise", "gaussian-blur")
    for name, blur in (("blurry", 2.0), ("heavy", 3.0)):
        assert records[name]["degradation"]["kind"] == "gaussian-blur" and abs(records[name]["operator"]["blur_std"] / blur - 1) < 0.25


def test_the_same_command_gives_the_same_picture(tmp_path, cli):
    outputs = []
    cropped(EXAMPLES / "blurry.png", tmp_path / "blurry.png", 128)
    for name in ("one.png", "two.png"):
        code, out, _ = cli("restore", tmp_path / "blurry.png", "-o", tmp_path / name, "--steps", 50, "--json", "--quiet")
        assert code == 0 and json.loads(out)["steps"] > 0
        outputs.append((tmp_path / name).read_bytes())
    assert outputs[0] == outputs[1]


def test_severity_and_encode(photos, cli):
    code, out, _ = cli("severity", photos / "blurry.png", "--json", "--quiet")
    seen = json.loads(out)
    assert code == 0 and 0 < seen["severity"] < 1
    code, _, err = cli("encode", photos / "blurry.png", "--quiet")
    assert code == 0, err
    latent = load_file(next(photos.glob("blurry*.safetensors")))["latent"]
    assert latent.shape[-3:] == (16, 64, 64)
    preview = next(p for p in photos.glob("blurry?*.png"))
    clean = EXAMPLES / "blurry-clean.png"
    assert psnr(preview, clean) > psnr(photos / "blurry.png", clean)


def test_missing_pixels_come_back(tmp_path, cli):
    rng, clean = np.random.default_rng(0), tmp_path / "clean.png"
    cropped(EXAMPLES / "blurry-clean.png", clean, 128)
    kept = rng.random((128, 128, 1)) < 0.4
    damaged = pixels(clean) * kept
    Image.fromarray((damaged * 255).round().astype(np.uint8)).save(tmp_path / "holes.png")
    Image.fromarray((kept[..., 0] * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    arguments = ("--operator", "mask-inpainting", "--mask-file", tmp_path / "mask.png", "--noise-std", 0.01)
    code, _, err = cli("restore", tmp_path / "holes.png", "--steps", 100, *arguments, "--quiet")
    assert code == 0, err
    assert psnr(tmp_path / "holes-restored.png", clean) > psnr(tmp_path / "holes.png", clean) + 8


def hidden(kind, clean):
    """A clean picture as a file that suffers from one kind of degradation."""
    image = read_picture(clean).image
    operators = {
        "gaussian-blur": (GaussianBlur(2.0), 0.01),
        "motion-blur": (MotionBlur(straight_kernel(12.0, 0.5)[None]), 0.01),
        "noise": (Identity(), 0.08),
        "jpeg": (Jpeg(20.0), 0.0),
        "downsampling": (Enlargement(3.0), 0.0),
        "none": (Identity(), 0.0),
    }
    operator, noise_std = operators[kind]
    return Picture(operator.measure(image, noise_std, [torch.Generator().manual_seed(0)]))


@pytest.mark.parametrize("quality", [None, 90])
def test_the_width_of_a_blur_is_seen(quality, cli, tmp_path):
    """Within a sixth on average, behind a camera's JPEG too (where a blur of one pixel looks like an enlargement)."""
    off, widths = [], (1.6, 2.4) if quality else (1.0, 1.6, 2.4)
    for name in NAMES:
        image = middle(read_picture(EXAMPLES / f"{name}-clean.png").image, 160)
        for width in widths:
            blurred = GaussianBlur(width).measure(image, 0.01, [torch.Generator().manual_seed(0)])
            path = tmp_path / (f"{name}-{width}" + (".jpg" if quality else ".png"))
            pixels = ((blurred[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(path, **({"quality": quality} if quality else {}))
    code, out, err = cli("restore", tmp_path, "--fast", "--json", "--quiet")
    assert code == 0, err
    for record in map(json.loads, out.splitlines()):
        width = float(Path(record["input"]).stem.split("-")[1])
        assert record["degradation"]["kind"] == "gaussian-blur", record["input"]
        off.append(abs(math.log(record["operator"]["blur_std"] / width)))
    assert len(off) == 3 * len(widths) and sum(off) / len(off) < math.log(7 / 6) and max(off) < math.log(1.5), off


@pytest.mark.parametrize("kind", KINDS)
def test_the_degradation_is_found_and_no_picture_gets_worse(kind, cli, tmp_path):
    for name in ("blurry", "light"):
        clean, before = tmp_path / "clean.png", tmp_path / f"{name}.png"
        # Whole where that takes seconds, a quarter of it where there are steps.
        cropped(EXAMPLES / f"{name}-clean.png", clean, 256 if kind in ("noise", "jpeg", "none") else 128)
        write_picture(hidden(kind, clean), before)
        code, out, err = cli("restore", before, "--json", "--quiet")
        assert code == 0, err
        record = json.loads(out)
        assert record["degradation"]["kind"] == kind, record["degradation"]
        if kind == "none":
            # Hardly touched: at most half a step of 1 / 255 off on average, and often not at all.
            assert psnr(record["output"], before) > 50 and record["steps"] == 0
        else:
            assert psnr(record["output"], clean) > psnr(before, clean)
