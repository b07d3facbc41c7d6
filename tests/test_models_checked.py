"""Models at the door: listed classes, files that are the published ones, weights that are numbers, nothing from outside the folder."""

import json
import struct
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import save_tiny_model

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.hub.checksums import SUMS, check_folder, write_sums
from flashdiff_cli.hub.configs import check_config
from flashdiff_cli.hub.names import hub_id
from flashdiff_cli.hub.weights import read_header
from flashdiff_cli.models.loading import load_component
from flashdiff_cli.pipeline import FlashDiffusionPipeline

UNET, CONFIG = "unet/diffusion_pytorch_model.safetensors", "unet/config.json"
load = FlashDiffusionPipeline.from_pretrained


@pytest.fixture
def model(tmp_path):
    return save_tiny_model(tmp_path / "model", kind="kl", defaults={"solver": "ldps", "steps": 10})


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "name", ["DiffusionPipeline", "StableDiffusionPipeline", "AutoencoderKL", "Transformer2DModel", "os", "", None, ["UNet2DModel"]]
)
def test_a_class_that_is_not_on_the_list_of_its_role_is_refused(model, name):
    edit(model / CONFIG, _class_name=name)
    with pytest.raises(FlashdiffError, match=r"unet/config\.json: unknown class .* for unet"):
        load(model)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "changes",
    [
        {"layers_per_block": 10**9},
        {"layers_per_block": 50},
        {"block_out_channels": [10**9, 10**9]},
        {"block_out_channels": [8] * 10_000},
        {"norm_num_groups": 10**12},
        {"add_attention": True, "attention_head_dim": 0},
        {"in_channels": 1e400},
        {"sample_size": "x" * 10**6},
        {"down_block_types": ["DownBlock2D"] * 15 + ["Evil"]},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
    ],
)
def test_a_configuration_that_asks_for_more_than_the_file_holds_allocates_nothing(model, changes):
    edit(model / CONFIG, **changes)
    began = time.process_time()
    with pytest.raises(FlashdiffError, match="unet"):
        load_component(model, "unet")
    assert time.process_time() - began < 30


@pytest.mark.parametrize(
    "changes",
    [
        {"num_train_timesteps": 10**9},
        {"beta_start": -1.0},
        {"beta_end": 2.0},
        {"trained_betas": [0.1, "x"]},
        {"steps_offset": 10**6},
        {"timestep_spacing": "even"},
    ],
)
def test_a_schedule_that_is_none_is_refused(model, changes):
    edit(model / "scheduler/scheduler_config.json", **changes)
    with pytest.raises(FlashdiffError, match=r"scheduler_config\.json"):
        load(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, 1e7])
@pytest.mark.parametrize("part", ["unet", "first_stage", "severity"])
def test_weights_that_are_no_numbers_are_refused_by_name(model, part, value):
    path = model / part / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[-1] = value
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(FlashdiffError, match=f"{part}.*weights .*{name}"):
        load(model)


def test_weights_that_overflow_when_they_are_narrowed_are_refused(model):
    tensors = load_file(model / UNET)
    tensors["conv_in.weight"].view(-1)[0] = 1e5
    save_file(tensors, model / UNET, {"format": "pt"})
    load_component(model, "unet")
    with pytest.raises(FlashdiffError, match="not finite"):
        load_component(model, "unet", torch.float16)


def test_finite_weights_that_compute_no_numbers_are_refused(model):
    tensors = load_file(model / UNET)
    for name in tensors:
        if tensors[name].ndim == 4:
            tensors[name] = torch.full_like(tensors[name], 9e5)
    save_file(tensors, model / UNET, {"format": "pt"})
    with pytest.raises(FlashdiffError, match="model/unet gives numbers that are not finite or far too large"):
        load(model)


def test_parts_that_do_not_belong_together_are_refused(model, tmp_path):
    edit(model / "first_stage/config.json", scaling_factor=0.0)
    with pytest.raises(FlashdiffError, match="first_stage: a scaling factor of 0"):
        load(model)
    other = save_tiny_model(tmp_path / "dc", kind="dc")
    edit(model / "first_stage/config.json", scaling_factor=0.7)
    (model / "severity").rename(tmp_path / "away")
    (other / "first_stage").rename(model / "severity")
    with pytest.raises(FlashdiffError, match="unknown class 'AutoencoderDC' for severity"):
        load(model)


def test_a_file_that_changed_or_was_added_is_not_used(model):
    write_sums(model)
    load(model)
    assert {line.split("  ")[1] for line in (model / SUMS).read_text().splitlines()} == {
        p.relative_to(model).as_posix() for p in model.rglob("*") if p.is_file() and p.name != SUMS
    }
    tensors = load_file(model / UNET)
    save_file({k: v + 1e-3 for k, v in tensors.items()}, model / UNET, {"format": "pt"})
    with pytest.raises(FlashdiffError, match=f"{UNET}: damaged or changed"):
        load(model)
    lines = (model / SUMS).read_text().splitlines(keepends=True)
    (model / SUMS).write_text("".join(line for line in lines if UNET not in line))
    with pytest.raises(FlashdiffError, match=f"{UNET}: not in SHA256SUMS; if you put it there, run: flashdiff models checksums"):
        load(model)
    assert [c.path for c in check_folder(model) if c.state == "unlisted"] == [UNET]


