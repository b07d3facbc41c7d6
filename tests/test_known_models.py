"""Models of the registry whose originals lie elsewhere: fetched, converted, completed, mended."""

import hashlib
import io
import json
import os
import zipfile
from dataclasses import replace

import original_ldm
import pytest
import torch
from diffusers import DDIMScheduler

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.hub.checksums import check_folder
from flashdiff_cli.hub.registry import EncoderSource, KnownModel
from flashdiff_cli.models.originals import add_encoders, pull_original
from flashdiff_cli.pipeline import FlashDiffusionPipeline

COMMON = {"domain": "toys", "resolution": 16, "megabytes": 1, "terms": "none"}


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def severity_file(kind: str, operator: str) -> bytes:
    saved, _ = original_ldm.severity_checkpoint(kind)
    saved["hyper_parameters"]["operator_config"] = {"type": operator}
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    return buffer.getvalue()


@pytest.fixture
def original(hub, tmp_path, monkeypatch):
    """A model as the original release offers it: a zip with one checkpoint, and two severity encoders beside it."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    checkpoint = original_ldm.write(tmp_path / "source", "vq")
    hub.files["/toys.zip"] = packed({"toys/model.ckpt": checkpoint.read_bytes()})
    hub.files["/blur.ckpt"] = severity_file("vq", "gaussian_blur")
    hub.files["/inpainting.ckpt"] = severity_file("vq", "inpainting")
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in hub.files.items()}
    encoders = (
        EncoderSource("gaussian-blur", "severity", f"{hub.address}/blur.ckpt", sums["/blur.ckpt"]),
        EncoderSource("random-inpainting", "severity_inpainting", f"{hub.address}/inpainting.ckpt", sums["/inpainting.ckpt"]),
    )
    config = str(checkpoint.with_name("config.yaml"))
    return KnownModel("toys", url=f"{hub.address}/toys.zip", sha256=sums["/toys.zip"], config=config, encoders=encoders, **COMMON)


def test_an_original_download_becomes_a_model(hub, original, tmp_path):
    hub.cut["/toys.zip"] = 50_000
    with pytest.raises(FlashdiffError, match="run again"):
        pull_original(original)
    seen = []
    folder = pull_original(original, lambda *report: seen.append(report))
    assert hub.got("/toys.zip")[-1] == "bytes=50000-"
    assert folder == tmp_path / "home/flashdiff/toys" and seen[-1][1] == seen[-1][2] == len(hub.files["/toys.zip"])
    add_encoders(original, folder)
    assert not any((tmp_path / "home/flashdiff/downloads").iterdir())
    assert {check.state for check in check_folder(folder)} == {"ok"}
    pipe = FlashDiffusionPipeline.from_pretrained(folder)
    unet, _ = original_ldm.networks("vq")
    assert torch.equal(pipe.unet.conv_in.weight, unet.conv_in.weight)
    assert [pipe.encoder_for(name)[0] for name in (None, "gaussian-blur", "random-inpainting", "box-inpainting")] == [
        "severity",
        "severity",
        "severity_inpainting",
        "severity_inpainting",
    ]
    hub.asked.clear()
    add_encoders(original, pull_original(original))
    assert not hub.asked


def test_an_encoder_that_cannot_be_had_is_named_and_the_rest_is_there(hub, original):
    folder = pull_original(original)
    blur = hub.files.pop("/blur.ckpt")
    with pytest.raises(FlashdiffError, match="without severity: .*blur.ckpt.*404"):
        add_encoders(original, folder)
    assert (folder / "severity_inpainting").is_dir() and not (folder / "severity").exists()
    hub.files["/blur.ckpt"] = blur
    add_encoders(original, folder)
    assert FlashDiffusionPipeline.from_pretrained(folder).severity is not None
    assert {check.state for check in check_folder(folder)} == {"ok"}


def test_a_bad_download_leaves_no_model(hub, original, tmp_path):
    class Harm:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'harmed'}",)

    buffer = io.BytesIO()
    torch.save({"state_dict": {}, "callbacks": Harm()}, buffer)
    for data, reason in (
        (packed({"model.ckpt": buffer.getvalue()}), "refused"),
        (packed({"a.ckpt": b"1", "b.ckpt": b"2"}), "2 checkpoints"),
        (packed({"read.me": b"1"}), "0 checkpoints"),
        (b"PK\x03\x04 and then nothing", "damaged"),
    ):
        hub.files["/toys.zip"] = data
        with pytest.raises(FlashdiffError, match=reason):
            pull_original(replace(original, sha256=None), unverified=True)
        downloads = tmp_path / "home/flashdiff/downloads"
        (downloads / "toys.zip").unlink(missing_ok=True)
        assert not any(downloads.iterdir())
        assert not (tmp_path / "home/flashdiff/toys").exists()
    assert not (tmp_path / "harmed").exists()
    with pytest.raises(FlashdiffError, match="wrong checksum"):
        pull_original(replace(original, sha256="0" * 64))


def test_a_download_without_a_published_checksum_needs_to_be_asked_for(hub, original, tmp_path):
    unknown = replace(original, sha256=None, encoders=tuple(replace(e, sha256=None) for e in original.encoders))
    with pytest.raises(FlashdiffError, match="nobody has published a checksum.*models pull toys --unverified"):
        pull_original(unknown)
    assert not hub.got("/toys.zip")
    folder = pull_original(unknown, unverified=True)
    with pytest.raises(FlashdiffError, match="without severity: .*nobody has published.*; severity_inpainting: .*nobody"):
        add_encoders(unknown, folder)
    assert not (folder / "severity").exists() and not hub.got(".ckpt")
    add_encoders(unknown, folder, unverified=True)
    assert {check.state for check in check_folder(folder)} == {"ok"}


def test_a_planted_download_is_not_taken(hub, original, tmp_path):
    downloads = tmp_path / "home/flashdiff/downloads"
    downloads.mkdir(parents=True)
    (downloads / "toys.zip").write_bytes(packed({"model.ckpt": b"planted"}))
    with pytest.raises(FlashdiffError, match=r"toys\.zip: wrong checksum; it was removed"):
        pull_original(original)
    pull_original(original)


def test_a_zip_that_unpacks_to_far_more_is_refused(hub, original, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.ckpt", bytes(20 << 20))
    hub.files["/toys.zip"] = buffer.getvalue()
    with pytest.raises(FlashdiffError, match="more than weights can be packed to"):
        pull_original(replace(original, sha256=None), unverified=True)
    assert not list((tmp_path / "home/flashdiff/downloads").glob("*.ckpt"))


OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

FETCH = """
import json, sys
from flashdiff_cli.hub import registry
from flashdiff_cli.models import resolve
from flashdiff_cli.pipeline import FlashDiffusionPipeline
resolve.known_models = lambda: registry.parse(json.loads(sys.argv[1]), "test")
pipe = FlashDiffusionPipeline.from_pretrained("celeb")
print(json.dumps({
    "scale": pipe.stage.scale,
    "severity_scale": pipe.severity.config.scaling_factor,
    "attention": pipe.unet.mid_block.attentions[0].to_q.weight.sum().item(),
    "stage": pipe.first_stage.encoder.mid_block.attentions[0].to_out[0].weight.sum().item(),
    "offset": pipe.scheduler.config.steps_offset,
    "to_one": pipe.scheduler.config.set_alpha_to_one,
}))
"""


def test_the_hub_s_celebahq_layout(program, hub):
    """Pickled weights, a first stage called vqvae without its scaling factor, the attention's old names,
    a pinned revision, and a scheduler that lacks what the original samples with."""
    unet, stage = original_ldm.networks("vq")
    scheduler = DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False)
    files = {"scheduler/scheduler_config.json": json.dumps({"_class_name": "DDIMScheduler", **scheduler.config}).encode()}
    classes = {"scheduler": ["diffusers", "DDIMScheduler"], "unet": ["diffusers", "UNet2DModel"], "vqvae": ["diffusers", "VQModel"]}
    files["model_index.json"] = json.dumps({"_class_name": "LDMPipeline", **classes}).encode()
    for name, network in (("unet", unet), ("vqvae", stage)):
        state = {}
        for key, value in network.state_dict().items():
            for new, old in OLD_NAMES.items():
                key = key.replace(f".{new}.", f".{old}.")
            state[key] = value
        buffer = io.BytesIO()
        torch.save(state, buffer)
        config = {k: v for k, v in network.config.items() if k != "scaling_factor"} | {"_class_name": type(network).__name__}
        files |= {f"{name}/diffusion_pytorch_model.bin": buffer.getvalue(), f"{name}/config.json": json.dumps(config).encode()}
    pinned = hub.add("CompVis/celeb", files)
    hub.add("CompVis/celeb", {"README.md": b"something else by now"})
    hub.files["/blur.ckpt"] = severity_file("vq", "gaussian_blur")
    sha256 = hashlib.sha256(hub.files["/blur.ckpt"]).hexdigest()
    encoder = {"degradation": "gaussian-blur", "role": "severity", "url": f"{hub.address}/blur.ckpt", "sha256": sha256}
    mended = {"steps_offset": 1, "set_alpha_to_one": False}
    source = {"repo": "CompVis/celeb", "revision": pinned, "scheduler": mended, "encoders": [encoder]}
    entry = {"celeb": COMMON | source}
    code, out, err = program(json.dumps(entry), script=FETCH)
    assert code == 0, err
    found = json.loads(out)
    assert found["scale"] == 1.0 and found["severity_scale"] == 1.0 and found["offset"] == 1 and not found["to_one"]
    assert found["attention"] == pytest.approx(unet.mid_block.attentions[0].to_q.weight.sum().item(), rel=1e-5)
    assert found["stage"] == pytest.approx(stage.encoder.mid_block.attentions[0].to_out[0].weight.sum().item(), rel=1e-5)
    hub.asked.clear()
    assert program(json.dumps(entry), script=FETCH)[0] == 0 and not hub.asked
