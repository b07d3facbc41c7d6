"""Priors: one model written in four ways, how networks are called, and pipelines of diffusers as they come."""

import json
import math
import shutil

import pytest
import torch
from gaussian_toy import TABLE, GaussianWorld, cosine_basis, half_mask, smooth_variances
from tiny import KL, tiny_pipeline
from tiny_pipelines import SD, WORDS

from flashdiff_cli import flash
from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.first_stage import FirstStage, LatentScaling
from flashdiff_cli.models.loading import check_supported, load_component
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.priors import Epsilon, RectifiedFlow, Sample, VPrediction, make_prior
from flashdiff_cli.priors.base import LEAST_SIGNAL
from flashdiff_cli.priors.flow import LAST_TIME, alphas_of
from flashdiff_cli.priors.networks import FluxTransformer, PromptedUNet
from flashdiff_cli.prompt import PromptEmbeddings
from flashdiff_cli.schedule import Schedule
from flashdiff_cli.severity import SeverityEncoder, SeverityEstimate
from flashdiff_cli.solvers import SOLVERS, Problem, sample

SETTINGS = {
    "ldps": [{}, {"guidance": "bayes"}],
    "gml-dps": [{"ae_weight": 0.2}],
    "psld": [{"ae_weight": 0.2, "guidance": "bayes"}],
    "resample": [{"inner_steps": 8, "every": 2}],
    "proximal": [{}, {"error_weight": 0.3, "model_std": 0.02}],
}
"""Of the solvers for which the usual settings would not show all that they do, or take long."""
VARIANTS = [(name, settings) for name in SOLVERS for settings in SETTINGS.get(name, [{}])]


class Closed:
    """A network in closed form for z0 ~ N(0, Sigma): multiplies each cosine coefficient by `gain(what it is told, variances)`."""

    def __init__(self, gain):
        self.gain, self.variances, self.basis = gain, smooth_variances(), cosine_basis()

    def __call__(self, latent, told):
        gains = torch.stack([self.gain(float(t), self.variances) for t in told])[:, None]
        return (((latent.flatten(2) @ self.basis.T) * gains) @ self.basis).view_as(latent)


def table_at(t):
    return TABLE[int(t)].double().item()


def eps_gain(t, variances):
    a = table_at(t)
    return math.sqrt(1 - a) / (a * variances + 1 - a)


def v_gain(t, variances):
    a = table_at(t)
    return math.sqrt(a * (1 - a)) * (1 - variances) / (a * variances + 1 - a)


def sample_gain(t, variances):
    a = table_at(t)
    return math.sqrt(a) * variances / (a * variances + 1 - a)


def velocity_gain(told, variances):
    t = told / 1000
    return (t - (1 - t) * variances) / ((1 - t) ** 2 * variances + t**2)


def the_same_prior():
    """One Gaussian prior, predicted in four ways."""
    times = 1 / (1 + (TABLE.double() / (1 - TABLE.double())).sqrt())
    return {
        "epsilon": Epsilon(Closed(eps_gain), TABLE),
        "v_prediction": VPrediction(Closed(v_gain), TABLE),
        "sample": Sample(Closed(sample_gain), TABLE),
        "flow": RectifiedFlow(Closed(velocity_gain), times),
    }


