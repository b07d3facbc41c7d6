"""Original checkpoints into folders: every tensor in its place, or named in the error."""

import json

import original_ldm
import pytest
import torch
from diffusers import DiffusionPipeline

from flashdiff_cli.commands.app import main
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.models.convert import convert_ldm, convert_severity
from flashdiff_cli.models.loading import load_component
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.severity import SeverityEncoder


@pytest.mark.parametrize("kind", ["vq", "kl"])
@pytest.mark.parametrize("interleaved", [True, False])
def test_every_tensor_finds_its_place(tmp_path, kind, interleaved):
    settings = original_ldm.config(kind, **({} if interleaved else {"use_new_attention_order": True}))
    source = original_ldm.write(tmp_path, kind, original_ldm.checkpoint(kind, interleaved), settings)
    done = convert_ldm(source, tmp_path / "out")
    pipe = FlashDiffusionPipeline.from_pretrained(tmp_path / "out")
    unet, stage = original_ldm.networks(kind)
    for found, expected in ((pipe.unet, unet), (pipe.first_stage, stage)):
        a, b = found.state_dict(), expected.state_dict()
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    z, t = torch.randn(1, 4, 8, 8), torch.tensor([500])
    with torch.no_grad():
        assert torch.allclose(pipe.unet(z, t).sample, unet(z, t).sample, atol=1e-6)
    assert done.ema and done.scaling_factor == 1.0
    assert done.tensors == len(unet.state_dict()) + len(stage.state_dict()) - 2 * 2 * (2 + 1 + 3)
    assert pipe.scheduler.config.steps_offset == 1 and not pipe.scheduler.config.set_alpha_to_one


def test_vq_has_its_scaling_factor_written_out(tmp_path):
    convert_ldm(original_ldm.write(tmp_path, "vq"), tmp_path / "out")
    assert json.loads((tmp_path / "out/first_stage/config.json").read_text())["scaling_factor"] == 1.0


def test_the_scale_factor_of_the_checkpoint_wins(tmp_path):
    state = original_ldm.checkpoint("kl") | {"scale_factor": torch.tensor(0.25)}
    assert convert_ldm(original_ldm.write(tmp_path, "kl", state), tmp_path / "out").scaling_factor == 0.25
    assert FlashDiffusionPipeline.from_pretrained(tmp_path / "out").stage.scale == 0.25


def test_a_table_that_the_configuration_does_not_give_is_kept(tmp_path):
    state = original_ldm.checkpoint("kl")
    state["alphas_cumprod"] = torch.linspace(0.999, 0.01, 1000)
    convert_ldm(original_ldm.write(tmp_path, "kl", state), tmp_path / "out")
    table = FlashDiffusionPipeline.from_pretrained(tmp_path / "out").scheduler.alphas_cumprod
    assert torch.allclose(table, state["alphas_cumprod"], atol=1e-5)


def test_raw_weights_only_when_told(tmp_path):
    state = original_ldm.checkpoint("kl")
    plain = {k: v for k, v in state.items() if not k.startswith("model_ema")}
    source = original_ldm.write(tmp_path, "kl", plain)
    with pytest.raises(FlashdiffError, match="no EMA weights.*--raw-weights"):
        convert_ldm(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert convert_ldm(source, tmp_path / "out", raw=True).ema is False
    # Raw weights here are the others plus 1, with which no network predicts a noise: a pipeline would refuse them.
    unet = load_component(tmp_path / "out", "unet")
    assert torch.equal(unet.conv_in.weight, state["model.diffusion_model.input_blocks.0.0.weight"])


NAMES = {
    "unet": "model_ema.diffusion_modelmiddle_block1qkvweight",
    "stage": "first_stage_model.decoder.up.1.upsample.conv.bias",
    "code": "first_stage_model.quantize.embedding.weight",
}


@pytest.mark.parametrize("key", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("fault", ["missing", "misshapen", "extra"])
def test_a_wrong_tensor_is_named(tmp_path, key, fault):
    state = original_ldm.checkpoint("vq")
    if fault == "missing":
        del state[key]
    elif fault == "misshapen":
        state[key] = state[key][:-1]
    else:
        key += "2"
        state[key] = torch.ones(3)
    with pytest.raises(FlashdiffError) as found:
        convert_ldm(original_ldm.write(tmp_path, "vq", state), tmp_path / "out")
    assert key in str(found.value) and "model.ckpt" in str(found.value)
    assert fault == "extra" or fault in str(found.value) or "has the shape" in str(found.value)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def changed(path, value, kind="kl"):
    settings = original_ldm.config(kind)
    here = settings
    for name in path[:-1]:
        here = here[name]
    here[path[-1]] = value
    return settings


UNET, DD = ("model", "params", "unet_config", "params"), ("model", "params", "first_stage_config", "params", "ddconfig")


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (changed((*UNET, "use_spatial_transformer"), True), "use_spatial_transformer"),
        (changed((*UNET, "num_head_channels"), -1), "num_head_channels"),
        (changed((*DD, "attn_type"), "linear"), "attn_type"),
        (changed(("model", "params", "cond_stage_config"), {"target": "x"}), "cond_stage_config"),
        (changed(("model", "params", "parameterization"), "x0"), "parameterization"),
        (changed(("model", "params", "first_stage_config", "target"), "a.IdentityFirstStage"), "IdentityFirstStage"),
        ({"model": {}}, "params"),
        ({"other": 1}, "model"),
    ],
)
def test_what_cannot_be_represented_is_refused_by_name(tmp_path, settings, word):
    with pytest.raises(FlashdiffError, match=word):
        convert_ldm(original_ldm.write(tmp_path, "kl", settings=settings), tmp_path / "out")


