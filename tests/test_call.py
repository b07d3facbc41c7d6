"""The pipeline's call as users of diffusers know it: pictures in and out, their names of arguments, callbacks, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import save_tiny_model, tiny_pipeline

from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators import OPERATORS, GaussianBlur
from flashdiff_cli.pipeline import FlashDiffusionPipeline


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline("kl", defaults={"steps": 20})


def array(seed=0, size=(29, 37)):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def run(pipe, image, **more):
    settings = {"operator": GaussianBlur(1.0), "noise_std": 0.02, "start_step": 2, "generator": torch.Generator().manual_seed(0)}
    return pipe(image=image, **settings | more)


def test_every_kind_of_picture_gives_the_same(pipe):
    first = array()
    shares = first / np.float32(255)
    tensor = torch.from_numpy(shares).permute(2, 0, 1)
    expected = run(pipe, Image.fromarray(first), output_type="np").images
    assert expected.shape == (1, 29, 37, 3) and expected.min() >= 0 and expected.max() <= 1
    for image in (first, shares, tensor, tensor[None], [Image.fromarray(first)], [tensor], first[None]):
        assert np.allclose(run(pipe, image, output_type="np").images, expected, atol=1e-5)
    tensors = run(pipe, first, output_type="pt").images
    assert np.allclose(tensors.permute(0, 2, 3, 1), expected)
    (picture,) = run(pipe, first).images
    assert isinstance(picture, Image.Image) and picture.size == (37, 29)
    assert np.abs(np.asarray(picture) / 255 - expected[0]).max() <= 0.5 / 255 + 1e-6
    # In the units of measurements, padded as the model needs it, it is the same run.
    found = run(pipe, first)
    assert found.restoration.images.shape == (1, 3, 32, 40) and found.restoration.start_step.tolist() == [2]


def test_lists_are_batches_and_generators_may_be_too(pipe):
    pictures = [Image.fromarray(array(i)) for i in range(2)]
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    both = run(pipe, pictures, generator=generators, output_type="np").images
    for i in range(2):
        alone = run(pipe, pictures[i], generator=torch.Generator().manual_seed(i), output_type="np").images
        assert np.allclose(both[i], alone[0], atol=1e-3)


def test_what_is_measured_smaller_comes_back_whole(pipe):
    found = pipe(image=array(size=(14, 18)), operator=OPERATORS["downsampling"].from_options((28, 36), 0, factor=2), noise_std=0.0, start_step=1)
    assert found.images[0].size == (36, 28)


def test_their_names_of_arguments_work(pipe):
    found = run(pipe, array(), num_inference_steps=10, start_step=None, start="noise")
    assert found.restoration.schedule_steps == 10 and found.restoration.steps.tolist() == [10]
    with pytest.raises(UsageError, match="unknown argument 'strength'"):
        run(pipe, array(), strength=0.3)


def test_the_callback_sees_each_step_and_may_change_the_latents(pipe):
    seen = []

    def look(pipeline, step, timestep, given):
        seen.append((pipeline is pipe, step, timestep, tuple(given["latents"].shape)))
        return {}

    plain = run(pipe, array(), output_type="np").images
    assert np.array_equal(run(pipe, array(), callback_on_step_end=look, output_type="np").images, plain)
    timesteps = pipe.schedule(20).timesteps
    assert seen == [(True, 0, int(timesteps[1]), (1, 4, 8, 10)), (True, 1, int(timesteps[0]), (1, 4, 8, 10))]
    silent = run(pipe, array(), callback_on_step_end=lambda p, s, t, k: {"latents": torch.zeros_like(k["latents"])}, output_type="pt", fidelity=False)
    assert torch.equal(silent.restoration.latent, torch.zeros_like(silent.restoration.latent))
    blind = []
    pipe(image=[array(0), array(1)], start_step=1, callback_on_step_end=lambda p, s, t, k: blind.append(s) or {})
    assert blind == [0, 0]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "one of them"),
        ({"image": array(), "measurement": torch.zeros(1, 3, 32, 32)}, "one of them"),
        ({"image": array(), "output_type": "latent"}, "choose from pil, np, pt"),
        ({"image": []}, "at least one picture"),
        ({"image": [array(), array(size=(24, 24))]}, "differ in size"),
        ({"image": torch.zeros(32, 32, 3)}, r"\(3, H, W\)"),
        ({"image": np.zeros((32, 32))}, r"\(H, W, 3\)"),
        ({"image": np.zeros((32, 32, 3), np.int64)}, "uint8"),
        ({"image": "photo.png"}, "type str"),
    ],
)
def test_what_makes_no_sense_is_said(pipe, given, reason):
    with pytest.raises(UsageError, match=reason):
        pipe(**given)


def test_loading_takes_what_others_take_or_says_why_not(tmp_path):
    folder = save_tiny_model(tmp_path / "model", kind="kl")
    load = FlashDiffusionPipeline.from_pretrained
    pipe = load(folder, dtype=torch.bfloat16, device_map="cpu", use_safetensors=True, low_cpu_mem_usage=True)
    assert pipe.unet.dtype == torch.bfloat16
    assert load(folder, torch_dtype="auto").unet.dtype == torch.float32
    for given, reason in (
        ({"device_map": "balanced"}, "one device"),
        ({"trust_remote_code": True}, "no code is run"),
        ({"use_safetensors": False}, "safetensors only"),
        ({"torch_dtype": torch.int8}, "torch.float32"),
        ({"torch_dtyp": torch.float32}, "unknown argument 'torch_dtyp'"),
    ):
        with pytest.raises(UsageError, match=reason):
            load(folder, **given)


def test_a_variant_of_the_weights_is_taken_where_it_is_there(tmp_path):
    folder = save_tiny_model(tmp_path / "model", kind="kl")
    pipe = FlashDiffusionPipeline.from_pretrained(folder)
    with torch.no_grad():
        pipe.unet.conv_in.weight.zero_()
    pipe.unet.save_pretrained(folder / "unet", variant="fp16", safe_serialization=True)
    assert FlashDiffusionPipeline.from_pretrained(folder).unet.conv_in.weight.abs().sum() > 0
    assert FlashDiffusionPipeline.from_pretrained(folder, variant="fp16").unet.conv_in.weight.abs().sum() == 0
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert FlashDiffusionPipeline.from_pretrained(folder).unet.conv_in.weight.abs().sum() == 0


def test_offloading_and_the_first_stages_own_tiles(pipe):
    for name in ("enable_model_cpu_offload", "enable_sequential_cpu_offload"):
        with pytest.raises(UsageError, match="on the device at once"):
            getattr(pipe, name)()
    own = tiny_pipeline("kl")
    own.enable_vae_slicing()
    own.enable_vae_tiling()
    assert own.first_stage.use_slicing and own.first_stage.use_tiling
    images = [array(i) for i in range(2)]
    generators = lambda: [torch.Generator().manual_seed(i) for i in range(2)]
    sliced, whole = (run(p, images, generator=generators(), output_type="np").images for p in (own, tiny_pipeline("kl")))
    assert sliced.shape == whole.shape and np.isfinite(sliced).all()
    with pytest.raises(UsageError, match="VQModel"):
        tiny_pipeline("vq").enable_vae_tiling()


def test_files_of_a_repository_are_chosen():
    from flashdiff_cli.hub.files import wanted_files

    parts = ["unet/config.json", "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"]
    sharded = [f"transformer/diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    text = ["text_encoder/config.json", "text_encoder/model.fp16.safetensors", "tokenizer/merges.txt", "tokenizer_2/spiece.model"]
    rest = ["model_index.json", "README.md", "transformer/diffusion_pytorch_model.safetensors.index.json", "extra/large.safetensors"]
    noise = ["v1-5-pruned.safetensors", "safety_checker/model.safetensors", "unet/model.onnx", "unet/diffusion_pytorch_model.bin", "a/b/c.json"]
    everything = [*parts, *sharded, *text, *rest, *noise]
    assert set(wanted_files(everything)) == {*parts[:2], *sharded, *text, *rest}
    assert set(wanted_files(everything, "fp16")) == {parts[0], parts[2], *sharded, *text, *rest}
