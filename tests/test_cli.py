"""The commands from end to end: what they write, print and leave with, on a tiny model and on awkward input."""

import inspect
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny import save_tiny_model

from flashdiff_cli.commands.app import main
from flashdiff_cli.commands.encode import encode
from flashdiff_cli.commands.flags import OPERATOR_FLAGS, SOLVER_FLAGS, SOLVER_NAMES, as_flags
from flashdiff_cli.commands.restore import restore
from flashdiff_cli.commands.severity import severity
from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators import OPERATORS
from flashdiff_cli.parameters import OPERATOR_OPTIONS, SOLVER_OPTIONS
from flashdiff_cli.runs.entries import NAME
from flashdiff_cli.runs.settings import TILE
from flashdiff_cli.solvers import SOLVERS

DEFAULTS = {"solver": "ldps", "steps": 40, "eta": 0.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", defaults=DEFAULTS)


@pytest.fixture
def run(model, capsys):
    """Run the program; (exit code, stdout, stderr)."""

    def call(*arguments, with_model=True):
        extra = ["--model", str(model)] if with_model else []
        try:
            main([*map(str, arguments), *extra])
            code = 0
        except SystemExit as leave:
            code = leave.code or 0
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


def picture(path, size=(37, 29), seed=0, mode="RGB"):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.convert(mode).save(path)
    return path


def files(folder):
    """All files below a folder but the journals of runs."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != NAME)


def test_restore_writes_beside_the_input(run, tmp_path):
    source = picture(tmp_path / "a.png")
    before = source.read_bytes()
    code, out, err = run("restore", source)
    assert code == 0 and err == ""
    assert files(tmp_path) == ["a-restored.png", "a.png"]
    assert source.read_bytes() == before
    assert Image.open(tmp_path / "a-restored.png").size == (37, 29)
    head, line = (row.split("\t") for row in out.splitlines())
    said = dict(zip(head, line, strict=True))
    assert said["input"] == str(source) and (said["width"], said["height"], said["status"]) == ("37", "29", "done")


def test_json_is_one_record_a_picture_and_nothing_else(run, tmp_path):
    picture(tmp_path / "in" / "a.png", seed=1)
    picture(tmp_path / "in" / "b.jpg", seed=2)
    code, out, _err = run("restore", tmp_path / "in", "-o", tmp_path / "out", "--json", "--seed", "5")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [Path(r["input"]).name for r in records] == ["a.png", "b.jpg"]
    for record in records:
        assert record["status"] == "done" and Path(record["output"]).exists()
        assert record["steps"] == record["start_step"] and record["schedule_steps"] == 40
        assert record["severity"] == pytest.approx(record["variance"] ** 0.5, rel=1e-3)
        assert record["operator"]["name"] == "gaussian-blur" and record["operator"]["estimated"] is True
        assert record["seed"] == 5 and record["seconds"]["total"] > 0
    assert files(tmp_path / "out") == ["a.png", "b.jpg"]


def test_the_known_operator_reaches_the_record(run, tmp_path):
    source = picture(tmp_path / "a.png")
    arguments = ("--operator", "gaussian-blur", "--blur-std", "1.5", "--noise-std", "0.02", "--dc-step", "0.5", "--json")
    code, out, _ = run("restore", source, *arguments)
    record = json.loads(out)
    assert code == 0
    assert record["operator"] == {"name": "gaussian-blur", "blur_std": 1.5, "estimated": False}
    assert record["noise_std"] == 0.02 and record["solver"]["dc_step"] == 0.5


@pytest.mark.parametrize(
    "arguments",
    [
        ("--operator", "random-inpainting", "--kept-fraction", "0.5"),
        ("--operator", "identity"),
        ("--operator", "motion-blur"),
        ("--operator", "gaussian-blur+random-inpainting", "--blur-std", "1", "--kept-fraction", "0.7"),
        ("--solver", "unguided"),
        ("--solver", "gml-dps"),
        ("--start", "inversion"),
    ],
)
def test_operators_and_solvers_run_from_the_command_line(run, tmp_path, arguments):
    source = picture(tmp_path / "a.png")
    code, _, err = run("restore", source, *arguments, "--start-step", "2")
    assert (code, err) == (0, "")
    assert (tmp_path / "a-restored.png").exists()


def test_downsampling_gives_a_larger_picture(run, tmp_path):
    source = picture(tmp_path / "a.png", (21, 13))
    code, _, err = run("restore", source, "--operator", "downsampling", "--factor", "2", "--start-step", "2")
    assert (code, err) == (0, "")
    assert Image.open(tmp_path / "a-restored.png").size == (42, 26)


def test_a_picture_alone_and_among_others_comes_out_the_same(run, tmp_path):
    for i in range(3):
        picture(tmp_path / "in" / f"{i}.png", seed=i)
    run("restore", tmp_path / "in", "-o", tmp_path / "all")
    run("restore", tmp_path / "in" / "1.png", "-o", tmp_path / "one.png")
    assert (tmp_path / "all" / "1.png").read_bytes() == (tmp_path / "one.png").read_bytes()


def test_the_seed_matters_and_repeats(run, tmp_path):
    source = picture(tmp_path / "a.png")
    results = []
    for name, seed in (("x", 0), ("y", 0), ("z", 1)):
        run("restore", source, "-o", tmp_path / f"{name}.png", "--seed", seed, "--start-step", "30")
        results.append((tmp_path / f"{name}.png").read_bytes())
    assert results[0] == results[1] != results[2]


def test_fast_takes_no_step(run, tmp_path):
    source = picture(tmp_path / "a.png")
    _, out, _ = run("restore", source, "--fast", "-o", tmp_path / "fast.png", "--json")
    record = json.loads(out)
    assert record["start_step"] == record["network_evaluations"] == 0
    run("restore", source, "--start-step", "0", "-o", tmp_path / "zero.png")
    assert (tmp_path / "fast.png").read_bytes() == (tmp_path / "zero.png").read_bytes()
    code, _, err = run("restore", source, "--fast", "--start-step", "3", "-o", tmp_path / "both.png")
    assert code == 2 and err.count("\n") == 1 and "--fast" in err and not (tmp_path / "both.png").exists()


def test_start_step_0_is_the_decoded_estimate(run, tmp_path):
    source = picture(tmp_path / "a.png", (32, 24))
    _, out, _ = run("restore", source, "--start-step", "0", "--json")
    assert json.loads(out)["network_evaluations"] == 0
    run("encode", source)
    assert np.array_equal(np.array(Image.open(tmp_path / "a-restored.png")), np.array(Image.open(tmp_path / "a-latent.png")))


def test_recursion_mirrors_the_tree_and_collisions_get_numbers(run, tmp_path):
    picture(tmp_path / "in" / "x" / "a.png")
    picture(tmp_path / "in" / "b.png")
    code, _out, _ = run("restore", tmp_path / "in", "-r", "-o", tmp_path / "out", "--format", "webp", "--start-step", "0")
    assert code == 0 and files(tmp_path / "out") == ["b.webp", "x/a.webp"]
    picture(tmp_path / "p" / "a.png", seed=1)
    picture(tmp_path / "q" / "a.png", seed=2)
    run("restore", tmp_path / "p" / "a.png", tmp_path / "q" / "a.png", "-o", tmp_path / "both", "--start-step", "0")
    assert files(tmp_path / "both") == ["a-2.png", "a.png"]


def test_severity_agrees_with_restore(run, tmp_path):
    source = picture(tmp_path / "a.png")
    restored = json.loads(run("restore", source, "--json")[1])
    looked = json.loads(run("severity", source, "--json")[1])
    for key in ("severity", "start_step", "schedule_steps", "operator", "noise_std"):
        assert looked[key] == restored[key]
    assert looked["output"] is None and looked["steps"] is None
    code, out, _ = run("severity", source)
    assert code == 0 and out.splitlines()[1].split("\t")[0] == str(source)


def test_encode_writes_latent_and_preview(run, tmp_path):
    source = picture(tmp_path / "a.png", (37, 29))
    code, out, _ = run("encode", source, "-o", tmp_path / "out", "--json")
    assert code == 0 and files(tmp_path / "out") == ["a-latent.png", "a-latent.safetensors"]
    tensors = load_file(tmp_path / "out" / "a-latent.safetensors")
    assert tensors["latent"].shape == (1, 4, 8, 10) and tensors["variance"].shape == (1,)
    assert tensors["variance"].item() == pytest.approx(json.loads(out)["variance"], abs=1e-5)
    assert run("encode", source, "-o", tmp_path / "out")[0] == 0
    for name in files(tmp_path / "out"):
        before = (tmp_path / "out" / name).read_bytes()
        (tmp_path / "out" / name).write_bytes(b"my own")
        code, _, err = run("encode", source, "-o", tmp_path / "out")
        assert code == 1 and name in err and (tmp_path / "out" / name).read_bytes() == b"my own"
        (tmp_path / "out" / name).write_bytes(before)
    picture(tmp_path / "other" / "a.png", (37, 29), seed=1)
    assert run("encode", tmp_path / "other" / "a.png", "-o", tmp_path / "out")[0] == 1
    assert run("encode", tmp_path / "other" / "a.png", "-o", tmp_path / "out", "--overwrite")[0] == 0


def test_encode_notes_what_its_preview_cannot_hold(run, tmp_path):
    """In the record, and in the journal's line for the latent, which a later run shows."""
    rng, iptc = np.random.default_rng(0), b"\x1c\x02\x78\x00\x04fair"
    resources = b"8BIM\x04\x04\0\0" + len(iptc).to_bytes(4, "big") + iptc + bytes(len(iptc) & 1)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(buffer, "JPEG")
    segment = b"Photoshop 3.0\0" + resources
    data = buffer.getvalue()
    (tmp_path / "a.jpg").write_bytes(data[:2] + b"\xff\xed" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:])
    code, out, _ = run("encode", tmp_path / "a.jpg", "--json")
    assert code == 0 and any("IPTC" in note for note in json.loads(out)["notes"])
    lines = [json.loads(line) for line in (tmp_path / ".flashdiff.jsonl").read_text().splitlines()]
    kept = next(line["record"] for line in lines if line["output"].endswith(".safetensors") and line.get("record"))
    assert kept["notes"] == json.loads(out)["notes"]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_picture_comes_back_as_it_was(run, tmp_path, mode):
    source = tmp_path / ("a.tif" if mode in ("CMYK", "I;16") else "a.png")
    if mode == "I;16":
        Image.fromarray(np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)).save(source)
    else:
        picture(source, (32, 32), mode=mode)
    code, _, err = run("restore", source, "--start-step", "0")
    assert (code, err) == (0, "")
    result = Image.open(source.with_name(f"a-restored{source.suffix}"))
    expected = {"1": "L", "P": "RGB", "CMYK": "RGB"}.get(mode, mode)
    assert result.mode == expected and result.size == (32, 32)
    if mode in ("LA", "RGBA"):
        assert np.array_equal(np.array(result.getchannel("A")), np.array(Image.open(source).getchannel("A")))


