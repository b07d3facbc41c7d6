"""The program on the model that comes with it, from the command line to the pictures."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = ("light", "blurry", "heavy")


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float64) / 255


def psnr(a, b):
    return -10 * math.log10(np.square(pixels(a) - pixels(b)).mean())


@pytest.fixture
def photos(tmp_path):
    for name in NAMES:
        shutil.copyfile(EXAMPLES / f"{name}.png", tmp_path / f"{name}.png")
    return tmp_path


def test_photographs_come_back_nearer_to_what_they_were(photos, cli):
    code, out, err = cli("restore", photos, "--json", "--quiet")
    assert code == 0, err
    records = {Path(r["input"]).stem: r for r in map(json.loads, out.splitlines())}
    assert set(records) == set(NAMES)
    for name, record in records.items():
        clean = EXAMPLES / f"{name}-clean.png"
        gained = psnr(record["output"], clean) - psnr(photos / f"{name}.png", clean)
        assert gained > 1.0, f"{name}: {gained:.2f} dB"
        assert record["operator"]["name"] == "gaussian-blur" and record["network_evaluations"] == record["steps"] > 0
        assert record["steps"] == record["start_step"] < record["schedule_steps"] / 4
    assert records["light"]["severity"] < min(records["blurry"]["severity"], records["heavy"]["severity"])
    assert 2 * records["light"]["steps"] < records["heavy"]["steps"]
    assert records["light"]["operator"]["blur_std"] < records["blurry"]["operator"]["blur_std"]


def test_the_same_command_gives_the_same_picture(photos, cli):
    outputs = []
    for name in ("one.png", "two.png"):
        assert cli("restore", photos / "light.png", "-o", photos / name, "--steps", 50, "--quiet")[0] == 0
        outputs.append((photos / name).read_bytes())
    assert outputs[0] == outputs[1]


def test_severity_and_encode(photos, cli):
    code, out, _ = cli("severity", photos / "blurry.png", "--json", "--quiet")
    seen = json.loads(out)
    assert code == 0 and 0 < seen["severity"] < 1
    code, _, err = cli("encode", photos / "blurry.png", "--quiet")
    assert code == 0, err
    latent = load_file(next(photos.glob("blurry*.safetensors")))["latent"]
    assert latent.shape[-3:] == (8, 64, 64)
    preview = next(p for p in photos.glob("blurry?*.png"))
    clean = EXAMPLES / "blurry-clean.png"
    assert psnr(preview, clean) > psnr(photos / "blurry.png", clean)


def test_missing_pixels_come_back(tmp_path, cli):
    rng = np.random.default_rng(0)
    clean = EXAMPLES / "blurry-clean.png"
    kept = rng.random((256, 256, 1)) < 0.4
    damaged = pixels(clean) * kept
    Image.fromarray((damaged * 255).round().astype(np.uint8)).save(tmp_path / "holes.png")
    Image.fromarray((kept[..., 0] * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    arguments = ("--operator", "mask-inpainting", "--mask-file", tmp_path / "mask.png", "--noise-std", 0.01)
    code, _, err = cli("restore", tmp_path / "holes.png", "--steps", 100, *arguments, "--quiet")
    assert code == 0, err
    assert psnr(tmp_path / "holes-restored.png", clean) > psnr(tmp_path / "holes.png", clean) + 8