def test_rectified_flow_has_the_signal_to_noise_ratio_of_its_times():
    t = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    assert torch.allclose(alphas_of(t), torch.tensor([1.0, 0.9, 0.5, 0.0], dtype=torch.float64))
    prior = RectifiedFlow(Closed(velocity_gain), torch.linspace(0.001, 1, 1000))
    assert prior.times[-1] == LAST_TIME and prior.table[-1].item() == pytest.approx(LEAST_SIGNAL)
    # At the noisy end the velocity alone says the clean latent: its mean.
    z = torch.randn(1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    clean, noise = prior.predict(z, torch.tensor([999]))
    assert clean.abs().max() < 0.01 and torch.allclose(noise, z, atol=1e-2)


@pytest.mark.parametrize("timestep", [0, 400, 999])
def test_clean_latent_and_noise_belong_together(timestep):
    z = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    at = torch.tensor([timestep, 500])
    a = TABLE.double()[at].view(-1, 1, 1, 1)
    estimates = {name: prior.predict(z, at) for name, prior in the_same_prior().items()}
    for name, (clean, noise) in estimates.items():
        assert torch.allclose(a.sqrt() * clean + (1 - a).sqrt() * noise, z, atol=1e-9), name
        assert torch.allclose(clean, estimates["epsilon"].clean, atol=1e-5), name


@pytest.mark.parametrize("start", ["matched", "noise"])
@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_one_prior_in_four_ways_restores_alike(name, settings, start):
    """Every solver that there is."""
    world = GaussianWorld(half_mask())
    results = {}
    for kind, prior in the_same_prior().items():
        schedule = Schedule.from_table(prior.table, 10, 1.0)
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        latent = world.mean.double().expand(2, -1, -1, -1)
        if start == "noise":
            begin = flash.from_noise(latent.shape, schedule, generators, latent)
        else:
            begin = flash.matched(SeverityEstimate(latent, torch.tensor([0.05, 0.5])), schedule, generators)
        measurement = world.measurement.double().expand(2, -1, -1, -1)
        problem = Problem(measurement, world.operator, world.stage, prior, schedule, torch.full((2,), world.noise_std))
        results[kind] = sample(SOLVERS[name](**settings), problem, begin, generators)
        assert problem.network_evaluations.tolist() == begin.level.tolist()
    for kind, result in results.items():
        assert torch.isfinite(result).all()
        assert (result - results["epsilon"]).abs().max() < 1e-4, kind


def test_inversion_is_the_same_for_all():
    z = torch.randn(1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = []
    for prior in the_same_prior().values():
        schedule = Schedule.from_table(prior.table, 10)
        found.append(flash.inverted(z, torch.tensor([6]), schedule, lambda x, t, prior=prior: prior(x, t).sample).latent)
    assert all((one - found[0]).abs().max() < 1e-4 for one in found)


def test_shift_and_scale_of_an_autoencoder_are_applied():
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    means, stds = [0.1, -0.2, 0.3, 0.4], [0.9, 1.1, 1.3, 0.7]
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    for more, shift, factor in (
        ({"scaling_factor": 1.5, "shift_factor": 0.06}, 0.06, 1.5),
        ({"scaling_factor": 0.5, "latents_mean": means, "latents_std": stds}, torch.tensor(means).view(1, -1, 1, 1), 0.5 / torch.tensor(stds)),
    ):
        model = AutoencoderKL(**KL, **more).eval()
        stage = FirstStage(model)
        code = model.encode(image).latent_dist.mode()
        expected = (code - shift) * (factor if isinstance(factor, float) else factor.view(1, -1, 1, 1))
        latent = stage.encode(image)
        assert torch.allclose(latent, expected, atol=1e-6)
        assert torch.allclose(stage.decode(latent), model.decode(code).sample, atol=1e-5)
        # A fresh severity encoder says what the first stage says, in the same units.
        encoder = SeverityEncoder.from_first_stage(stage).eval()
        assert torch.allclose(encoder(image).latent, latent, atol=1e-5)
        assert torch.allclose(LatentScaling(encoder.config).to_code(latent), code, atol=1e-5)


def test_flux_packs_what_it_is_given():
    """Patches and positions as diffusers' pipeline has them (`FluxPipeline._pack_latents`), written out."""
    seen = {}

    class Recorder(torch.nn.Module):
        class config:
            guidance_embeds, in_channels = True, 16

        def forward(self, **given):
            seen.update(given)
            return type("Out", (), {"sample": given["hidden_states"]})

    latent = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    network = FluxTransformer(Recorder(), PromptEmbeddings.of(torch.ones(1, 5, 8), torch.ones(1, 3)), 8)
    assert torch.equal(network(latent, torch.tensor([500.0, 250.0])), latent)
    packed = latent.view(2, 4, 2, 2, 3, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, 6, 16)
    assert torch.equal(seen["hidden_states"], packed)
    assert seen["img_ids"].tolist() == [[0, r, c] for r in range(2) for c in range(3)]
    assert seen["timestep"].tolist() == [0.5, 0.25] and seen["guidance"].tolist() == [1.0, 1.0] and seen["txt_ids"].shape == (5, 3)


def test_a_consistency_model_is_told_guidance_scale_one():
    from diffusers import LatentConsistencyModelPipeline, UNet2DConditionModel

    seen = {}
    unet = UNet2DConditionModel(**SD, time_cond_proj_dim=8)
    unet.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True)
    with torch.no_grad():
        PromptedUNet(unet, PromptEmbeddings.of(torch.ones(1, WORDS, 16)), 4)(torch.zeros(2, 4, 8, 8), torch.tensor([3, 4]))
    expected = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, torch.zeros(2), 8)
    assert torch.allclose(seen["timestep_cond"], expected)