def test_exif_rotation_is_applied_once_and_the_profile_kept(run, tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a caption"
    profile = b"not looked into"
    Image.new("RGB", (40, 24), "red").save(tmp_path / "a.png", exif=exif, icc_profile=profile)
    assert run("restore", tmp_path / "a.png", "--start-step", "0")[0] == 0
    result = Image.open(tmp_path / "a-restored.png")
    assert result.size == (24, 40) and result.info["icc_profile"] == profile
    assert 0x0112 not in result.getexif() and result.getexif()[0x010E] == "a caption"


def bad_files(folder):
    folder.mkdir(parents=True, exist_ok=True)
    whole = picture(folder / "whole.png", (64, 64)).read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("this is no picture")
    jpeg = picture(folder / "j.jpg", (64, 64)).read_bytes()
    (folder / "truncated.jpg").write_bytes(jpeg[:300])
    (folder / "j.jpg").unlink()
    return ["empty.png", "text.png", "truncated.jpg", "truncated.png"]


def test_bad_files_in_a_folder_fail_alone(run, tmp_path):
    bad = bad_files(tmp_path / "in")
    code, out, err = run("restore", tmp_path / "in", "-o", tmp_path / "out", "--json")
    assert code == 1
    assert files(tmp_path / "out") == ["whole.png"]
    records = {Path(r["input"]).name: r for r in map(json.loads, out.splitlines())}
    assert sorted(name for name, r in records.items() if r["status"] == "failed") == bad
    lines = [line for line in err.splitlines() if line.startswith(f"flashdiff: {tmp_path}")]
    assert len(lines) == len(bad) and all(name in line for name, line in zip(bad, lines, strict=True))
    assert err.splitlines()[-1] == f"flashdiff: 1 restored, {len(bad)} failed"


@pytest.mark.parametrize("command", ["restore", "severity", "encode"])
def test_one_bad_file_is_one_line_and_nothing_written(run, tmp_path, command):
    for name in bad_files(tmp_path / "in"):
        before = files(tmp_path)
        code, _out, err = run(command, tmp_path / "in" / name, "--json")
        assert code == 1 and len(err.splitlines()) == 1 and name in err
        assert files(tmp_path) == before
    code, _, err = run(command, tmp_path / "nowhere.png", "--json")
    assert code == 1 and "nowhere.png: no such file" in err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--operator", "gaussian-blur", "--blur-std", "-1"), "--blur-std"),
        (("--operator", "gaussian-blur", "--blur-std", "nan"), "--blur-std"),
        (("--operator", "gaussian-blur"), "--blur-std"),
        (("--blur-std", "2"), "--operator"),
        (("--operator", "gaussian-blur", "--kept-fraction", "0.5"), "--kept-fraction"),
        (("--operator", "fog"), "fog"),
        (("--solver", "magic"), "magic"),
        (("--solver", "unguided", "--dc-step", "1"), "--dc-step"),
        (("--steps", "0"), "--steps"),
        (("--eta", "2"), "--eta"),
        (("--noise-std", "-0.1"), "--noise-std"),
        (("--start-step", "41"), "--start-step"),
        (("--start", "sideways"), "sideways"),
        (("--device", "abacus"), "abacus"),
        (("--dtype", "int3"), "int3"),
        (("--encoder", "none"), "none"),
        (("--format", "doc"), "doc"),
        (("--output", "result.xyz"), ".xyz"),
        (("--noise-correction", "-1"), "correction"),
    ],
)
def test_absurd_settings_are_usage_errors(run, tmp_path, arguments, named):
    source = picture(tmp_path / "a.png")
    code, out, err = run("restore", source, *arguments)
    assert (code, out) == (2, "") and named in err and len(err.splitlines()) == 1
    assert files(tmp_path) == ["a.png"]


