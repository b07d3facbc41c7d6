"""The tool in one call: every kind of picture comes back as the kind it was, and many as they are done."""

import ast
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import save_tiny_model

import flashdiff
import flashdiff_cli
from flashdiff_cli.runs.library import settings_of

SETTINGS = {"operator": "gaussian-blur", "blur_std": 1.5, "noise_std": 0.02, "start_step": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", defaults={"solver": "ldps", "steps": 10, "eta": 0.0})


def rgb(size=(24, 20), seed=0, channels=3):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    found = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
    return found if channels == 3 else found[..., :channels] if channels == 1 else np.dstack([found, np.full(size[::-1], 200, np.uint8)])


def test_the_kind_that_was_given_comes_back(model, tmp_path):
    array = rgb()
    pil = Image.fromarray(array)
    pil.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    run = lambda source: flashdiff.restore(source, model=model, **SETTINGS)[0]
    by_name = run(tmp_path / "a.png")
    assert isinstance(by_name, Image.Image)
    from_bytes = run(data)
    assert isinstance(from_bytes, bytes) and Image.open(io.BytesIO(from_bytes)).format == "PNG"
    # One file in three guises has one content, so one seed.
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(from_bytes))), np.asarray(by_name))
    with open(tmp_path / "a.png", "rb") as file:
        assert run(file) == from_bytes
    assert isinstance(run(str(tmp_path / "a.png")), Image.Image) and isinstance(run(pil), Image.Image)
    assert isinstance(run(flashdiff.read_picture(tmp_path / "a.png")), flashdiff.Picture)
    jpeg = io.BytesIO()
    pil.save(jpeg, "JPEG")
    assert Image.open(io.BytesIO(run(jpeg.getvalue()))).format == "JPEG"


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_arrays_keep_type_and_shape(model, dtype, channels):
    top = 1.0 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    array = (rgb(channels=channels) / 255.0 * top).astype(dtype)
    # Nothing is degraded, so nothing is changed: what comes back are the numbers that went in.
    restored, record = flashdiff.restore(array, model=model, operator="identity", noise_std=0.0, start_step=0, fidelity=False)
    assert restored.dtype == array.dtype and restored.shape == array.shape and record.status == "done"
    if channels == 4:
        assert np.allclose(restored[..., 3] / top, array[..., 3] / top, atol=1 / 255)
    plane = array[..., 0]
    grey, _ = flashdiff.restore(plane, model=model, **SETTINGS)
    assert grey.shape == plane.shape and grey.dtype == plane.dtype


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_tensors_keep_type_and_shape(model, dtype):
    tensor = torch.from_numpy(rgb().copy()).permute(2, 0, 1)
    tensor = tensor if dtype == torch.uint8 else (tensor / 255).to(dtype)
    restored, _ = flashdiff.restore(tensor, model=model, **SETTINGS)
    assert restored.dtype == dtype and restored.shape == tensor.shape
    four, _ = flashdiff.restore(tensor[None], model=model, **SETTINGS)
    assert four.shape == (1, *tensor.shape)
    if dtype == torch.float32:
        array, _ = flashdiff.restore(np.ascontiguousarray(tensor.permute(1, 2, 0).numpy()), model=model, **SETTINGS)
        assert np.abs(restored.permute(1, 2, 0).numpy() - array).max() < 1e-6


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (np.zeros((4, 4, 2), np.uint8), "C = 1, 3 or 4"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.full((8, 8, 3), 255.0), "values from 0 to 1"),
        (np.full((8, 8, 3), np.nan), "values from 0 to 1"),
        (torch.zeros(2, 3, 8, 8), "restore_many"),
        (torch.zeros(8, 8, 3), "C, H, W"),
        (io.StringIO("text"), "mode 'rb'"),
        (b"", "empty"),
        (7, "type int"),
    ],
)
def test_what_is_no_picture_is_said_in_one_line(model, source, reason):
    with pytest.raises(flashdiff.FlashdiffError, match=reason) as error:
        flashdiff.restore(source, model=model, **SETTINGS)
    assert len(str(error.value).splitlines()) == 1


def test_options_go_by_their_plain_names():
    settings = settings_of(operator="gaussian-blur", blur_std=2, dc_step=0.5, solver="ldps", seed=3)
    assert settings.operator_options == {"blur_std": 2} and settings.solver_options == {"dc_step": 0.5} and settings.seed == 3
    with pytest.raises(flashdiff.UsageError, match="did you mean 'blur_std'"):
        settings_of(operator="gaussian-blur", blurr_std=2)
    with pytest.raises(flashdiff.UsageError, match="jpeg_quality.*does not go with"):
        settings_of(operator="gaussian-blur", blur_std=2, jpeg_quality=20).check()


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_many_come_in_order_and_a_bad_one_stops_none(model, batch, tmp_path):
    arrays = [rgb(seed=i) for i in range(3)] + [rgb((30, 20), seed=9)]
    sources = [arrays[0], tmp_path / "none.png", arrays[1], arrays[2], b"no picture", arrays[3]]
    found = list(flashdiff.restore_many(iter(sources), model=model, batch=batch, **SETTINGS))
    assert [record.status for _, record in found] == ["done", "failed", "done", "done", "failed", "done"]
    assert "none.png" in found[1][1].error and found[1][0] is None
    for array, (restored, record) in zip(arrays, [found[i] for i in (0, 2, 3, 5)], strict=True):
        alone, own = flashdiff.restore(array, model=model, **SETTINGS)
        # A batch adds up in another order, which may round a value the other way.
        assert np.abs(restored.astype(int) - alone.astype(int)).max() <= 1
        assert (record.start_step, record.network_evaluations, record.seed) == (own.start_step, own.network_evaluations, own.seed)


def test_pictures_of_one_size_share_a_run(model, monkeypatch):
    from flashdiff_cli.pipeline import FlashDiffusionPipeline

    sizes, call = [], FlashDiffusionPipeline.__call__
    monkeypatch.setattr(FlashDiffusionPipeline, "__call__", lambda self, y, *a, **k: sizes.append(len(y)) or call(self, y, *a, **k))
    list(flashdiff.restore_many([rgb(seed=i) for i in range(5)], model=model, batch=2, **SETTINGS))
    assert sizes == [2, 2, 1]


def test_wrong_settings_are_said_before_the_first_picture(model):
    with pytest.raises(flashdiff.UsageError, match="steps"):
        flashdiff.restore_many([], model=model, steps=0)
    with pytest.raises(flashdiff.UsageError, match="batch"):
        flashdiff.restore_many([], model=model, batch=0)


def test_the_names_are_one_list():
    tree = ast.parse(Path(flashdiff_cli.__file__).read_text(encoding="utf-8"))
    typed = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in typed.body for alias in node.names}
    assert seen == {name: f"flashdiff_cli.{home}" for name, home in flashdiff_cli._HOMES.items()}
    assert set(flashdiff_cli.__all__) == set(seen) | {"__version__"} and flashdiff.__all__ == flashdiff_cli.__all__
    for name in flashdiff.__all__:
        assert getattr(flashdiff, name) is getattr(flashdiff_cli, name)
    with pytest.raises(AttributeError):
        flashdiff.no_such_name  # noqa: B018


def test_importing_the_library_imports_no_torch():
    done = subprocess.run([sys.executable, "-c", "import sys, flashdiff; print('torch' in sys.modules)"], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
