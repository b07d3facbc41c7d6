"""A severity encoder for a model that stands elsewhere: one command, any number of processes and passes, a folder that refers to its base."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import save_tiny_model
from tiny_pipelines import save_pipeline

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.models.base import base_folder
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.training import Recipe, train
from flashdiff_cli.training.degradation import Degradations
from flashdiff_cli.training.parts import Part
from flashdiff_cli.training.recipe import BUILT_IN, find_recipe

DEGRADATIONS = [
    {"operator": "gaussian-blur", "blur_std": [0.3, 3.0], "noise_std": 0.05, "noise_spread": 0.3},
    {"operator": "motion-blur", "blur_length": [3.0, 9.0], "blur_shake": [0.0, 0.6]},
    {"operator": "random-inpainting", "kept_fraction": [1.0, 0.2]},
    {"operator": "identity", "noise_std": 0.05},
]
SMALL = {"crop": 32, "batch": 4, "warmup": 2, "validate_every": 1000, "workers": 0, "precision": "no", "validation_limit": 1, "size_multiple": 32}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "photos"
    folder.mkdir()
    for i in range(8):
        coarse = np.random.default_rng(i).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A latent diffusion model of diffusers with a KL autoencoder, without severity encoder."""
    return save_pipeline("ldm-kl", tmp_path_factory.mktemp("base") / "ldm")


def recipe(**changes):
    return Recipe("severity", **SMALL | {"steps": 4, "degradation": DEGRADATIONS, "loss": {"variance_form": "local", "image_share": 0.5}} | changes)


@pytest.mark.parametrize("count", [2, 3])
def test_parts_of_a_batch_get_what_the_whole_gives_them(count):
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mixture = Degradations(DEGRADATIONS)
    draw = lambda some, part: mixture.draw(some, torch.Generator().manual_seed(1), part=part)
    whole = draw(images, Part())
    for index in range(count):
        part = draw(images[index::count], Part(index, count))
        assert torch.allclose(part.measured, whole.measured[index::count], atol=1e-5)
        assert torch.equal(part.kinds, whole.kinds[index::count]) and torch.equal(part.noise_std, whole.noise_std[index::count])


def test_passes_of_a_batch_are_the_batch(photos, base, tmp_path):
    weights = {}
    for accumulate in (1, 2):
        out = tmp_path / str(accumulate)
        train(recipe(accumulate=accumulate), {"pictures": [str(photos)]}, None, out, base, device="cpu")
        weights[accumulate] = torch.load(out / "checkpoint.pt", weights_only=True)["module"]
    for name, value in weights[1].items():
        assert torch.allclose(value, weights[2][name], atol=1e-4), name
    with pytest.raises(UsageError, match="batch 4 cannot be shared evenly by 3"):
        train(recipe(accumulate=3), {"pictures": [str(photos)]}, None, tmp_path / "three", base, device="cpu")


def test_gradients_can_be_computed_anew(photos, base, tmp_path):
    figures = [train(recipe(gradient_checkpointing=on), {"pictures": [str(photos)]}, None, tmp_path / str(on), base, device="cpu") for on in (0, 1)]
    assert figures[0] == pytest.approx(figures[1], abs=2e-3, nan_ok=True)


