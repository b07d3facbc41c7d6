"""Training: data order, budgets, exact resumption, and that a run improves its validation figure."""

import io
import json
import os
import tarfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.models.loading import load_component
from flashdiff_cli.training import Recipe, train
from flashdiff_cli.training.data import Crops, Entry, Source, entries
from flashdiff_cli.training.degradation import Degradations
from flashdiff_cli.training.trainer import atomic_save

AUTOENCODER = {
    "latent_channels": 4,
    "encoder_block_types": "ResBlock",
    "decoder_block_types": "ResBlock",
    "encoder_block_out_channels": [8, 64, 128],
    "decoder_block_out_channels": [8, 64, 128],
    "encoder_layers_per_block": [0, 1, 1],
    "decoder_layers_per_block": [0, 1, 1],
    "encoder_qkv_multiscales": [[], [], []],
    "decoder_qkv_multiscales": [[], [], []],
}
UNET = {
    "block_out_channels": [16, 32],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "add_attention": False,
}
BLUR = {"operator": "gaussian-blur", "blur_std": [0.3, 3.0], "noise_std": 0.05, "noise_spread": 0.3}


def picture(seed: int, size: int = 72) -> Image.Image:
    """Smooth colours with edges: something that a code can learn."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    waves = [np.sin(2 * np.pi * (rng.uniform(0.5, 3) * x + rng.uniform(0.5, 3) * y + rng.random())) for _ in range(3)]
    array = 128 + 60 * np.stack(waves, -1)
    array[int(rng.integers(size)) :, int(rng.integers(size)) :] *= 0.5
    return Image.fromarray(array.clip(0, 255).astype(np.uint8))


def packed(path, count):
    with tarfile.open(path, "w") as tar:
        for i in range(count):
            buffer = io.BytesIO()
            picture(i).save(buffer, "PNG")
            member = tarfile.TarInfo(f"{i:03d}.png")
            member.size = buffer.tell()
            buffer.seek(0)
            tar.addfile(member, buffer)
    return str(path)


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("data") / "pictures.tar", 12)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Three epochs are six steps of two; what an autoencoder starts from is taken from sixteen crops of each."""
    return packed(tmp_path_factory.mktemp("few") / "pictures.tar", 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("val")
    for i in range(3):
        picture(100 + i, 64).save(path / f"{i}.png")
    return str(path)


def recipe(stage: str, **changes) -> Recipe:
    settings = {"stage": stage, "crop": 32, "batch": 2, "steps": 6, "warmup": 2, "validate_every": 3, "workers": 0, "validation_limit": 2}
    return Recipe(**(settings | {"precision": "no"} | changes))


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory, few, folder):
    """A folder with a first stage after six steps."""
    out = tmp_path_factory.mktemp("model")
    train(recipe("autoencoder", model=AUTOENCODER), {"all": [few]}, {"val": [folder]}, out, device="cpu")
    return out


def test_crops_depend_on_index_and_seed_alone(shard):
    source = [Source(entries(shard))]
    one, two = Crops(source, 32, 7), Crops(source, 32, 7)
    for _ in range(5):
        two[3]
    assert torch.equal(one[11], two[11])
    assert not torch.equal(one[11], Crops(source, 32, 8)[11])
    assert one[0].shape == (3, 32, 32) and one[0].min() >= -1 and one[0].max() <= 1


def test_an_epoch_visits_every_image_once(shard):
    data = Crops([Source(entries(shard))], 32, 0)
    visited = [data._locate(i, np.random.default_rng(0))[1].offset for i in range(24)]
    assert sorted(visited[:12]) == sorted(visited[12:]) == sorted(e.offset for e in entries(shard))
    assert visited[:12] != visited[12:]


def test_shares_of_sources_follow_their_weights(shard):
    data = Crops([Source(entries(shard), 3.0), Source(entries(shard)[:1], 1.0)], 32, 0)
    first = sum(data._locate(i, np.random.default_rng([0, 0, i]))[0] is data.sources[0] for i in range(400))
    assert 270 < first < 330