# Pipelines of diffusers, from a folder and from a Hub.


KINDS = ["ldm", "ldm-kl", "sd1", "sd2-v", "lcm", "sdxl", "sd3", "flux"]
ADAPTERS = {"sd2-v": "VPrediction", "sd3": "RectifiedFlow", "flux": "RectifiedFlow"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of tiny pipelines, each made once."""
    from tiny_pipelines import save_pipeline

    made, place = {}, tmp_path_factory.mktemp("pipelines")

    def get(name):
        if not name.startswith("ldm"):
            pytest.importorskip("transformers")
        if name not in made:
            made[name] = save_pipeline(name, place / name)
        return made[name]

    return get


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.getbasetemp() / "hf-home"))


def measured(seed=0):
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("name", KINDS)
def test_pipelines_of_diffusers_restore_and_survive_saving(name, saved, tmp_path):
    from flashdiff_cli.operators import GaussianBlur

    folder = saved(name)
    pipe = FlashDiffusionPipeline.from_pretrained(folder)
    assert type(pipe.denoiser.prior).__name__ == ADAPTERS.get(name, "Epsilon")
    run = lambda p: p(measured(), GaussianBlur(1.0), 0.05, start_step=3, steps=20).images
    images = run(pipe)
    assert torch.isfinite(images).all()
    # What is saved has the prompt with it, and needs no text encoder.
    pipe.save_pretrained(tmp_path / "again", safe_serialization=True)
    assert not (tmp_path / "again" / "text_encoder").exists()
    assert torch.equal(run(FlashDiffusionPipeline.from_pretrained(tmp_path / "again")), images)


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3"])
def test_predictions_are_those_of_the_pipelines_own_network(name, saved):
    folder = saved(name)
    import diffusers

    without = {"text_encoder_3": None, "tokenizer_3": None} if name == "sd3" else {}
    theirs = diffusers.DiffusionPipeline.from_pretrained(folder, **without)
    theirs.set_progress_bar_config(disable=True)
    pipe = FlashDiffusionPipeline.from_pretrained(folder, prompt="a b")
    seen = []
    network = theirs.transformer if name == "sd3" else theirs.unet
    network.register_forward_hook(lambda module, args, kwargs, out: seen.append((args, kwargs, out)), with_kwargs=True)
    generator = torch.Generator().manual_seed(0)
    theirs("a b", height=32, width=32, num_inference_steps=2, guidance_scale=1.0, generator=generator, output_type="latent")
    args, kwargs, out = seen[0]
    latent = kwargs.get("hidden_states", args[0] if args else None)
    timestep = kwargs.get("timestep", args[1] if len(args) > 1 else None)
    ours = pipe.denoiser.network(latent, torch.as_tensor(timestep).reshape(-1).expand(len(latent)))
    assert torch.allclose(ours, out[0], atol=1e-5)


def test_predictions_of_flux_are_those_of_its_own_pipeline(saved):
    """Its pipeline hands the network a sequence of patches; ours takes and gives latents."""
    folder = saved("flux")
    import diffusers

    theirs = diffusers.DiffusionPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    pipe = FlashDiffusionPipeline.from_pretrained(folder, prompt="a b")
    seen = []
    theirs.transformer.register_forward_hook(lambda module, args, kwargs, out: seen.append((kwargs, out)), with_kwargs=True)
    size = {"height": 32, "width": 48}
    theirs("a b", **size, num_inference_steps=2, guidance_scale=1.0, generator=torch.Generator().manual_seed(0), output_type="latent")
    kwargs, out = seen[0]
    unpack = lambda packed: theirs._unpack_latents(packed, **size, vae_scale_factor=theirs.vae_scale_factor)
    ours = pipe.denoiser.network(unpack(kwargs["hidden_states"]), 1000 * kwargs["timestep"])
    assert ours.shape == (1, 4, 32 // theirs.vae_scale_factor, 48 // theirs.vae_scale_factor)
    assert torch.allclose(ours, unpack(out[0]), atol=1e-5)


def test_the_text_encoder_is_loaded_once(saved, tmp_path, monkeypatch):
    folder = shutil.copytree(saved("sd1"), tmp_path / "sd1")
    first = FlashDiffusionPipeline.from_pretrained(folder)
    other = FlashDiffusionPipeline.from_pretrained(folder, prompt="cab")
    assert not torch.equal(first.prompt.prompt_embeds, other.prompt.prompt_embeds) and other.prompt.config.text == "cab"
    monkeypatch.setattr("flashdiff_cli.models.prompt_cache.embed", lambda *_: pytest.fail("embedded again"))
    again = FlashDiffusionPipeline.from_pretrained(folder)
    assert torch.equal(again.prompt.prompt_embeds, first.prompt.prompt_embeds)
    with pytest.raises(FlashdiffError, match="unconditional"):
        FlashDiffusionPipeline.from_pretrained(saved("ldm"), prompt="a")


def changed(folder, target, part, **entries):
    """A copy of a model with other entries in a part's configuration."""
    shutil.copytree(folder, target)
    path = target / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    return target


@pytest.mark.parametrize(
    ("part", "entries", "reason"),
    [
        ("unet", {"in_channels": 9}, "takes 9 channels"),
        ("unet", {"out_channels": 8}, "predicts 8 channels"),
        ("unet", {"_class_name": "UNet3DConditionModel"}, "video"),
        ("unet", {"num_class_embeds": 10}, "class"),
        ("scheduler", {"prediction_type": "flow_prediction"}, "predicts .flow_prediction"),
        ("scheduler", {"_class_name": "EDMEulerScheduler"}, "unknown class"),
    ],
)
def test_what_is_not_supported_is_one_line(part, entries, reason, saved, tmp_path):
    with pytest.raises(FlashdiffError, match=reason) as error:
        FlashDiffusionPipeline.from_pretrained(changed(saved("ldm-kl"), tmp_path / "other", part, **entries))
    assert len(str(error.value).splitlines()) == 1 and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("DDPMPipeline", "pixels"), ("KandinskyV22Pipeline", "cascade"), ("IFPipeline", "cascade"), ("StableVideoDiffusionPipeline", "video")],
)
def test_other_pipelines_are_named(name, reason, tmp_path):
    with pytest.raises(FlashdiffError, match=reason):
        check_supported(tmp_path, name)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(FlashdiffError, match="no autoencoder"):
        check_supported(tmp_path, None)


def test_a_prompt_that_does_not_fit_is_named(saved):
    folder = saved("sdxl")
    unet, scheduler = load_component(folder, "unet"), load_component(folder, "scheduler")
    for prompt, reason in (
        (None, "takes a prompt"),
        (PromptEmbeddings.of(torch.zeros(1, WORDS, 16)), "refiner"),
        (PromptEmbeddings.of(torch.zeros(1, WORDS, 12), torch.zeros(1, 8)), "12 numbers wide"),
    ):
        with pytest.raises(FlashdiffError, match=reason):
            make_prior(unet, scheduler, prompt)


def test_a_scheduler_without_signal_at_its_end_is_floored():
    pipe = tiny_pipeline("kl")
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction", clip_sample=False)
    whole = type(pipe)(pipe.first_stage, pipe.unet, scheduler, pipe.severity)
    assert whole.schedule().levels[-1] == LEAST_SIGNAL
    assert torch.isfinite(whole(measured(), None, start="noise", steps=5, noise_std=0.05).images).all()