def launch(processes, folder, *arguments):
    """Run `flashdiff train` with so many processes on this machine."""
    flags = ["--cpu", "--num_processes", str(processes), "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *flags, "--main_process_port", "0", "-m", "flashdiff_cli.commands.app"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([*command, "train", "severity", "-q", "-o", str(folder), *arguments], capture_output=True, text=True, env=env, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]


def toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + "}"
    return "[" + ", ".join(map(toml, value)) + "]" if isinstance(value, list) else json.dumps(value)


def test_two_processes_train_what_one_does(photos, base, cli, tmp_path):
    path = tmp_path / "recipe.toml"
    settings = SMALL | {"steps": 50, "degradation": DEGRADATIONS, "loss": {"variance_form": "local", "image_share": 0.5}}
    path.write_text('stage = "severity"\n' + "".join(f"{k} = {toml(v)}\n" for k, v in settings.items()))
    arguments = ["--recipe", str(path), "--model", str(base), "--data", str(photos), "--device", "cpu"]
    code, _, err = cli("train", "severity", "-q", "-o", tmp_path / "1", *arguments)
    assert code == 0, err
    launch(2, tmp_path / "2", *arguments)
    logs = [[json.loads(line) for line in (tmp_path / n / "log.jsonl").read_text().splitlines()] for n in "12"]
    steps = [{e["step"]: e for e in log if e["event"] == "step"} for log in logs]
    assert list(steps[0]) == list(steps[1]) == [20, 40]
    for step, event in steps[0].items():
        for name in ("loss", "latent", "variance", "image"):
            assert steps[1][step][name] == pytest.approx(event[name], abs=1e-4), (step, name)
    states = [torch.load(tmp_path / n / "checkpoint.pt", weights_only=True) for n in "12"]
    assert states[0]["step"] == states[1]["step"] == 50
    for name, value in states[0]["module"].items():
        assert torch.allclose(value, states[1]["module"][name], atol=1e-4), name


def test_the_folder_refers_to_its_base_and_restores(photos, base, cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    shutil.copytree(base, tmp_path / "base")
    out = tmp_path / "mine"
    arguments = ("--data", photos, "--steps", 2, "--batch", 2, "--workers", 0, "--precision", "no", "--device", "cpu", "-q")
    code, _, err = cli("train", "severity", "--model", tmp_path / "base", *arguments, "-o", out)
    assert code == 0, err
    index = json.loads((out / "model_index.json").read_text())
    assert index["base"] == {"model": "../base"} and index["severity"] == ["flashdiff_cli.severity", "SeverityEncoder"]
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["severity", "sheets"]
    assert "gaussian-blur" in (out / "README.md").read_text()
    code, stdout, err = cli("restore", photos / "0.png", "--model", out, "-o", tmp_path / "r.png", "--steps", 10, "--json")
    assert code == 0, err
    assert json.loads(stdout)["encoder"] == "severity" and (tmp_path / "r.png").exists()
    # Another model of the same kind in its place is another model.
    code, stdout, _ = cli("restore", photos / "0.png", "--model", out, "-o", tmp_path / "r.png", "--steps", 10, "--json")
    assert json.loads(stdout)["status"] == "skipped"
    os.utime(tmp_path / "base" / "unet" / "config.json", (1, 1))
    code, stdout, _ = cli("restore", photos / "0.png", "--model", out, "-o", tmp_path / "r.png", "--steps", 10, "--json")
    assert json.loads(stdout)["status"] == "done"
    code, _, err = cli("models", "push", out, "someone/mine")
    assert code == 1 and "base" in err and len(err.strip().splitlines()) == 1
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(FlashdiffError, match="builds on"):
        FlashDiffusionPipeline.from_pretrained(out)


def test_from_the_hub_and_back(photos, base, programs, hub, tmp_path):
    commit = hub.add("someone/base", base)
    arguments = ("--data", photos, "--steps", 2, "--batch", 2, "--workers", 0, "--precision", "no", "--device", "cpu", "-q")
    restore = ("restore", photos / "0.png", "--model", "someone/mine", "-o", tmp_path / "r.png", "--steps", 10, "--json", "--offline")
    runs = programs(
        ("train", "severity", "--model", "someone/base", *arguments, "-o", tmp_path / "mine"),
        ("models", "push", tmp_path / "mine", "someone/mine"),
        ("models", "pull", "someone/mine"),
        restore,
    )
    assert [code for code, _, _ in runs] == [0] * 4, runs
    index = json.loads((tmp_path / "mine" / "model_index.json").read_text())
    assert index["base"] == {"model": "someone/base", "revision": commit}
    pushed = list(hub.revisions["someone/mine"].values())[-1]
    assert "README.md" in pushed and not any(name.startswith(("unet/", "checkpoint", "training")) for name in pushed)
    assert json.loads(runs[-1][1])["status"] == "done"


EACH_KIND = """
import json, sys
from pathlib import Path
from flashdiff_cli.commands.app import main

def run(*arguments):
    print("::", *arguments, file=sys.stderr)
    try:
        main([*map(str, arguments)])
    except SystemExit as leave:
        assert not leave.code, (leave.code, arguments)

photos, folder, *kinds = sys.argv[1:]
for kind in kinds:
    mine = Path(folder) / kind
    few = ("--steps", 2, "--batch", 2, "--workers", 0, "--precision", "no", "--device", "cpu", "-q")
    run("train", "severity", "--model", f"someone/{kind}", "--data", photos, *few, "-o", mine)
    run("models", "push", mine, f"someone/{kind}-severity")
    run("restore", f"{photos}/0.png", "--model", f"someone/{kind}-severity", "-o", f"{folder}/{kind}.png", "--steps", 10, "--json")
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_kind_of_pipeline_is_trained_for_from_the_hub_pushed_pulled_and_restores(photos, program, hub, tmp_path):
    """Stable Diffusion 1, 2 with v-prediction, XL, 3 and Flux in small, as diffusers itself saves them."""
    pytest.importorskip("transformers")
    kinds = ["sd1", "sd2-v", "sdxl", "sd3", "flux"]
    commits = {kind: hub.add(f"someone/{kind}", save_pipeline(kind, tmp_path / "made" / kind)) for kind in kinds}
    code, out, err = program(photos, tmp_path, *kinds, script=EACH_KIND, timeout=1100)
    assert code == 0, err
    records = [json.loads(line) for line in out.splitlines() if line.startswith('{"')]
    assert [(r["status"], r["encoder"]) for r in records] == [("done", "severity")] * len(kinds)
    for kind in kinds:
        assert Image.open(tmp_path / f"{kind}.png").size == Image.open(photos / "0.png").size
        pushed = list(hub.revisions[f"someone/{kind}-severity"].values())[-1]
        assert json.loads(pushed["model_index.json"])["base"] == {"model": f"someone/{kind}", "revision": commits[kind]}
        assert "prompt/config.json" in pushed and not any(name.startswith(("unet/", "transformer/", "vae/", "text_encoder")) for name in pushed)


def test_a_reference_of_a_stranger_names_no_folder_of_this_machine(tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").write_text("{}")
    save_tiny_model(tmp_path / "secret")
    for model in ("../../../secret", str(tmp_path / "secret")):
        with pytest.raises(FlashdiffError, match="Hub id"):
            base_folder(snapshot, {"base": {"model": model}})
    for entry in ({"model": 3}, "x", {"model": ""}, {"model": "a/b", "revision": 7}):
        with pytest.raises(FlashdiffError, match="base is"):
            base_folder(snapshot, {"base": entry})


def test_recipes_by_name():
    assert {p.stem for p in BUILT_IN.glob("*.toml")} >= {"autoencoder", "severity", "diffusion"}
    for path in BUILT_IN.glob("*.toml"):
        loaded = Recipe.load(find_recipe(path.stem))
        assert loaded.stage == path.stem and not loaded.data
        if loaded.degradation:
            Degradations(loaded.degradation)
    with pytest.raises(UsageError, match="autoencoder"):
        find_recipe("no-such")


def test_a_model_of_ones_own_from_nothing_into_one_folder(photos, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    size = {"latent_channels": 4, "encoder_qkv_multiscales": [[], [], []], "decoder_qkv_multiscales": [[], [], []]}
    for side in ("encoder", "decoder"):
        size |= {f"{side}_block_types": "ResBlock", f"{side}_block_out_channels": [8, 64, 128], f"{side}_layers_per_block": [0, 1, 1]}
    blocks = {"block_out_channels": [8, 16], "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    models = {"autoencoder": size, "severity": {}, "diffusion": blocks | {"layers_per_block": 1, "norm_num_groups": 4, "add_attention": False}}
    for stage, model in models.items():
        values = SMALL | {"steps": 2, "model": model, "batch": 2} | ({"degradation": DEGRADATIONS[:1]} if stage == "severity" else {})
        (tmp_path / f"{stage}.toml").write_text(f'stage = "{stage}"\n' + "".join(f"{k} = {toml(v)}\n" for k, v in values.items()))
        code, _, err = cli("train", stage, "--recipe", f"{stage}.toml", "--data", photos, "-o", "own", "--device", "cpu", "-q")
        assert code == 0, err
    assert (tmp_path / "own" / "checkpoint.pt").exists() and (tmp_path / "own" / "severity-training" / "checkpoint.pt").exists()
    code, _, err = cli("restore", photos / "0.png", "--model", "own", "-o", "r.png", "--steps", 10)
    assert code == 0 and (tmp_path / "r.png").exists(), err