def test_a_damaged_image_is_passed_over(shard, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 no picture")
    data = Crops([Source([Entry(str(tmp_path / "bad.jpg")), *entries(shard)])], 32, 0)
    assert all(torch.isfinite(data[i]).all() for i in range(26))


def test_places_without_images_are_named(tmp_path):
    with pytest.raises(FlashdiffError, match="no such folder"):
        entries(tmp_path / "nowhere")
    with pytest.raises(FlashdiffError, match="no images"):
        entries(tmp_path)
    (tmp_path / "broken.tar").write_bytes(b"not a tar" * 100)
    with pytest.raises(FlashdiffError, match=r"broken\.tar"):
        entries(tmp_path / "broken.tar")


def test_recipes_of_older_versions_are_read(tmp_path):
    path = tmp_path / "old.toml"
    path.write_text('stage = "autoencoder"\nsteps = 1\ngrain = 8\n')
    assert Recipe.load(path).size_multiple == 8


def test_recipes_are_checked(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('stage = "autoencoder"\nsteps = 5\nlearning_rat = 1.0\n')
    with pytest.raises(UsageError, match="learning_rat"):
        Recipe.load(path)
    path.write_text('stage = "autoencoder"\n')
    with pytest.raises(UsageError, match="budget"):
        Recipe.load(path)
    assert Recipe.load(path, minutes=2.0).minutes == 2.0
    path.write_text("stage = [")
    with pytest.raises(UsageError, match="TOML"):
        Recipe.load(path)


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion", "severity"])
def test_a_killed_run_resumes_exactly(stage, few, folder, first_stage, tmp_path):
    settings = {
        "autoencoder": {"model": AUTOENCODER},
        "diffusion": {"model": UNET},
        "severity": {"model": {"extra_layers": 1}, "degradation": [BLUR]},
    }[stage]
    data, validation = {"all": [few]}, {"val": [folder]}

    class Killed(Exception):
        pass

    def kill(event):
        if event["event"] == "tick" and event["step"] == 4:
            raise Killed

    whole = train(recipe(stage, **settings), data, validation, tmp_path / "whole", first_stage, device="cpu")
    with pytest.raises(Killed):
        train(recipe(stage, **settings), data, validation, tmp_path / "cut", first_stage, device="cpu", callback=kill)
    resumed = train(recipe(stage, **settings), data, validation, tmp_path / "cut", first_stage, device="cpu")
    assert resumed == whole
    states = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "cut")]
    assert states[0]["step"] == states[1]["step"] == 6
    for key, value in states[0]["module"].items():
        assert torch.equal(value, states[1]["module"][key]), key
    for a, b in zip(states[0]["ema"]["shadow_params"], states[1]["ema"]["shadow_params"], strict=True):
        assert torch.equal(a, b)
    log = [json.loads(line) for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in log if e["event"] == "validation"] == [3, 6, 6]
    assert sorted(p.name for p in (tmp_path / "cut" / "sheets").iterdir()) == ["0000003.png", "0000006.png"]
    assert not list((tmp_path / "cut").glob("*.tmp"))


def test_the_linear_start_is_exact_and_nearly_inverted(shard, folder):
    from flashdiff_cli.training.autoencoder import AutoencoderTask
    from flashdiff_cli.training.data import validation_images

    images = validation_images(folder, 3)
    task = AutoencoderTask(recipe("autoencoder", model=AUTOENCODER), [Source(entries(shard))], {"val": images})
    with torch.no_grad():
        code = task.module.encoder(images[0])
        assert torch.allclose(code, task.linear_code(images[0]), atol=1e-4)
        assert task.validate(task.module)["psnr_val"] > 25
    assert task.encode.shape == (48, 4)


@pytest.mark.parametrize(
    ("widths", "fits"),
    [
        *(([8, *widths], True) for widths in ((64, 128), (72, 96), (96, 128), (96, 192), (128, 128))),
        *(([8, *widths], False) for widths in ((64, 96), (80, 128), (64, 100), (64, 256), (48, 96), (64, 64))),
        ([64, 128], False),
    ],
)
def test_the_linear_start_is_exact_or_refused(widths, fits):
    from diffusers import AutoencoderDC

    from flashdiff_cli.training.linear_start import blocks, start_linearly

    layers = {"encoder_layers_per_block": [0, 1, 1], "decoder_layers_per_block": [0, 1, 1]} if len(widths) == 3 else {}
    shape = {"encoder_block_out_channels": widths, "decoder_block_out_channels": widths, **layers}
    qkv = {"encoder_qkv_multiscales": [[]] * len(widths), "decoder_qkv_multiscales": [[]] * len(widths)}
    if not layers:
        shape |= {"encoder_layers_per_block": [0, 1], "decoder_layers_per_block": [0, 1]}
    model = AutoencoderDC(**AUTOENCODER | shape | qkv, encoder_out_shortcut=False, decoder_in_shortcut=False)
    mean, encode = torch.linspace(-0.3, 0.4, 48), torch.linalg.qr(torch.randn(48, 4, generator=torch.Generator().manual_seed(1)))[0]
    if not fits:
        with pytest.raises(UsageError, match="a divisor of four times"):
            start_linearly(model, mean, encode, encode)
        return
    start_linearly(model, mean, encode, encode)
    x = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        code = model.encode(x).latent
        assert torch.allclose(code, torch.einsum("dc,bdhw->bchw", encode, blocks(x) - mean.view(-1, 1, 1)), atol=1e-4)


