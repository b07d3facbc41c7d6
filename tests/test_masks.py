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
from flashdiff_cli.operators.files import read_mask
from flashdiff_cli.operators.fill import fill
from flashdiff_cli.operators.inpainting import BoxInpainting, MaskInpainting
from flashdiff_cli.pictures.files import Picture, read_picture
from flashdiff_cli.runs.masks import finish_holes, from_alpha, look_at_mask, model_share, only_thin, without_missing
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
    assert from_alpha(Picture(image, alpha=alpha), invert=True).mask.flatten().tolist() == [1 - n for n in expected]
    with pytest.raises(FlashdiffError, match="all of the picture is missing"):
        look_at_mask(image, from_alpha(Picture(image, alpha=np.zeros((1, 6), np.uint8))), {})


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
    lines = [line for line in err.splitlines() if "c.png" in line or "d.png" in line]
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
        (("--invert-mask",), "--mask FILE"),
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


def strokes(colour, where, ground=(255, 255, 255)):
    """RGBA: painted where `where` (H, W) is true, transparent elsewhere."""
    values = np.zeros((H, W, 4), np.uint8)
    values[..., :3] = ground
    values[where] = (*colour, 255)
    return Image.fromarray(values)


def on(ground, colour, where):
    values = np.full((H, W, 3), ground, np.uint8)
    values[where] = colour
    return Image.fromarray(values)


def both_colours(where):
    """Black strokes and white ones, on transparency."""
    values = np.array(strokes((0, 0, 0), where))
    values[-3:] = 255
    return Image.fromarray(values)