def test_the_command_renews_the_list(model, cli):
    write_sums(model)
    (model / "severity/notes.txt").write_text("mine")
    code, _, err = cli("models", "verify", model)
    assert code == 1 and "not in SHA256SUMS" in err
    assert cli("models", "checksums", model)[0] == 0 and cli("models", "verify", model)[0] == 0
    assert cli("models", "checksums", model / "unet")[0] == 2


@pytest.mark.parametrize("name", [CONFIG, UNET, "model_index.json", "unet", "scheduler/scheduler_config.json"])
def test_no_link_leads_out_of_a_model(model, tmp_path, name):
    path, away = model / name, tmp_path / "away"
    path.rename(away)
    path.symlink_to(away)
    with pytest.raises(FlashdiffError, match="a link that leads out of the model folder"):
        load(model)
    with pytest.raises(FlashdiffError, match="a link that leads out"):
        write_sums(model)


def test_links_within_a_model_are_followed(model):
    (model / UNET).rename(model / "weights.safetensors")
    (model / UNET).symlink_to("../weights.safetensors")
    load(model)


@pytest.mark.parametrize(
    "spec",
    [
        "../x",
        "a/..",
        "a/b/c",
        "a/b@../../x",
        "a/b@x/../y",
        "a/b@",
        "a/b\n",
        "a/ b",
        "ä/b",
        "-a/b",
        ".a/b",
        "a//b",
        "a/b@-x",
        "a/b@" + "x" * 200,
        "a\0/b",
        "a/b@x@y",
    ],
)
def test_names_on_the_hub_are_plain(spec):
    if spec == "a/b@":
        assert hub_id(spec) == ("a/b", None)
        return
    with pytest.raises(UsageError, match="no Hub id|cannot be a revision") as found:
        hub_id(spec)
    assert str(found.value).isprintable()


def test_honest_names_on_the_hub():
    assert hub_id("CompVis/ldm-celebahq-256") == ("CompVis/ldm-celebahq-256", None)
    assert hub_id("a_b/c.d@v1.0") == ("a_b/c.d", "v1.0") and hub_id("a/b@x", "refs/pr/3") == ("a/b", "refs/pr/3")
    with pytest.raises(UsageError, match="cannot be a revision"):
        hub_id("a/b", "..")


def test_a_header_is_held_against_its_file(model):
    path = model / UNET
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    assert {name: shape for name, (_, shape) in read_header(path).items()} == {n: tuple(t.shape) for n, t in load_file(path).items()}
    first = min((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"])
    for wrong in (
        {first: header[first] | {"shape": [10**9, 10**9]}},
        {first: header[first] | {"data_offsets": [0, 10**15]}},
        {first: header[first] | {"dtype": "F8_E4M3"}},
        {"twice": header[first]},
        {first: header[first] | {"shape": [True]}},
        {first: 3},
    ):
        text = json.dumps(header | wrong).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
        with pytest.raises(FlashdiffError, match=r"safetensors: ValueError|safetensors: TypeError"):
            read_header(path)
    for wrong in (data[: 8 + length], data[:-1], data + b"x", struct.pack("<Q", 2**60) + data[8:], b"", b"\0" * 20):
        path.write_bytes(wrong)
        with pytest.raises(FlashdiffError, match="safetensors"):
            read_header(path)


def test_configurations_are_bounded():
    check_config(
        {"block_out_channels": [320, 640, 1280, 1280], "num_vq_embeddings": 8192, "layers_per_block": [0, 1, 3], "trained_betas": [0.1] * 1000}, "x"
    )
    for wrong in (
        {"layers_per_block": 65},
        {"a": float("nan")},
        {"a": {"b": [1] * 65}},
        {"encoder_config": {"block_out_channels": [1] * 17}},
        {str(i): 1 for i in range(600)},
    ):
        with pytest.raises(FlashdiffError, match="^x: "):
            check_config(wrong, "x")


@pytest.mark.parametrize(
    "defaults",
    [
        3,
        {"steps": "many"},
        {"eta": 2},
        {"solver": 3},
        {"calibration": {"severity": {"variance": [1]}}},
        {"tuned": {"ldps": {"x": {"steps": 0}}}},
        {"of_encoder": 3},
        {"denoiser_gain": [[1]]},
    ],
)
def test_settings_of_a_model_have_their_types(model, defaults):
    edit(model / "model_index.json", defaults=defaults)
    with pytest.raises(FlashdiffError, match=r"model_index\.json: |denoiser_gain"):
        load(model)


def test_what_a_model_says_does_not_act_on_the_terminal(model, cli):
    """Names of folders and texts of configurations are a stranger's."""
    part = model / "sever\x1b]0;owned\x07ity"
    part.mkdir()
    (part / "config.json").write_text(json.dumps({"_class_name": "X\x1b[2J", "degradations": [{"operator": "\x1b[31mred\u202e"}]}))
    code, out, _ = cli("models", "info", model)
    assert code == 0 and "\x1b" not in out and "\u202e" not in out and "\\x1b]0;owned" in out and "\\x1b[31mred" in out