def test_one_process_can_train_in_several_precisions(few, folder, tmp_path):
    for precision in ("bf16", "no", "bf16"):
        out = tmp_path / f"{precision}-{len(list(tmp_path.iterdir()))}"
        settings = recipe("autoencoder", model=AUTOENCODER, steps=1, precision=precision)
        train(settings, {"all": [few]}, {"val": [folder]}, out, device="cpu")
        assert (out / "first_stage" / "config.json").exists()


@pytest.mark.parametrize("mine", ["log.jsonl", "sheets", "first_stage"])
def test_what_no_training_has_made_stays(few, folder, tmp_path, mine):
    arguments = recipe("autoencoder", model=AUTOENCODER), {"all": [few]}, {"val": [folder]}
    (tmp_path / "run").mkdir()
    if mine == "log.jsonl":
        (tmp_path / "run" / mine).write_text("Monday: sowed beans\n")
    else:
        (tmp_path / "run" / mine).mkdir()
    with pytest.raises(FlashdiffError, match=f"{mine}: exists already, and no training has made it"):
        train(*arguments, tmp_path / "run", device="cpu")
    assert [p.name for p in (tmp_path / "run").iterdir()] == [mine]


@pytest.mark.skipif(os.name == "nt", reason="links")
@pytest.mark.parametrize("name", ["log.jsonl", "checkpoint.pt", "sheets/0000003.png"])
def test_a_planted_link_in_a_folder_of_training_is_not_followed(few, folder, tmp_path, name):
    """Of a folder from a stranger that looks like one in which a training was stopped."""
    victim, out = tmp_path / "bashrc", tmp_path / "run"
    victim.write_text("alias ls=ls\n")
    (out / "sheets").mkdir(parents=True)
    if name != "log.jsonl":
        (out / "log.jsonl").write_text(json.dumps({"event": "step", "step": 0}) + "\n")
    (out / name).symlink_to(victim)
    with suppress(FlashdiffError):
        train(recipe("autoencoder", model=AUTOENCODER), {"all": [few]}, {"val": [folder]}, out, device="cpu")
    assert victim.read_text() == "alias ls=ls\n"


