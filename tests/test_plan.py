"""Every choice of a run: who decides it, what a model may say, and how often a picture is looked at."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import save_tiny_model, tiny_pipeline

from flashdiff_cli import pipeline as pipeline_module
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.operators import GaussianBlur
from flashdiff_cli.pictures.files import read_picture
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.plan import ModelDefaults, SamplingRequest
from flashdiff_cli.runs.restorer import Restorer
from flashdiff_cli.runs.settings import Settings
from flashdiff_cli.solvers import SOLVERS

SAID = {
    "solver": "ldps",
    "steps": 50,
    "eta": 0.5,
    "noise_correction": 0.9,
    "variance_multiplier": 3.0,
    "fidelity": True,
    "solver_settings": {"ldps": {"dc_step": 0.5, "model_std": 0.1}},
    "of_encoder": {"severity": {"eta": 0.25, "steps": 40, "noise_correction": 0.8}},
    "tuned": {"ldps": {"gaussian-blur": {"steps": 30, "settings": {"dc_step": 0.25}}, "*": {"steps": 20, "eta": None}}},
}


def images(batch: int = 1, size: int = 32) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def without_encoder(**defaults) -> FlashDiffusionPipeline:
    parts = {role: part for role, part in tiny_pipeline().components.items() if role != "severity"}
    return FlashDiffusionPipeline(**parts, defaults=defaults)


def choices(plan) -> tuple:
    return (len(plan.schedule), plan.eta, plan.noise_correction, plan.variance_multiplier)


def test_who_decides():
    pipe = tiny_pipeline(defaults=SAID)
    of = lambda operator=None, **asked: pipe.plan(SamplingRequest(**asked), operator)
    # The request, then what was tuned, then what the encoder needs, then the general choices, then the solver.
    assert choices(of("gaussian-blur")) == (30, 0.25, 0.8, 3.0)
    assert choices(of("gaussian-blur", steps=10, eta=0.0, noise_correction=0.1, variance_multiplier=1.0)) == (10, 0.0, 0.1, 1.0)
    assert choices(of("jpeg")) == (20, SOLVERS["ldps"].default_eta, 0.8, 3.0)
    assert choices(of("jpeg", solver="psld")) == (40, 0.25, 0.8, 3.0)
    assert of("gaussian-blur").solver.describe()["dc_step"] == 0.25
    assert of("gaussian-blur", solver_options={"dc_step": 4.0, "model_std": None}).solver.describe()["dc_step"] == 4.0
    assert of("jpeg").solver.describe() == {"dc_step": 0.5, "guidance": "norm", "model_std": 0.1}
    assert of().fidelity and not of(fidelity=False).fidelity
    own = SOLVERS["ldps"](dc_step=7.0)
    assert of("gaussian-blur", solver=own, solver_options={"dc_step": 1.0}).solver is own


def test_a_model_may_have_a_solver_for_some_operators():
    pipe = tiny_pipeline(defaults={"solver": "proximal", "solver_of": {"random-inpainting": "ldps"}})
    solvers = {name: pipe.plan(operator=name).solver.name for name in (None, "gaussian-blur", "random-inpainting", "box-inpainting")}
    assert solvers == {None: "proximal", "gaussian-blur": "proximal", "random-inpainting": "ldps", "box-inpainting": "ldps"}
    assert pipe.plan(SamplingRequest(solver="psld"), "random-inpainting").solver.name == "psld", "what is asked for goes over it"


def test_without_an_encoder_nothing_is_taken_from_one():
    assert choices(without_encoder(**SAID).plan(SamplingRequest(start="noise"), "jpeg")) == (20, 1.0, 0.9, 3.0)


def test_a_model_that_says_nothing_runs_as_in_the_paper():
    plan = tiny_pipeline().plan()
    assert (plan.solver.name, plan.steps, plan.noise_rule, plan.fidelity) == ("ldps", None, "variance", False)
    assert choices(plan) == (1000, 1.0, 1.0, 1.0)


def test_the_same_plan_comes_out_of_the_request_that_a_plan_makes():
    pipe = tiny_pipeline(defaults=SAID)
    for start, step in (("stochastic", None), ("stochastic", 3), ("inversion", 2), ("come-closer", 4), ("noise", None)):
        plan = pipe.plan(SamplingRequest(start=start, start_step=step), "gaussian-blur")
        again = pipe.plan(plan.as_request(), "jpeg")
        assert choices(again) == choices(plan) and again.solver is plan.solver
        assert (again.start, again.start_step) == (plan.start, plan.start_step), start


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"step": 10}, "unknown entry 'step'"),
        ({"steps": 0}, r"steps is 0; give a whole number from 1 to 1000000"),
        ({"steps": 10.5}, "steps is 10.5"),
        ({"steps": True}, "steps is True"),
        ({"eta": 2}, "eta is 2; give a number from 0 to 1"),
        ({"noise_correction": None}, "noise_correction is None"),
        ({"variance_multiplier": float("nan")}, "NaN is no JSON number"),
        ({"solver": 3}, "solver is 3"),
        ({"noise_rule": "much"}, "variance or level"),
        ({"fidelity": 1}, "fidelity is 1; give true or false"),
        ({"denoiser_gain": [[1, 3]]}, "denoiser_gain"),
        ({"solver_settings": {"ldps": 3}}, "solver_settings.ldps is no JSON object"),
        ({"solver_of": {"jpeg": 3}}, "solver_of.jpeg is 3; give a name"),
        ({"tuned": []}, "tuned is no JSON object"),
        ({"tuned": {"ldps": {"jpeg": {"settings": 1}}}}, "tuned.ldps.jpeg.settings"),
        ({"tuned": {"ldps": {"jpeg": {"dc_step": 1}}}}, "tuned.ldps.jpeg: unknown entry 'dc_step'"),
        ({"of_encoder": {"severity": {"eta": "x"}}}, "of_encoder.severity.eta is 'x'"),
        ({"calibration": {"severity": {}}}, "calibration.severity.variance must be 15 numbers"),
        ([], "no JSON object"),
    ],
)
def test_what_a_model_may_not_say_is_told_at_loading_in_one_line(values, said, tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"defaults": values}))
    with pytest.raises(FlashdiffError, match=said) as raised:
        FlashDiffusionPipeline.from_pretrained(folder)
    assert "\n" not in str(raised.value) and not isinstance(raised.value, UsageError)


def test_the_published_model_says_what_may_be_said_and_keeps_it_when_saved(tmp_path):
    said = json.loads((Path(__file__).parents[1] / "weights/photos/model_index.json").read_text())["defaults"]
    # What is the paper's own need not be said.
    assert {"solver": "ldps"} | ModelDefaults.read(said).to_dict() == said
    folder = save_tiny_model(tmp_path / "model", defaults=said)
    again = FlashDiffusionPipeline.from_pretrained(folder)
    assert again.defaults == ModelDefaults.read(said)
    assert json.loads((folder / "model_index.json").read_text())["defaults"] == said


def test_requests_know_their_fields_and_diffusers_name_for_steps():
    assert SamplingRequest.of(num_inference_steps=7).steps == 7
    assert SamplingRequest.of(SamplingRequest(steps=3, eta=0.5), steps=4) == SamplingRequest(steps=4, eta=0.5)
    with pytest.raises(UsageError, match="unknown argument 'stepz'"):
        SamplingRequest.of(stepz=3)
    pipe = tiny_pipeline()
    for given, said in (
        ({"start": "middle"}, "unknown start 'middle'"),
        ({"start": "come-closer"}, "`start_step`"),
        ({"start": "noise", "start_step": 3}, "`start_step`"),
        ({"start_step": 11, "steps": 10}, "`start_step` 11 is out of range; this schedule has 10 steps"),
        ({"start_step": torch.tensor([3, -1])}, "`start_step` -1"),
        ({"noise_correction": -1.0}, "`noise_correction`"),
        ({"variance_multiplier": float("nan")}, "`variance_multiplier`"),
        ({"encoder": "severity_mixed"}, "`encoder` 'severity_mixed': this model has severity"),
    ):
        with pytest.raises(UsageError, match=said):
            pipe.plan(SamplingRequest(**given))


def test_a_call_takes_the_names_that_diffusers_has():
    pipe = tiny_pipeline(defaults={"steps": 20})
    seeded = lambda: torch.Generator().manual_seed(5)
    asked = {"operator": GaussianBlur(1.0), "noise_std": 0.05, "start_step": 3}
    ours = pipe(images(), steps=10, generators=[seeded()], **asked)
    theirs = pipe(images(), num_inference_steps=10, generator=seeded(), **asked)
    assert torch.equal(ours.images, theirs.images) and theirs.schedule_steps == 10


# Models without a severity encoder


@pytest.mark.parametrize(
    ("choice", "level", "evaluations"),
    [
        ({"start_step": 3}, 3, 3),
        ({"start_step": 0}, 0, 0),
        ({"start_step": 10}, 10, 10),
        ({"start": "noise"}, 10, 10),
        ({"start": "come-closer", "start_step": 4}, 4, 4),
        ({"start": "inversion", "start_step": 2}, 2, 4),
    ],
)
def test_a_model_without_a_severity_encoder_restores_from_every_start_that_is_given(choice, level, evaluations):
    pipe = without_encoder(steps=10, fidelity=True)
    result = pipe(images(2), GaussianBlur(1.0), 0.05, **choice)
    assert torch.isfinite(result.images).all() and result.images.shape == (2, 3, 32, 32)
    assert result.start_step.tolist() == [level] * 2 and result.network_evaluations.tolist() == [evaluations] * 2
    assert result.decoded is result.variance is result.encoder is None


def test_pure_noise_knows_nothing_of_severity_or_of_the_measurement():
    pipe, plain = tiny_pipeline(defaults={"steps": 10}), without_encoder(steps=10)
    asked = {"operator": GaussianBlur(1.0), "noise_std": 0.05, "solver": "unguided"}
    found = pipe(images(), start="noise", **asked)
    assert torch.equal(found.images, plain(images(), start="noise", **asked).images)
    assert torch.equal(found.images, plain(-images(), start="noise", **asked).images)
    # The last step of the schedule is pure noise, with and without an estimate.
    assert torch.equal(found.images, pipe(images(), start_step=10, **asked).images)
    assert torch.equal(found.images, plain(images(), start_step=10, **asked).images)


def test_a_fixed_start_without_estimate_is_the_encoded_measurement_at_the_noise_of_its_step():
    pipe = without_encoder(steps=10)
    asked = {"operator": GaussianBlur(1.0), "noise_std": 0.05, "start_step": 4}
    closer = pipe(images(), start="come-closer", **asked).images
    torch.testing.assert_close(pipe(images(), **asked).images, closer, atol=1e-5, rtol=1e-4)


def test_what_only_an_encoder_can_tell_is_asked_for_in_words():
    pipe = without_encoder(steps=10)
    with pytest.raises(FlashdiffError, match="no severity encoder; give `start_step`"):
        pipe(images(), GaussianBlur(1.0), 0.05)
    with pytest.raises(FlashdiffError, match="no severity encoder.*`operator`"):
        pipe(images(), start_step=3)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "bare"
    without_encoder(steps=10, fidelity=True).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture
def source(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 44, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((44, 40), Image.Resampling.BICUBIC).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_the_command_line_restores_with_a_model_without_a_severity_encoder(cli, bare, source):
    told = ("restore", source, "-m", bare, "--operator", "gaussian-blur", "--blur-std", "1", "--noise-std", "0.05", "--json", "--overwrite")
    for given, steps in ((("--start-step", 2), 2), (("--start", "noise"), 10), (("--start", "come-closer", "--start-step", 3), 3)):
        code, out, err = cli(*told, *given)
        assert code == 0, err
        record = json.loads(out)
        assert (record["start_step"], record["steps"], record["schedule_steps"]) == (steps, steps, 10)
        assert record["severity"] is record["variance"] is record["encoder"] is None
        assert (source.parent / "a-restored.png").exists()
    code, _, err = cli(*told)
    assert code == 1 and "--start-step" in err and len(err.strip().splitlines()) == 1
    code, _, err = cli(*told, "--start", "come-closer")
    assert code == 2 and "--start-step" in err


def test_tiles_share_the_noise_of_a_start_from_nothing(bare, source):
    restorer = Restorer(bare)
    settings = {"operator": "gaussian-blur", "operator_options": {"blur_std": 1.0}, "noise_std": 0.05, "start": "noise"}
    large = Image.open(source).resize((136, 72))
    large.save(source)
    _, record = restorer.restore(read_picture(source), Settings(**settings, tile=64))
    assert len(record.tiles) > 1 and all(tile["severity"] is None and tile["start_step"] == 10 for tile in record.tiles)


# A picture is looked at once


@pytest.fixture
def looks(monkeypatch):
    """Passes of the severity encoder and blur fits, counted."""
    counts = {"encoder": 0, "fit": 0}
    fit = pipeline_module.fit_blur

    def counted(*given):
        counts["fit"] += 1
        return fit(*given)

    monkeypatch.setattr(pipeline_module, "fit_blur", counted)

    def watch(pipe):
        def count(*_):
            counts["encoder"] += 1

        pipe.severity.register_forward_hook(count)
        return counts

    return watch


CALIBRATION = {"severity": {"variance": [-1.0, *[0.0] * 14], "width": [0.1, *[0.0] * 14], "bounds": [[-9.0, 9.0]] * 4}}


@pytest.mark.parametrize("defaults", [{"steps": 10}, {"steps": 10, "fidelity": True, "calibration": CALIBRATION}])
def test_a_blind_restoration_of_one_tile_takes_one_pass_of_the_encoder_and_one_fit(defaults, looks, tmp_path, source):
    restorer = Restorer(save_tiny_model(tmp_path / "model", defaults=defaults))
    counts = looks(restorer.pipeline)
    _, record = restorer.restore(read_picture(source), Settings())
    assert record.operator["estimated"] and counts == {"encoder": 1, "fit": 1}
    _, seen = restorer.analyse(read_picture(source), Settings())
    assert counts == {"encoder": 2, "fit": 2}
    assert (seen.start_step, seen.operator) == (record.start_step, record.operator)
    assert seen.severity == pytest.approx(record.severity, rel=1e-5)
    restorer.pipeline(images(), start_step=1)
    assert counts == {"encoder": 3, "fit": 3}


def test_tiles_that_the_diagnosis_has_looked_at_are_not_looked_at_again(looks, tmp_path, source):
    restorer = Restorer(save_tiny_model(tmp_path / "model", defaults={"steps": 10}))
    Image.open(source).resize((136, 72)).save(source)
    counts = looks(restorer.pipeline)
    _, record = restorer.restore(read_picture(source), Settings(tile=64, start_step=1))
    assert counts == {"encoder": len(record.tiles), "fit": len(record.tiles)} and len(record.tiles) > 1


def test_another_encoder_looks_again(looks):
    pipe = tiny_pipeline(defaults={"steps": 10})
    pipe = type(pipe)(**(pipe.components | {"severity_mixed": tiny_pipeline(seed=1).severity}), defaults={"steps": 10})
    counts = looks(pipe)
    result = pipe(images(), encoder="severity_mixed", start_step=1)
    assert result.encoder == "severity_mixed" and counts["encoder"] == 1
    torch.testing.assert_close(result.variance, pipe.severity_mixed(images()).variance)
