"""Enlarging a picture that is sharp but small: the output's size, what is told apart, and more detail than interpolation has."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import save_tiny_model, tiny_pipeline

from flashdiff_cli.classifier import KINDS, PARAMETERS, Degradation
from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators import Downsampling, Jpeg
from flashdiff_cli.pictures.files import from_pil, read_picture
from flashdiff_cli.pictures.tiles import Tile
from flashdiff_cli.runs.enlarging import noise_of_small
from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.restorer import Restorer, Settings

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", defaults={"solver": "ldps", "steps": 40, "eta": 0.0})


def small(size=(21, 14), mode="RGB"):
    values = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((np.asarray(a, float) - np.asarray(b, float)) ** 2))


@pytest.mark.parametrize("scale", [2, 4])
def test_the_result_is_so_many_times_larger(cli, model, tmp_path, scale):
    small().save(tmp_path / "a.png")
    code, out, _ = cli("restore", tmp_path / "a.png", "--scale", scale, "--start-step", "2", "--json", "--model", model)
    record = json.loads(out)
    assert code == 0 and Image.open(record["output"]).size == (21 * scale, 14 * scale)
    assert (record["width"], record["height"]) == (21 * scale, 14 * scale)
    assert record["operator"]["name"] == "downsampling" and record["operator"]["factor"] == scale and record["operator"]["estimated"] is False


def test_scale_is_short_for_downsampling(model):
    """Bit for bit, where the noise is given."""
    restorer = Restorer(model)
    short, _ = restorer.restore(from_pil(small()), Settings(scale=2, noise_std=0.01, start_step=2))
    long, _ = restorer.restore(from_pil(small()), Settings(operator="downsampling", operator_options={"factor": 2}, noise_std=0.01, start_step=2))
    assert torch.equal(short.image, long.image)


def test_transparency_grows_too(model):
    picture = small(mode="RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    restored, _ = Restorer(model).restore(from_pil(picture), Settings(scale=2, start_step=0))
    alpha = restored.to_pil().getchannel("A")
    assert alpha.size == (42, 28) and alpha.getpixel((5, 0)) < 20 < 230 < alpha.getpixel((5, 27))


def test_journals_tell_it_from_plain_downsampling():
    """Which reads the noise otherwise."""
    long = Settings(operator="downsampling", operator_options={"factor": 2})
    assert Settings(scale=2).identity() == long.identity() | {"scale": 2} and "scale" not in long.identity()


def test_an_operator_besides_acts_on_the_small_picture():
    settings = Settings(scale=2, operator="gaussian-blur", operator_options={"blur_std": 1.0})
    assert settings.operator == "downsampling+gaussian-blur" and settings.operator_options == {"blur_std": 1.0, "factor": 2}
    settings.check()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mask": "alpha"}, "--mask alpha exclude"),
        ({"operator": "downsampling", "operator_options": {"factor": 2}}, "--scale means"),
        ({"operator_options": {"factor": 3}}, "contradict"),
    ],
)
def test_what_contradicts_it_is_refused(given, said):
    with pytest.raises(UsageError, match=said):
        Settings(scale=2, **given)


@pytest.mark.parametrize("scale", ["1", "5", "1.5"])
def test_other_factors_are_wrong_usage(cli, model, tmp_path, scale):
    small().save(tmp_path / "a.png")
    assert cli("restore", tmp_path / "a.png", "--scale", scale, "--model", model)[0] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png"]


def test_a_result_with_too_many_pixels_is_refused(cli, model, tmp_path, monkeypatch):
    small((60, 60)).save(tmp_path / "a.png")
    monkeypatch.setenv("FLASHDIFF_MAX_MEGAPIXELS", "0.01")
    code, _, err = cli("restore", tmp_path / "a.png", "--scale", "2", "--model", model)
    assert code == 1 and "120 x 120 pixels" in err and "--scale" in err and "FLASHDIFF_MAX_MEGAPIXELS" in err
    assert not (tmp_path / "a-restored.png").exists()


class Says:
    """A pipeline whose classifier is sure of one kind."""

    def __init__(self, kind, **values):
        probabilities = torch.full((1, len(KINDS)), 0.01)
        probabilities[0, KINDS.index(kind)] = 1 - 0.01 * (len(KINDS) - 1)
        parameters = torch.zeros(1, len(PARAMETERS))
        for name, value in values.items():
            parameters[0, PARAMETERS.index(name)] = value
        self.found = Degradation(probabilities, parameters)

    def classify(self, measurement):
        return self.found


def read_noise(pipeline, picture=None):
    picture = from_pil(small((64, 64))) if picture is None else picture
    record, size = Record("a"), tuple(2 * side for side in picture.size)
    operator = Downsampling(2, size)
    return noise_of_small(pipeline, picture, picture.image, [Tile(0, 0, *size)], operator, record), record


def test_texture_of_a_sharp_picture_is_not_taken_for_noise():
    """White noise all over is what the finest texture looks like; the classifier says that nothing is wrong."""
    noise, record = read_noise(Says("none"))
    assert noise == 0 and record.notes == []
    assert read_noise(tiny_pipeline())[0] > 0.1  # without a classifier the finest band is all there is


def test_rounding_in_a_jpeg_is_noise(tmp_path):
    small((64, 64)).save(tmp_path / "a.jpg", quality=40)
    picture = read_picture(tmp_path / "a.jpg")
    noise, _ = read_noise(Says("none"), picture)
    assert noise == pytest.approx(Jpeg.of_file(picture.jpeg_tables, picture.subsampling).noise_std().item()) and noise > 0.005


def test_a_picture_that_is_soft_itself_gets_a_note():
    _, record = read_noise(Says("gaussian-blur"))
    assert "looks blurred" in record.notes[0] and "restore it first" in record.notes[0]


def test_tiles_agree_with_the_whole(model):
    """Enlarged in tiles, the picture is where it was: each tile's operator is its part of the whole one."""
    smooth = Image.fromarray(np.random.default_rng(1).integers(60, 200, (5, 5, 3), dtype=np.uint8)).resize((80, 72), Image.Resampling.BICUBIC)
    restorer = Restorer(model)
    whole, tiled = (restorer.restore(from_pil(smooth), Settings(scale=2, start_step=0, noise_std=0.0, tile=tile))[0] for tile in (0, 96))
    inner = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    assert (whole.image - tiled.image)[inner].abs().mean() < 0.02


def test_the_shipped_model_beats_interpolation():
    """By at least 0.5 dB over Lanczos, on a photograph that was halved; the small picture is what the result shrinks to."""
    clean = Image.open(ROOT / "examples" / "light-clean.png").convert("RGB").crop((0, 0, 128, 128))
    halved = clean.resize((64, 64), Image.Resampling.BICUBIC)
    restored, record = Restorer("photos").restore(from_pil(halved), Settings(scale=2, start_step=0))
    result = restored.to_pil()
    assert psnr(result, clean) > psnr(halved.resize(clean.size, Image.Resampling.LANCZOS), clean) + 0.5
    assert psnr(result.resize((64, 64), Image.Resampling.BICUBIC), halved) > 40
    assert record.network_evaluations == 0