@pytest.mark.skipif(os.name == "nt", reason="limits of files")
def test_a_full_disk_is_one_line_and_leaves_the_old_checkpoint(tmp_path):
    """The disk is a limit on the size of files."""
    import resource

    from safetensors.torch import save_file

    from flashdiff_cli.hub.paths import new_folder

    path = tmp_path / "checkpoint.pt"
    atomic_save({"step": 1}, path)
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(FlashdiffError, match=r"checkpoint\.pt: cannot be written"):
            atomic_save({"weights": torch.ones(100_000)}, path)
        with pytest.raises(FlashdiffError, match="model: cannot write"), new_folder(tmp_path / "model", "is there room?") as part:
            save_file({"weights": torch.ones(100_000)}, part / "a.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_member_of_a_shard_that_claims_far_too_much_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setenv("FLASHDIFF_MAX_MEGAPIXELS", "1")
    member = tarfile.TarInfo("a.png")
    member.size = 2**33
    with open(tmp_path / "a.tar", "wb") as file:
        file.write(member.tobuf())
        file.truncate(2**33 + 10_240)
    with pytest.raises(FlashdiffError, match="is no picture"):
        entries(tmp_path / "a.tar")[0].read()


def test_a_run_that_was_killed_before_its_first_checkpoint_goes_on(few, folder, tmp_path):
    (tmp_path / "run" / "sheets").mkdir(parents=True)
    (tmp_path / "run" / "log.jsonl").write_text(json.dumps({"event": "step", "step": 20, "loss": 1.0}) + "\n")
    train(recipe("autoencoder", model=AUTOENCODER), {"all": [few]}, {"val": [folder]}, tmp_path / "run", device="cpu")
    assert (tmp_path / "run" / "first_stage").is_dir()


def test_training_lowers_the_severity_loss(few, folder, first_stage, tmp_path):
    settings = {"model": {"extra_layers": 0}, "degradation": [BLUR], "steps": 30, "learning_rate": 1e-3, "validate_every": 30}
    events = []
    train(recipe("severity", **settings), {"all": [few]}, {"val": [folder]}, tmp_path, first_stage, device="cpu", callback=events.append)
    losses = [e["latent"] for e in events if e["event"] == "tick"]
    assert sum(losses[-10:]) < sum(losses[:10])
    encoder = load_component(tmp_path, "severity")
    assert encoder.config.degradations[0]["operator"] == "gaussian-blur"


def test_wrong_data_and_checkpoints_are_explained(few, folder, first_stage, tmp_path):
    with pytest.raises(UsageError, match="`val`"):
        train(recipe("autoencoder", model=AUTOENCODER), {"all": [few]}, {}, tmp_path)
    with pytest.raises(UsageError, match="`model`"):
        train(recipe("diffusion", model=UNET), {"all": [few]}, {"val": [folder]}, tmp_path)
    with pytest.raises(UsageError, match="`data` faces"):
        groups = [{"name": "faces"}]
        train(recipe("autoencoder", model=AUTOENCODER, data=groups), {"all": [few]}, {"val": [folder]}, tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"torn")
    with pytest.raises(FlashdiffError, match="checkpoint.pt"):
        train(recipe("autoencoder", model=AUTOENCODER), {"all": [few]}, {"val": [folder]}, tmp_path)


def test_degradations_are_per_sample_and_at_a_level():
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mixture = Degradations([BLUR])
    measured = mixture(images, torch.Generator().manual_seed(1))
    assert measured.shape == images.shape
    light, heavy = (mixture(images, torch.Generator().manual_seed(1), level) for level in (0.0, 1.0))
    assert (light - images).square().mean() < (heavy - images).square().mean()
    with pytest.raises(UsageError, match="unknown operator"):
        Degradations([{"operator": "no-such"}])


WHOLE = {
    "autoencoder.toml": {"stage": "autoencoder", "model": AUTOENCODER},
    "severity.toml": {"stage": "severity", "degradation": [BLUR]},
    "diffusion.toml": {"stage": "diffusion", "model": UNET},
    "last-step.toml": {"stage": "last-step", "model": {"channels": [8, 12], "blocks": [1, 1]}},
}


def toml(value) -> str:
    """A value as TOML has it, tables in line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


@pytest.fixture
def recipes(tmp_path):
    folder = tmp_path / "recipes"
    folder.mkdir()
    common = {
        "crop": 32,
        "batch": 2,
        "warmup": 2,
        "validate_every": 1000,
        "workers": 0,
        "precision": "no",
        "validation_limit": 1,
        "size_multiple": 32,
    }
    for name, values in WHOLE.items():
        (folder / name).write_text("".join(f"{k} = {toml(v)}\n" for k, v in (common | values).items()))
    stages = "".join(f'[[stage]]\nrecipe = "{name}"\nshare = 1\n' for name in WHOLE)
    (folder / "model.toml").write_text(stages + "[defaults]\nsteps = 20\nfidelity = true\n")
    return folder


def test_a_whole_model_is_trained_from_nothing_and_restores(recipes, few, folder, tmp_path):
    from flashdiff_cli.pipeline import FlashDiffusionPipeline
    from flashdiff_cli.training.whole import train_whole

    model = train_whole(recipes, {"pictures": [few]}, {"pictures": [folder]}, tmp_path / "out", 0.04, "cpu")
    pipeline = FlashDiffusionPipeline.from_pretrained(model)
    result = pipeline(torch.zeros(1, 3, 32, 32), noise_std=0.05)
    assert result.images.shape == (1, 3, 32, 32) and torch.isfinite(result.images).all()
    index = json.loads((model / "model_index.json").read_text())
    assert index["last_step"] == ["flashdiff_cli.last_step", "LastStep"] and index["defaults"]["steps"] == 20
    before = (model / "unet" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns
    train_whole(recipes, {"pictures": [few]}, {"pictures": [folder]}, tmp_path / "out", 0.04, "cpu")
    assert (model / "unet" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns == before, "finished stages are not trained again"


@pytest.mark.parametrize("content", [None, "stage = 1", "[[stage]]\nrecipe = 3", '[[stage]]\nrecipe = "a"\nshare = 0', "[[stage"])
def test_a_list_of_stages_that_makes_no_sense_is_one_line(tmp_path, content):
    from flashdiff_cli.training.whole import read_stages

    if content is not None:
        (tmp_path / "model.toml").write_text(content)
    with pytest.raises(UsageError, match=r"model\.toml") as found:
        read_stages(tmp_path)
    assert "\n" not in str(found.value).strip() or "TOML" in str(found.value)