MASKS = {
    "grey": lambda gone: Image.fromarray(np.where(gone, 0, 255).astype(np.uint8)),
    "soft": lambda gone: Image.fromarray(np.where(gone, 100, 160).astype(np.uint8)),
    "one-bit": lambda gone: Image.fromarray(~gone),
    "sixteen-bit": lambda gone: Image.fromarray(np.where(gone, 9000, 65535).astype(np.uint16)),
    "palette": lambda gone: on(255, (0, 0, 0), gone).quantize(4),
    "red-on-white": lambda gone: on(255, (255, 0, 0), gone),
    "yellow-on-white": lambda gone: on(255, (255, 255, 0), gone),
    "white-strokes": lambda gone: strokes((255, 255, 255), gone),
    "black-strokes": lambda gone: strokes((0, 0, 0), gone),
    "green-strokes": lambda gone: strokes((0, 255, 0), gone, (0, 0, 0)),
    "strokes-in-grey": lambda gone: strokes((255, 255, 255), gone).convert("LA"),
    "black-and-white-on-transparency": both_colours,
    "cut-out": lambda gone: strokes((255, 255, 255), ~gone),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_all_kinds_say_the_same(tmp_path, kind):
    gone = hole() == 0
    MASKS[kind](gone).save(tmp_path / "m.png")
    mask, notes = read_mask(tmp_path / "m.png")
    assert torch.equal(mask == 0, torch.from_numpy(gone))
    assert [("transparency" in note and "10 %" in note) for note in notes] == (
        [True] if Image.open(tmp_path / "m.png").mode in ("RGBA", "LA") else []
    )


def bits(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_kept_pixels_come_back_as_they_were(restore, model, cli, tmp_path):
    Image.fromarray(scene()).save(tmp_path / "a.png")
    Image.fromarray(hole()).save(tmp_path / "m.png")
    same = {}
    for name, more in {"untold": (), "none": ("--noise-std", "0"), "told": ("--noise-std", "0.05")}.items():
        arguments = (
            "--model",
            model,
            "--start-step",
            "2",
            "--json",
            tmp_path / "a.png",
            "--mask",
            tmp_path / "m.png",
            "-o",
            tmp_path / f"{name}.png",
        )
        code, out, err = cli("restore", *arguments, *more)
        assert code == 0, err
        same[name] = (bits(tmp_path / f"{name}.png") == scene())[hole() > 0].all()
        said = "noise of 0.050 was told" if name == "told" else "kept pixels are as they were"
        assert any(said in note for note in json.loads(out)["notes"])
    assert same == {"untold": True, "none": True, "told": False}


def test_deep_pictures_keep_all_their_bits(model):
    values = np.random.default_rng(0).integers(0, 65536, (H, W, 1)).astype(np.uint16)
    from flashdiff_cli.pictures.picture import from_samples

    picture = from_samples(values)
    operator = MaskInpainting(torch.from_numpy(hole() > 0).float())
    image, _ = finish_holes(torch.zeros_like(picture.image), picture.image, operator, None, 0.0)
    assert (picture.with_image(image).to_samples() == values)[hole() > 0].all()


def test_noise_that_is_found_is_taken_from_kept_pixels_too():
    image, operator = torch.rand(1, 3, H, W), MaskInpainting(torch.from_numpy(hole() > 0).float())
    restored = torch.zeros_like(image)
    noisy, notes = finish_holes(restored, image, operator, None, 0.06)
    assert torch.equal(noisy, restored) and "0.060 was found" in notes[0]
    for found in (0.0, 0.01):
        assert torch.equal(finish_holes(restored, image, operator, None, found)[0], fill(image, operator.kept()))
    blur = OPERATORS["gaussian-blur+mask-inpainting"]
    assert finish_holes(restored, image, blur, None, 0.0)[0] is restored
    assert finish_holes(restored, image, BoxInpainting(0.3, (H, W)), None, 0.0)[1] == []


def test_thin_holes_are_filled_and_deep_ones_are_the_models(restore, model, cli, tmp_path):
    keep = torch.ones(1, 64, 64, dtype=torch.bool)
    keep[:, 4:7, :] = False
    assert only_thin(MaskInpainting(keep.float())) and not only_thin(None) and not only_thin(OPERATORS["identity"]())
    keep[:, 20:60, 10:50] = False
    trust = model_share(keep)[0]
    assert (trust[:20] == 0).all() and trust[40, 30] == 1 and (trust.diff(dim=0).abs() < 0.2).all()
    assert not only_thin(MaskInpainting(keep.float()))
    Image.fromarray(scene()).save(tmp_path / "a.png")
    for depth, expected in ((2, 0), (20, 1)):
        kept = np.full((H, W), 255, np.uint8)
        kept[2 : 2 + depth, 4:34] = 0
        Image.fromarray(kept).save(tmp_path / "m.png")
        given = (tmp_path / "a.png", "--mask", tmp_path / "m.png", "--overwrite")
        code, out, err = cli("restore", "--model", model, "--json", *given)
        assert code == 0, err
        record = json.loads(out)
        assert min(record["start_step"], 1) == expected


def white_is_missing(path):
    Image.fromarray(np.where(thin(), 255, 0).astype(np.uint8)).save(path)
    return path


def thin():
    """A scratch: a fortieth of the picture."""
    gone = np.zeros((H, W), bool)
    gone[11, 4:28] = True
    return gone


def test_an_inverted_mask_gets_a_word_and_can_be_turned(restore, tmp_path):
    Image.fromarray(scene()).save(tmp_path / "a.png")
    mask = white_is_missing(tmp_path / "m.png")
    code, out, err = restore(tmp_path / "a.png", "--mask", mask)
    assert code == 1 and len(err.splitlines()) == 1 and "--invert-mask" in err and "98 %" in err
    assert not (tmp_path / "a-restored.png").exists()
    code, out, err = restore(tmp_path / "a.png", "--mask", mask, "--no-invert-mask", "-o", tmp_path / "right.png")
    assert code == 0 and any("98 %" in note for note in json.loads(out)["notes"])
    code, out, err = restore(tmp_path / "a.png", "--mask", mask, "--invert-mask", "-o", tmp_path / "turned.png")
    assert code == 0, err
    assert json.loads(out)["operator"]["invert_mask"] is True
    Image.fromarray(np.where(thin(), 0, 255).astype(np.uint8)).save(tmp_path / "n.png")
    code, out, err = restore(tmp_path / "a.png", "--mask", tmp_path / "n.png", "-o", tmp_path / "plain.png")
    assert "invert_mask" not in json.loads(out)["operator"]
    assert (bits(tmp_path / "turned.png") == bits(tmp_path / "plain.png")).all()


def looked(gone, values=None, sure=None, inverted=False):
    image = torch.from_numpy(scene() if values is None else values).permute(2, 0, 1)[None].float() / 127.5 - 1
    operator = MaskInpainting(torch.from_numpy(~gone).float(), "m.png", inverted)
    return look_at_mask(image, operator, {"invert_mask": sure})


def test_masks_that_make_no_sense_get_a_word():
    assert looked(thin()) == []
    assert "marks nothing" in looked(np.zeros((H, W), bool))[0]
    assert "counts white" in looked(np.zeros((H, W), bool), inverted=True, sure=True)[0]
    for sure in (None, True, False):
        with pytest.raises(FlashdiffError, match="all of the picture is missing"):
            looked(np.ones((H, W), bool), sure=sure)
    with pytest.raises(FlashdiffError, match="98 % of the picture is missing.*--invert-mask"):
        looked(~thin())
    assert "98 %" in looked(~thin(), sure=False)[0]
    black = scene()
    black[~thin()] = 0
    assert "98 %" in looked(~thin(), black)[0], "what is missing is missing in the picture too"
    gone = np.ones((H, W), bool)
    gone[:, :12] = False
    values = scene()
    values[:, :12] = 0
    assert "of one colour" in looked(gone, values)[0] and looked(gone, values, sure=False) == []
    assert "large holes" in looked(gone)[0]
    gone = np.ones((96, 96), bool)
    gone[44:52] = False
    values = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    assert "large holes" in looked(gone, values)[0] and looked(gone, values, sure=False) == []
    scattered = np.random.default_rng(1).random((96, 96)) < 0.9
    assert looked(scattered, values) == []


def test_a_mask_that_marks_nothing_leaves_the_picture_as_it_is(restore, cli, model, tmp_path):
    Image.fromarray(scene()).save(tmp_path / "a.png")
    Image.new("L", (W, H), 255).save(tmp_path / "m.png")
    code, out, _ = cli("restore", "--model", model, "--json", tmp_path / "a.png", "--mask", tmp_path / "m.png")
    record = json.loads(out)
    assert code == 0 and record["start_step"] == 0 and any("marks nothing" in note for note in record["notes"])
    assert (bits(tmp_path / "a-restored.png") == scene()).all()


def test_the_severity_is_that_of_the_holes(model):
    pipeline = Restorer(model, dtype="float32").pipeline
    image = torch.rand(2, 3, 16, 24) * 2 - 1
    assert pipeline.encoder_for("mask-inpainting")[0] == "severity"
    local = pipeline.severity.local(image)[1]
    where = torch.zeros(1, 16, 24, dtype=torch.bool)
    assert torch.allclose(pipeline.severity(image, where).variance, local.mean((1, 2, 3))), "nowhere is everywhere"
    where[:, 5, 9] = True
    assert torch.allclose(pipeline.severity(image, where).variance, local[:, :, 1, 2].mean(1))
    assert torch.allclose(pipeline.analyse(image, where=where).variance, local[:, :, 1, 2].mean(1))
    operator = MaskInpainting((~where).float())
    result = pipeline(image, operator, 0.0, start_step=0)
    assert torch.allclose(result.variance, pipeline.severity(operator.seen(image), where).variance)


def test_where_holes_are_filled_an_encoder_of_whole_pictures_comes_first():
    from tiny import tiny_pipeline

    from flashdiff_cli.severity import SeverityEncoder

    pipeline = tiny_pipeline()
    for name, trained in (("severity", "random-inpainting"), ("severity_mixed", "identity")):
        encoder = SeverityEncoder.from_first_stage(pipeline.stage, degradations=[{"operator": trained}])
        pipeline.register_modules(**{name: encoder.eval()})
    chosen = {name: pipeline.encoder_for(name)[0] for name in ("mask-inpainting", "box-inpainting", "gaussian-blur")}
    assert chosen == {"mask-inpainting": "severity_mixed", "box-inpainting": "severity_mixed", "gaussian-blur": "severity"}
