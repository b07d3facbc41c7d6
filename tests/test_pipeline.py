"""First stage, severity encoder and pipeline: contracts that hold for any model."""

import copy
import json
import math

import pytest
import torch
from tiny import save_tiny_model, tiny_first_stage, tiny_pipeline

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.first_stage import FirstStage
from flashdiff_cli.operators import GaussianBlur
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.plan import ModelDefaults, SamplingRequest
from flashdiff_cli.severity import SeverityEncoder

KINDS = ("dc", "kl", "vq")


def images(batch: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def generators(seeds) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


@pytest.mark.parametrize("kind", KINDS)
def test_first_stages_share_one_face(kind):
    torch.manual_seed(0)
    stage = FirstStage(tiny_first_stage(kind))
    x = images(2).requires_grad_()
    z = stage.encode(x)
    assert (stage.kind, stage.size_multiple, stage.channels) == (kind, 4, 4)
    assert z.shape == (2, 4, 8, 8)
    decoded = stage.decode(z)
    assert decoded.shape == x.shape
    (gradient,) = torch.autograd.grad(decoded.sum(), x)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_scale_factor_is_applied_on_both_sides(kind):
    torch.manual_seed(0)
    model = tiny_first_stage(kind)
    one = FirstStage(model)
    z = one.encode(images(1))
    model.register_to_config(scaling_factor=one.scale * 2)
    two = FirstStage(model)
    assert torch.allclose(two.encode(images(1)), 2 * z, atol=1e-6)
    assert torch.allclose(two.decode(2 * z), one.decode(z), atol=1e-6)


def test_vq_decoding_is_straight_through():
    torch.manual_seed(0)
    stage = FirstStage(tiny_first_stage("vq"))
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    quantised, plain = stage.decode(z), stage.decode(z, quantise=False)
    assert not torch.allclose(quantised, plain)
    (gradient,) = torch.autograd.grad(quantised.sum(), z)
    assert gradient.abs().sum() > 0


def test_an_unknown_first_stage_is_refused():
    with pytest.raises(FlashdiffError, match="Linear"):
        FirstStage(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_severity_encoder_starts_as_the_first_stage(kind):
    torch.manual_seed(0)
    stage = FirstStage(tiny_first_stage(kind))
    encoder = SeverityEncoder.from_first_stage(stage, extra_layers=2 if kind == "dc" else 0).eval()
    x = images(3)
    latent, variance = encoder(x)
    assert torch.allclose(latent, stage.encode(x), atol=1e-5)
    assert variance.shape == (3,) and (variance >= 0).all()
    assert torch.allclose(encoder(x[1:2]).variance, variance[1:2], rtol=1e-5)
    assert torch.allclose(encoder.variance_map(x).mean((1, 2)), variance, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_severity_encoder_survives_saving(kind, tmp_path):
    torch.manual_seed(0)
    encoder = SeverityEncoder.from_first_stage(FirstStage(tiny_first_stage(kind)), degradations=[{"operator": "gaussian-blur"}])
    encoder.save_pretrained(tmp_path)
    again = SeverityEncoder.from_pretrained(tmp_path)
    assert torch.equal(again.eval()(images(1)).latent, encoder.eval()(images(1)).latent)
    assert again.config.degradations == [{"operator": "gaussian-blur"}]


@pytest.fixture(scope="module")
def pipe() -> FlashDiffusionPipeline:
    return tiny_pipeline(defaults={"steps": 40})


def test_a_batch_gives_what_single_runs_give(pipe):
    y = torch.cat([images(1, seed=1), 0.2 * images(1, seed=2)])
    operator = GaussianBlur(torch.tensor([0.8, 2.5]))
    steps = torch.tensor([2, 5])
    both = pipe(y, operator, 0.05, start_step=steps, generators=generators([3, 4]), eta=1.0)
    assert both.network_evaluations.tolist() == both.steps.tolist() == [2, 5]
    for i, seed in enumerate((3, 4)):
        one = pipe(y[i : i + 1], GaussianBlur(operator.blur_std[i]), 0.05, start_step=int(steps[i]), generators=generators([seed]), eta=1.0)
        assert torch.allclose(one.images, both.images[i : i + 1], atol=2e-4)


def test_runs_repeat_with_their_seed(pipe):
    run = lambda seed: pipe(images(1), GaussianBlur(1.0), 0.05, start_step=3, generators=generators([seed])).images
    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_start_step_zero_decodes_the_estimate(pipe):
    result = pipe(images(1), GaussianBlur(1.0), 0.05, start_step=0)
    assert result.network_evaluations.item() == 0
    assert torch.allclose(result.images, result.decoded)


def test_the_start_step_matches_the_estimated_variance(pipe):
    result = pipe(images(2), GaussianBlur(1.0), 0.05)
    assert torch.equal(result.start_step, pipe.schedule(40).start_level(result.variance))
    assert result.schedule_steps == 40


def test_a_solver_has_its_own_spacing_of_timesteps_and_else_the_scheduler_has(pipe):
    own, usual = (pipe.plan(SamplingRequest(solver=name, steps=8)).schedule for name in ("proximal", "ldps"))
    total = len(own.table)
    assert own.timesteps.tolist() == [total * (i + 1) // 8 - 1 for i in range(8)]
    assert usual.timesteps.tolist() == pipe.schedule(8).timesteps.tolist() != own.timesteps.tolist()
    other = tiny_pipeline()
    other.register_modules(scheduler=type(pipe.scheduler).from_config(pipe.scheduler.config, timestep_spacing="trailing"))
    assert other.schedule(8).timesteps.tolist() == own.timesteps.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_first_stage_restores(kind):
    result = tiny_pipeline(kind)(images(1), None, start_step=2)
    assert torch.isfinite(result.images).all() and result.images.abs().max() <= 1
    assert result.diagnosis[0].kind == "gaussian-blur" and result.operators[0]["name"] == "gaussian-blur"


def test_progress_is_reported_per_step(pipe):
    seen = []
    pipe(images(1), GaussianBlur(1.0), 0.05, start_step=4, callback=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_sizes_and_settings_are_checked(pipe):
    with pytest.raises(UsageError, match="multiples of 8"):
        pipe(images(1, 36), GaussianBlur(1.0))
    with pytest.raises(UsageError, match="`start_step`"):
        pipe(images(1), GaussianBlur(1.0), start_step=41)
    with pytest.raises(UsageError, match="`steps`"):
        pipe(images(1), GaussianBlur(1.0), steps=1001)
    with pytest.raises(UsageError, match="unknown solver"):
        pipe(images(1), GaussianBlur(1.0), solver="no-such")
    with pytest.raises(UsageError, match="generators"):
        pipe(images(2), GaussianBlur(1.0), generators=generators([0]))


def test_a_model_survives_saving_and_loading(tmp_path, pipe):
    folder = save_tiny_model(tmp_path / "model", defaults={"steps": 40})
    index = json.loads((folder / "model_index.json").read_text())
    assert index["severity"] == ["flashdiff_cli.severity", "SeverityEncoder"]
    again = FlashDiffusionPipeline.from_pretrained(folder)
    assert again.defaults.steps == 40
    settings = {"start_step": 3, "generators": generators([0])}
    one = again(images(1), GaussianBlur(1.0), 0.05, **settings)
    two = pipe(images(1), GaussianBlur(1.0), 0.05, **(settings | {"generators": generators([0])}))
    assert torch.equal(one.images, two.images)
    assert not list(folder.rglob("*.bin"))


def test_damaged_models_are_named(tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FlashdiffError, match="unet"):
        FlashDiffusionPipeline.from_pretrained(folder)
    weights.write_bytes(whole)
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(FlashdiffError, match=r"config\.json"):
        FlashDiffusionPipeline.from_pretrained(folder)
    with pytest.raises(FlashdiffError, match=r"model_index\.json"):
        FlashDiffusionPipeline.from_pretrained(tmp_path)


def test_a_wrong_tensor_is_named(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_tiny_model(tmp_path / "model")
    path = folder / "severity" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    removed = tensors.pop("deviation.out.weight")
    save_file(tensors, path)
    with pytest.raises(FlashdiffError, match=r"deviation\.out\.weight"):
        FlashDiffusionPipeline.from_pretrained(folder)
    save_file(tensors | {"deviation.out.weight": removed, "surplus": removed.clone()}, path)
    with pytest.raises(FlashdiffError, match="surplus"):
        FlashDiffusionPipeline.from_pretrained(folder)


def of_two_noises():
    """A model with two severity encoders for blur, of which only the second has seen strong noise."""
    pipe = tiny_pipeline()
    second = copy.deepcopy(pipe.severity)
    with torch.no_grad():
        for weight in second.parameters():
            weight.mul_(0.9)
    faint = [{"operator": "gaussian-blur", "noise_std": 0.05, "noise_spread": 0.3}]
    strong = [{"operator": "jpeg", "noise_std": 0.4}, {"operator": "gaussian-blur", "noise_std": 0.1, "noise_spread": 0.5}]
    pipe.severity.register_to_config(degradations=faint)
    second.register_to_config(degradations=strong)
    return type(pipe)(**{**pipe.components, "severity_mixed": second}, defaults=pipe.defaults)


def test_strong_noise_goes_to_the_encoder_that_was_trained_on_it():
    pipe = of_two_noises()
    assert pipe.severity.trained_noise("gaussian-blur") == pytest.approx(0.05 * math.exp(0.6))
    assert pipe.severity.trained_noise("jpeg") is None and pipe.severity_mixed.trained_noise("jpeg") == pytest.approx(0.4)
    chosen = {noise: pipe.encoder_for("gaussian-blur", noise_std=noise)[0] for noise in (None, 0.01, 0.09, 0.1, 0.2, 0.9)}
    assert chosen == {None: "severity", 0.01: "severity", 0.09: "severity"} | dict.fromkeys((0.1, 0.2, 0.9), "severity_mixed")
    assert pipe.encoder_for("gaussian-blur", "severity", 0.9)[0] == "severity"


def test_what_an_encoder_needs_otherwise_goes_with_it():
    pipe = of_two_noises()
    multiplier = lambda solver, **asked: pipe.plan(SamplingRequest(solver=solver, **asked), "gaussian-blur").variance_multiplier
    of_encoder = {"severity_mixed": {"variance_multiplier": 1.0}}
    pipe.defaults = ModelDefaults(variance_multiplier=4.0, of_encoder=of_encoder)
    assert multiplier("ldps") == 4.0
    assert multiplier("ldps", encoder="severity_mixed") == 1.0
    tuned = {"ldps": {"gaussian-blur": {"variance_multiplier": 2.0}}}
    pipe.defaults = ModelDefaults(variance_multiplier=4.0, of_encoder=of_encoder, tuned=tuned)
    assert multiplier("ldps", encoder="severity_mixed") == 2.0
    assert multiplier("psld", encoder="severity_mixed") == 1.0
    assert multiplier("ldps", encoder="severity_mixed", variance_multiplier=3.0) == 3.0


def test_samples_of_a_batch_get_the_encoder_that_they_get_alone():
    pipe = of_two_noises()
    noise = torch.tensor([0.05, 0.2])
    blur = GaussianBlur(torch.tensor([1.0, 2.0]))
    scene = torch.linspace(-0.8, 0.8, 32).expand(2, 3, 32, 32)
    y = blur.measure(scene, noise, [torch.Generator().manual_seed(i) for i in range(2)])
    settings = {"steps": 20, "start_step": 3}
    both = pipe(y, blur, noise, generators=[torch.Generator().manual_seed(i) for i in range(2)], **settings)
    for i in range(2):
        alone = pipe(y[i : i + 1], GaussianBlur(torch.tensor([1.0 + i])), noise[i], generators=[torch.Generator().manual_seed(i)], **settings)
        torch.testing.assert_close(both.images[i : i + 1], alone.images)
        encoder = pipe.severity_mixed if i else pipe.severity
        torch.testing.assert_close(both.variance[i : i + 1], encoder(y[i : i + 1]).variance, check_dtype=False)


@pytest.mark.parametrize("planted", ["unet", "first_stage/config.json", "model_index.json", "severity/deeper/link"])
def test_no_link_is_written_through(planted, tmp_path):
    pipe, elsewhere = tiny_pipeline("kl"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config.json").write_text("mine")
    link = tmp_path / "out" / planted
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere / "config.json" if planted.endswith("json") else elsewhere)
    with pytest.raises(FlashdiffError, match=f"{planted}: a link") as error:
        pipe.save_pretrained(tmp_path / "out", safe_serialization=True)
    assert len(str(error.value).splitlines()) == 1
    assert {p.name: p.read_text() for p in elsewhere.iterdir()} == {"config.json": "mine"}
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file() and not p.is_symlink()] == [], "nothing half-written"
    link.unlink()
    pipe.save_pretrained(tmp_path / "out", safe_serialization=True)
    assert (tmp_path / "out" / "unet" / "config.json").exists()