def test_an_output_never_replaces_an_input(run, tmp_path):
    source = picture(tmp_path / "a.png")
    before = source.read_bytes()
    code, _, err = run("restore", source, "-o", source)
    assert code == 2 and "overwrite" in err and source.read_bytes() == before


def test_wrong_models_are_named(run, tmp_path, model):
    source = picture(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    cases = [(tmp_path / "empty", 1, "model_index.json"), ("nosuchmodel", 2, "nosuchmodel")]
    broken = tmp_path / "broken"
    import shutil

    shutil.copytree(model, broken)
    weights = next((broken / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])
    cases.append((broken, 1, "unet"))
    for given, expected, named in cases:
        code, out, err = run("restore", source, "--model", given, with_model=False)
        assert (code, out) == (expected, "") and named in err and len(err.splitlines()) == 1
    assert not (tmp_path / "a-restored.png").exists()


def test_flags_are_those_of_operators_and_solvers():
    for registry, table, flags in ((OPERATORS, OPERATOR_OPTIONS, OPERATOR_FLAGS), (SOLVERS, SOLVER_OPTIONS, SOLVER_FLAGS)):
        assert {name: registry[name].options for name in table} == table
        options = [option for of in table.values() for option in of]
        # One flag for each option; those of equal name are the same option.
        assert [f.name for f in flags] == list(dict.fromkeys(option.name for option in options)) == list({f.name: 1 for f in flags})
        assert {f.name: f.type for f in flags} == {option.name: option.type for option in options}
    assert set(OPERATOR_OPTIONS) == set(OPERATORS) and set(SOLVER_NAMES) <= set(SOLVERS)
    assert {inspect.signature(c).parameters["tile"].default for c in (restore, severity, encode)} == {TILE}


def test_help_says_who_takes_an_option_its_range_and_its_default(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = cli("restore", "--help-all")
    text = " ".join(out.replace("\u2502", " ").split())
    assert code == 0 and "gaussian-blur: standard deviation of the blur in pixels (0.05 to 10)" in text
    assert "ldps, gml-dps, psld: step of the data-consistency gradient (eta in the paper) (0 to 1,000,000; default 1)" in text
    assert "(norm or bayes; default norm)" in text


def test_the_library_names_parameters_and_the_command_line_flags(cli, tmp_path):
    with pytest.raises(UsageError, match="`blur_std` 99.0 is out of range"):
        OPERATORS["gaussian-blur"].from_options((8, 8), 0, blur_std=99)
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    code, _, err = cli("restore", tmp_path / "a.png", "--operator", "gaussian-blur", "--blur-std", "99")
    assert code == 2 and err.startswith("flashdiff: --blur-std 99.0 is out of range; give a number from 0.05 to 10")
    assert as_flags("`dc_step` and `no_parameter` of `owner/name`") == "--dc-step and `no_parameter` of `owner/name`"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"]]
    + [[c, "--help"] for c in ("restore", "severity", "encode", "compare", "report", "serve", "watch", "bench", "convert", "models", "train")],
)
def test_help_needs_no_torch(arguments):
    code = f"import sys\nfrom flashdiff_cli.commands.app import main\ntry:\n main({arguments!r})\nexcept SystemExit as e:\n assert not e.code\n"
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_python_verb(model, tmp_path):
    import flashdiff_cli as flashdiff

    source = picture(tmp_path / "a.png", (33, 20))
    from_file, record = flashdiff.restore(source, model=model, start_step=3)
    assert from_file.size == (33, 20) and record.steps == 3 and record.input == str(source)
    opened, _ = flashdiff.restore(Image.open(source), model=model, start_step=0)
    assert opened.size == (33, 20)
    with pytest.raises(flashdiff.FlashdiffError, match="no such file"):
        flashdiff.restore(tmp_path / "none.png", model=model)


def test_train_from_the_command_line(run, tmp_path):
    for i in range(4):
        picture(tmp_path / "data" / f"{i}.png", (80, 72), seed=i)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'stage = "autoencoder"\ncrop = 16\nbatch = 2\nsteps = 2\nworkers = 0\n[model]\nlatent_channels = 4\n'
        'encoder_block_types = "ResBlock"\ndecoder_block_types = "ResBlock"\n'
        "encoder_block_out_channels = [16, 64, 128]\ndecoder_block_out_channels = [16, 64, 128]\n"
        "encoder_layers_per_block = [0, 1, 1]\ndecoder_layers_per_block = [0, 1, 1]\n"
        "encoder_qkv_multiscales = [[], [], []]\ndecoder_qkv_multiscales = [[], [], []]\n"
    )
    data = ("--data", f"all={tmp_path / 'data'}", "--val", f"all={tmp_path / 'data'}")
    arguments = ("train", "autoencoder", "--recipe", recipe, *data, "--out", tmp_path / "run", "--device", "cpu")
    code, _, err = run(*arguments, with_model=False)
    assert code == 0 and "psnr_all" in err, err
    assert (tmp_path / "run" / "first_stage" / "config.json").exists()
    code, _, err = run("train", "severity", "--recipe", recipe, *data, "--out", tmp_path / "x", with_model=False)
    assert code == 2 and "recipe" in err
    assert torch.isfinite(load_file(next((tmp_path / "run" / "first_stage").glob("*.safetensors")))["decoder.conv_in.weight"]).all()