def test_heads_by_number_where_one_width_attends(tmp_path):
    settings = changed((*UNET, "num_heads"), 4)
    settings["model"]["params"]["unet_config"]["params"]["num_head_channels"] = -1
    convert_ldm(original_ldm.write(tmp_path, "kl", settings=settings), tmp_path / "out")
    unet, _ = original_ldm.networks("kl")
    found = FlashDiffusionPipeline.from_pretrained(tmp_path / "out").unet
    assert torch.equal(found.mid_block.attentions[0].to_k.weight, unet.mid_block.attentions[0].to_k.weight)


@pytest.mark.parametrize("kind", ["vq", "kl"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_severity_encoder(tmp_path, kind, whole):
    saved, stage = original_ldm.severity_checkpoint(kind, whole)
    torch.save(saved, tmp_path / "severity.ckpt")
    convert_severity(tmp_path / "severity.ckpt", tmp_path / "out")
    encoder = SeverityEncoder.from_pretrained(tmp_path / "out").eval()
    y = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        code = stage.quant_conv(stage.encoder(y))
        if kind == "kl":
            expected, deviation = code.chunk(2, 1)
        else:
            s = saved["state_dict"]
            name = "encoder.std_conv" if whole else "std_conv"
            expected, deviation = code, torch.nn.functional.conv2d(code, s[f"{name}.weight"], s[f"{name}.bias"])
        found = encoder(y)
    assert torch.allclose(found.latent, expected, atol=1e-5)
    assert torch.allclose(found.variance, deviation.square().mean((1, 2, 3)), rtol=1e-4)
    assert encoder.config.degradations == [{"operator": "gaussian-blur", "blur_std": [0.3, 3.0], "noise_std": 0.05}]


def test_a_severity_encoder_takes_the_scale_of_its_model(tmp_path):
    state = original_ldm.checkpoint("kl") | {"scale_factor": torch.tensor(0.25)}
    convert_ldm(original_ldm.write(tmp_path, "kl", state), tmp_path / "model")
    torch.save(original_ldm.severity_checkpoint("kl")[0], tmp_path / "severity.ckpt")
    assert convert_severity(tmp_path / "severity.ckpt", tmp_path / "model/severity").scaling_factor == 0.25
    pipe = FlashDiffusionPipeline.from_pretrained(tmp_path / "model")
    assert pipe.severity.config.scaling_factor == 0.25 and pipe.encoder_for("gaussian-blur")[0] == "severity"
    assert convert_severity(tmp_path / "severity.ckpt", tmp_path / "other", 0.5).scaling_factor == 0.5


def test_a_severity_encoder_without_its_settings(tmp_path):
    torch.save({"state_dict": original_ldm.severity_checkpoint("vq")[0]["state_dict"]}, tmp_path / "severity.ckpt")
    with pytest.raises(FlashdiffError, match="hyper_parameters"):
        convert_severity(tmp_path / "severity.ckpt", tmp_path / "out")


def test_a_target_is_never_overwritten(tmp_path):
    source = original_ldm.write(tmp_path, "kl")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("x")
    with pytest.raises(UsageError, match="exists already"):
        convert_ldm(source, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_diffusers_loads_the_parts(tmp_path):
    convert_ldm(original_ldm.write(tmp_path, "vq"), tmp_path / "out")
    index = json.loads((tmp_path / "out/model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DModel"] and index["first_stage"] == ["diffusers", "VQModel"]
    assert DiffusionPipeline.load_config(tmp_path / "out")["scheduler"] == ["diffusers", "DDIMScheduler"]


def test_the_command(tmp_path, capsys):
    source = original_ldm.write(tmp_path, "kl")
    main_code = 0
    try:
        main(["convert", "ldm", str(source), str(tmp_path / "out")])
    except SystemExit as leave:
        main_code = leave.code or 0
    assert main_code == 0 and "UNet weights: EMA" in capsys.readouterr().out
    for arguments, code, word in (
        (["ldm", str(source), str(tmp_path / "out")], 2, "exists already"),
        (["severity", str(source), str(tmp_path / "s")], 1, "hyper_parameters"),
        (["nonlinear-blur", str(source), str(tmp_path / "b")], 1, "KernelWizard"),
        (["severity", str(source), str(tmp_path / "s"), "--raw-weights"], 2, "--raw-weights"),
        (["ldm", str(tmp_path / "no.ckpt"), str(tmp_path / "o2"), "--config", str(tmp_path / "config.yaml")], 1, "cannot read"),
        (["ldm", str(tmp_path / "sub/no.ckpt"), str(tmp_path / "o2")], 2, "--config"),
    ):
        with pytest.raises(SystemExit) as leave:
            main(["convert", *arguments])
        _out, err = capsys.readouterr()
        assert leave.value.code == code and word in err and err.count("\n") == 1
