"""Holes: a mask file, the picture's own transparency, and the short ways to name masks and kernels."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import save_tiny_model

import flashdiff_cli as flashdiff
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.operators import OPERATORS
from flashdiff_cli.pictures.files import Picture, read_picture
from flashdiff_cli.runs.masks import from_alpha, without_missing
from flashdiff_cli.runs.restorer import Restorer, Settings

H, W = 24, 40


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", defaults={"solver": "ldps", "steps": 20, "eta": 0.0})


@pytest.fixture
def restore(model, cli):
    return lambda *given: cli("restore", "--model", model, "--start-step", "3", "--noise-std", "0.01", "--json", *given)


def hole(top=4, left=6):
    kept = np.full((H, W), 255, np.uint8)
    kept[top : top + 8, left : left + 12] = 0
    return kept


def scene(seed=0):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return np.array(coarse.resize((W, H), Image.Resampling.BICUBIC))


def see_through(path, kept, colours=None, seed=0):
    picture = Image.fromarray(scene(seed) if colours is None else colours)
    picture.putalpha(Image.fromarray(kept))
    picture.save(path)
    return path


def test_the_short_ways_are_the_long_ways(restore, tmp_path):
    Image.fromarray(scene()).save(tmp_path / "a.png")
    Image.fromarray(hole()).save(tmp_path / "m.png")
    Image.fromarray(np.array([[0, 80, 0], [80, 255, 80], [0, 80, 0]], np.uint8)).save(tmp_path / "k.png")
    ways = {
        "mask": (("--mask", tmp_path / "m.png"), ("--operator", "mask-inpainting", "--mask-file", tmp_path / "m.png")),
        "kernel": (("--kernel", tmp_path / "k.png"), ("--operator", "motion-blur", "--kernel-file", tmp_path / "k.png")),
    }
    for name, both in ways.items():
        records = []
        for index, way in enumerate(both):
            code, out, err = restore(tmp_path / "a.png", "-o", tmp_path / f"{name}{index}.png", *way)
            assert code == 0, err
            records.append(json.loads(out))
        assert records[0]["operator"] == records[1]["operator"] and records[0]["operator"]["estimated"] is False
        assert (tmp_path / f"{name}0.png").read_bytes() == (tmp_path / f"{name}1.png").read_bytes()
    assert (tmp_path / "mask0.png").read_bytes() != (tmp_path / "kernel0.png").read_bytes()


@pytest.mark.parametrize("deep", [False, True])
def test_transparency_is_the_mask_and_the_result_is_opaque(restore, tmp_path, deep):
    see_through(tmp_path / "a.png", hole())
    if deep:
        from flashdiff_cli.pictures.picture import from_samples

        values = np.concatenate([scene(), hole()[..., None]], -1).astype(np.uint16) * 257
        flashdiff.write_picture(from_samples(values), tmp_path / "a.png")
    code, out, err = restore(tmp_path / "a.png", "--mask", "alpha")
    assert code == 0, err
    record = json.loads(out)
    assert record["operator"]["mask_file"] == "alpha" and any("opaque" in note for note in record["notes"])
    result = read_picture(tmp_path / "a-restored.png")
    assert result.alpha is None and result.deep == deep


def test_half_opaque_and_more_is_kept():
    alpha = np.array([[0, 100, 127, 128, 200, 255]], np.uint8)
    expected = [0, 0, 0, 1, 1, 1]
    image = torch.zeros(1, 3, 1, 6)
    for picture in (Picture(image, alpha=alpha), Picture(image, alpha=alpha * np.uint16(257), deep=True)):
        assert from_alpha(picture).mask.flatten().tolist() == expected
    with pytest.raises(FlashdiffError, match="no transparency"):
        from_alpha(Picture(image))
    with pytest.raises(FlashdiffError, match="all over"):
        from_alpha(Picture(image, alpha=np.zeros((1, 6), np.uint8)))


def test_what_a_hole_hides_does_not_matter(model, tmp_path):
    """The same picture with red and with green under its transparency; the seed is that of the content, so it is fixed."""
    restorer, images = Restorer(model), []
    for colour in ((255, 0, 0), (0, 255, 0)):
        values = scene()
        values[hole() == 0] = colour
        picture = read_picture(see_through(tmp_path / "a.png", hole(), values))
        picture.digest = b"same"
        images.append(restorer.restore(picture, Settings(mask="alpha", noise_std=0.01, start_step=5))[0].image)
    assert torch.equal(*images)
    y = torch.rand(1, 3, H, W)
    operator = OPERATORS["gaussian-blur"].from_options((H, W), 0, blur_std=1)
    assert without_missing(y, operator) is y and without_missing(y, None) is y


def test_a_chain_that_ends_in_a_mask_hides_it_too(tmp_path):
    Image.fromarray(hole()).save(tmp_path / "m.png")
    options = {"blur_std": 1, "mask_file": str(tmp_path / "m.png")}
    operator = OPERATORS["gaussian-blur+mask-inpainting"].from_options((H, W), 0, **options)
    clean = without_missing(torch.rand(1, 3, H, W), operator)
    missing = torch.from_numpy(hole() == 0)
    assert (clean[..., missing] == -1).all() and (clean[..., ~missing] > -1).all()


def test_in_a_folder_every_picture_has_its_own(restore, tmp_path):
    (tmp_path / "in").mkdir()
    see_through(tmp_path / "in" / "a.png", hole(2, 2))
    see_through(tmp_path / "in" / "b.png", hole(12, 20), seed=1)
    Image.fromarray(scene(2)).save(tmp_path / "in" / "c.png")
    see_through(tmp_path / "in" / "d.png", np.zeros((H, W), np.uint8))
    code, out, err = restore(tmp_path / "in", "-o", tmp_path / "out", "--mask", "alpha")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 1 and [r["status"] for r in records] == ["done", "done", "failed", "failed"]
    lines = err.splitlines()
    assert len(lines) == 2 and "c.png" in lines[0] and "no transparency" in lines[0] and "d.png" in lines[1]
    assert not (tmp_path / "out" / "c.png").exists()


def test_tiles_take_their_part_of_the_mask(model, tmp_path):
    kept = np.full((96, 160), 255, np.uint8)
    kept[30:60, 70:110] = 0
    values = np.full((96, 160, 3), 120, np.uint8)
    picture = read_picture(see_through(tmp_path / "a.png", kept, values))
    restored, record = Restorer(model).restore(picture, Settings(mask="alpha", tile=64, noise_std=0.01, start_step=2))
    assert len(record.tiles) == 8 and restored.size == (96, 160) and restored.alpha is None


def test_a_changed_mask_is_done_again(restore, tmp_path):
    Image.fromarray(scene()).save(tmp_path / "a.png")
    states = []
    for kept in (hole(), hole(), hole(10, 10)):
        Image.fromarray(kept).save(tmp_path / "m.png")
        states.append(json.loads(restore(tmp_path / "a.png", "--mask", tmp_path / "m.png")[1])["status"])
    assert states == ["done", "skipped", "done"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--mask", "M", "--kernel", "M"), "motion-blur+mask-inpainting"),
        (("--mask", "alpha", "--operator", "gaussian-blur", "--blur-std", "1"), "--operator gaussian-blur"),
        (("--mask", "M", "--mask-file", "other.png"), "--mask-file"),
        (("--mask", "M", "--blur-std", "1"), "--blur-std"),
        (("--kernel", "M", "--operator", "mask-inpainting", "--mask-file", "M"), "--operator mask-inpainting"),
        (("--kernel", "M", "--kernel-file", "other.png"), "--kernel-file"),
        (("--mask", "nowhere.png"), "nowhere.png: no such file"),
        (("--kernel", "nowhere.npy"), "nowhere.npy: no such file"),
    ],
)
@pytest.mark.parametrize("command", ["restore", "severity", "encode"])
def test_contradictions_are_usage_errors(model, cli, tmp_path, command, arguments, named):
    Image.fromarray(scene()).save(tmp_path / "a.png")
    Image.fromarray(hole()).save(tmp_path / "m.png")
    arguments = [tmp_path / "m.png" if a == "M" else a for a in arguments]
    code, out, err = cli(command, "--model", model, tmp_path / "a.png", *arguments)
    assert (code, out) == (2, "") and named in err and len(err.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "m.png"]


def test_settings_in_python(model, tmp_path):
    from dataclasses import replace

    given = Settings(mask="alpha", seed=3)
    assert (given.operator, given.operator_options) == ("mask-inpainting", {"mask_file": "alpha"})
    assert replace(given, seed=4).operator_options == {"mask_file": "alpha"}
    assert Settings(operator="motion-blur", kernel=tmp_path / "k.npy").operator_options == {"kernel_file": str(tmp_path / "k.npy")}
    with pytest.raises(UsageError, match="--mask"):
        Settings(mask="m.png", operator="identity")
    see_through(tmp_path / "a.png", hole())
    restored, record = flashdiff.restore(tmp_path / "a.png", model=model, mask="alpha", start_step=1)
    assert restored.mode == "RGB" and record.operator["name"] == "mask-inpainting"
    opened, _ = flashdiff.restore(Image.open(tmp_path / "a.png"), model=model, mask="alpha", start_step=1)
    assert opened.mode == "RGB"


def test_looking_takes_the_transparency_too(model, cli, tmp_path):
    see_through(tmp_path / "a.png", hole())
    code, out, err = cli("severity", "--model", model, tmp_path / "a.png", "--mask", "alpha", "--json")
    assert code == 0, err
    assert json.loads(out)["operator"]["mask_file"] == "alpha"
