"""Protocols: what the package ships, what a file may say, what a person may type."""

import dataclasses

import pytest
import torch
from PIL import Image
from tiny import tiny_pipeline

from flashdiff_cli.bench.arms import condition_identity, plan
from flashdiff_cli.bench.dataset import through_jpeg
from flashdiff_cli.bench.from_flags import make, parse
from flashdiff_cli.bench.protocol import BASELINES, Arm, Condition, from_dict, load, packaged
from flashdiff_cli.errors import UsageError
from flashdiff_cli.solvers import SOLVERS

BLUR = {"name": "c", "operator": "gaussian-blur", "options": {"blur_std": [0.3, 3.0]}}
TASKS = ("gblur-varying", "gblur-fixed", "nonlinear-blur", "motion-blur", "random-inpainting", "box-inpainting")


def protocol(**changes):
    return from_dict({"name": "p", "condition": [BLUR], "arm": [{"name": "input", "baseline": "input"}]} | changes)


def test_the_package_has_the_papers_tasks():
    assert set(packaged()) == {*TASKS, "robustness", "start-search", "hidden-degradation", "phone"}


@pytest.mark.parametrize("name", packaged())
def test_packaged_protocols_make_sense(name):
    found = load(name)
    assert found.name == name and found.title and found.size == 256 and found.noise_std == 0.05
    arms = {arm.name for arm in found.arm}
    assert found.baseline in arms and all(arm.against in arms for arm in found.arm if arm.against)
    pipeline = tiny_pipeline(defaults={"steps": 100})
    for model in ("photos", "celebahq-256", "lsun-bedrooms-256"):
        for arm in found.arm:
            plan(arm, found, pipeline, model)


def test_a_measurement_is_stored_as_a_file():
    condition = Condition("c", "gaussian-blur", {"blur_std": [0.6, 2.8]}, stored_quality=[80, 95])
    assert condition.quality(0.0) == 95 and condition.quality(1.0) == 80
    assert Condition("c", "identity").quality(0.5) is None
    with pytest.raises(UsageError, match="stored_quality"):
        Condition("c", "identity", stored_quality=[0, 95])
    y = torch.rand(1, 3, 32, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rough, fine = (through_jpeg(y, quality) for quality in (10, 95))
    assert rough.shape == y.shape and (rough - y).abs().mean() > (fine - y).abs().mean() > 0
    assert condition_identity(condition) != condition_identity(Condition("c", "gaussian-blur", {"blur_std": [0.6, 2.8]}))


@pytest.mark.parametrize("name", TASKS)
def test_each_task_has_every_solver_from_noise_and_from_both_matched_starts(name):
    found = {arm.name: arm for arm in load(name).arm}
    solvers = {arm.solver for arm in found.values() if arm.solver}
    assert solvers == set(SOLVERS) - {"unguided"} - ({"psld", "proximal"} if name == "nonlinear-blur" else set())
    for solver in solvers:
        steps = 500 if solver == "resample" else 1000
        assert found[f"full-{solver}"].start == "full"
        ddpm, ddim = found[f"flash-ddpm-{solver}"], found[f"flash-{solver}"]
        assert (ddpm.start, ddpm.steps, ddpm.eta) == ("flash", steps, 1.0) and ddpm.against == f"full-{solver}"
        assert (ddim.start, ddim.steps, ddim.against) == ("flash", None, f"full-{solver}")


def test_the_papers_settings_are_for_its_models_only():
    found, pipeline = load("gblur-varying"), tiny_pipeline(defaults={"solver_settings": {"ldps": {"dc_step": 2.4}}})
    arms = {arm.name: arm for arm in found.arm}
    ours = plan(arms["flash-ldps"], found, pipeline, "photos")
    theirs = plan(arms["flash-ldps"], found, pipeline, "models/celebahq-256")
    assert (ours.solver.dc_step, ours.choices["noise_correction"]) == (2.4, 1.0)
    assert (theirs.solver.dc_step, theirs.choices["noise_correction"], theirs.solver.guidance) == (1.0, 1.2, "norm")
    rooms = plan(arms["flash-gml-dps"], found, pipeline, "lsun-bedrooms-256")
    assert (rooms.solver.dc_step, rooms.solver.ae_weight) == (2.0, 0.05)


def test_a_full_run_is_the_papers_length_and_knows_no_start_settings():
    found, pipeline = load("gblur-varying"), tiny_pipeline(defaults={"steps": 50, "eta": 0.0, "noise_correction": 0.9})
    arms = {arm.name: plan(arm, found, pipeline, "photos").choices for arm in found.arm if arm.solver}
    assert [(arms[n]["steps"], arms[n]["eta"]) for n in ("full-ldps", "full-resample", "flash-ldps")] == [(1000, 1.0), (500, 1.0), (50, 0.0)]
    assert arms["full-ldps"]["noise_correction"] is None and arms["flash-ldps"]["noise_correction"] == 0.9


def test_fidelity_is_the_arms_then_the_protocols_then_the_models():
    pipeline = tiny_pipeline(defaults={"fidelity": True})
    arm = {"name": "a", "solver": "ldps"}
    for given, of_arm, expected in ((None, {}, True), (False, {}, False), (False, {"fidelity": True}, True)):
        changes = {} if given is None else {"fidelity": given}
        found = protocol(arm=[arm | of_arm], **changes)
        assert plan(found.arm[0], found, pipeline, "m").fidelity is expected


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"sise": 3}, "sise"),
        ({"arm": [{"name": "a", "solver": "ldps", "colour": 1}]}, "colour"),
        ({"condition": [BLUR | {"strength": 1}]}, "strength"),
        ({"condition": [BLUR | {"options": {"kept_fraction": 0.5}}]}, "kept_fraction"),
        ({"condition": [BLUR | {"options": {"blur_std": [0.3, 99.0]}}]}, "99"),
        ({"condition": [BLUR | {"options": {"blur_std": [1, 2, 3]}}]}, "pair"),
        ({"condition": [BLUR | {"assumed": {"operater": "identity"}}]}, "operater"),
        ({"condition": [BLUR | {"operator": "fog"}]}, "fog"),
        ({"condition": [{"name": "c"}]}, "operator is missing"),
        ({"condition": [BLUR, BLUR]}, "two conditions"),
        ({"condition": []}, "condition"),
        ({"arm": []}, "arm"),
        ({"arm": [{"name": "a/b", "baseline": "input"}]}, "a/b"),
        ({"arm": [{"name": "severity", "baseline": "input"}]}, "severity"),
        ({"arm": [{"name": "input", "solver": "ldps"}]}, "input"),
        ({"arm": [{"name": "a"}]}, "baseline or solver"),
        ({"arm": [{"name": "a", "baseline": "magic"}]}, "magic"),
        ({"arm": [{"name": "a", "solver": "magic"}]}, "magic"),
        ({"arm": [{"name": "a", "solver": "ldps", "start": "sideways"}]}, "sideways"),
        ({"arm": [{"name": "a", "solver": "ldps", "start": -1}]}, "-1"),
        ({"arm": [{"name": "a", "solver": "ldps", "start": "come-closer"}]}, "start_step"),
        ({"arm": [{"name": "a", "solver": "ldps", "start": "full", "blind": True}]}, "blind"),
        ({"metrics": ["beauty"]}, "beauty"),
        ({"levels": 1}, "levels"),
        ({"size": 3}, "size"),
        ({"dataset": {"rules": "x"}}, "rules"),
    ],
)
def test_what_makes_no_sense_is_named(changes, named):
    with pytest.raises(UsageError, match=named):
        protocol(**changes)


def test_settings_that_the_model_does_not_have_are_named():
    pipeline = tiny_pipeline(defaults={"steps": 10})
    for arm, named in (({"settings": {"gamma": 1}}, "gamma"), ({"start": 11}, "11"), ({"steps": 5000}, "5000")):
        found = protocol(arm=[{"name": "a", "solver": "ldps"} | arm])
        with pytest.raises(UsageError, match=f"arm a.*{named}"):
            plan(found.arm[0], found, pipeline, "m")


def test_files_that_are_no_protocol(tmp_path):
    (tmp_path / "bad.toml").write_text("size = ")
    for source, named in ((tmp_path / "bad.toml", "bad.toml"), ("no-such", "gblur-varying")):
        with pytest.raises(UsageError, match=named):
            load(source)


def test_a_file_names_itself_and_gives_its_noise_to_its_conditions(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'noise_std = 0.1\n[[condition]]\nname = "a"\noperator = "identity"\n[[condition]]\nname = "b"\noperator = "identity"\n'
        'noise_std = 0.2\n[[arm]]\nname = "input"\nbaseline = "input"\n'
    )
    found = load(path)
    assert found.name == "mine" and [c.noise_std for c in found.condition] == [0.1, 0.2]


def test_what_a_solver_is_told():
    def told(assumed):
        blur = BLUR | {"options": {"blur_std": 2.0}}
        return protocol(condition=[blur | {"assumed": assumed} if assumed else blur]).condition[0].assumption

    assert told(None) == ("gaussian-blur", {"blur_std": 2.0}, 0.05)
    assert told({"noise_std": 0.1}) == ("gaussian-blur", {"blur_std": 2.0}, 0.1)
    assert told({"options": {"blur_std": 1.0}}) == ("gaussian-blur", {"blur_std": 1.0}, 0.05)
    assert told({"operator": "identity"}) == ("identity", {}, 0.05)


def test_selection_keeps_the_protocols_order_and_names_what_is_not_there():
    found = load("gblur-varying")
    some = found.select(["tv", "severity", "input"], None)
    assert [arm.name for arm in some.arm] == ["input", "tv"] and some.levels == 10
    assert found.select(["input"], None).levels == 0 and found.select(None, ["gblur-varying"]).levels == 10
    with pytest.raises(UsageError, match="flush-ldps.*flash-ldps"):
        found.select(["flush-ldps"], None)
    with pytest.raises(UsageError, match="fog"):
        found.select(None, ["fog"])


def test_options_can_be_changed_in_all_conditions_that_have_them():
    found = load("robustness").with_options({"factor": "4"})
    assert {c.name: c.options.get("factor") for c in found.condition if "factor" in c.options} == {"downsampling-2": "4"}
    with pytest.raises(UsageError, match="kept_fraction"):
        load("robustness").with_options({"kept_fraction": 0.5})


def test_a_difference_is_taken_to_the_arms_own_choice_if_it_is_there():
    found = load("gblur-varying")
    arm = next(a for a in found.arm if a.name == "flash-ldps")
    assert found.against(arm, {"full-ldps", "input"}) == "full-ldps"
    assert found.against(arm, {"input"}) == "input" and found.against(arm, {"flash-ldps"}) is None


def test_flags_make_an_arm_for_each_solver_and_start():
    starts = ["input", "tv", "flash", "blind", "full", "7", "come-closer:9"]
    found = make("gaussian-blur", parse({"blur_std": "0.3:3"}), 0.1, 5, ["ldps", "psld"], {"ae_weight": 0.2}, starts, 50, 0.5)
    assert found.condition == (Condition("gaussian-blur", "gaussian-blur", {"blur_std": [0.3, 3.0]}, 0.1),) and found.levels == 5
    arms = {arm.name: arm for arm in found.arm}
    per_solver = [f"{start}-{s}" for start in ("flash", "blind", "full", "fixed-7", "come-closer-9") for s in ("ldps", "psld")]
    assert list(arms) == ["input", "tv", *per_solver]
    assert arms["flash-psld"].settings == {"ae_weight": 0.2} and arms["flash-ldps"].settings == {}
    assert (arms["fixed-7-ldps"].start, arms["fixed-7-ldps"].steps, arms["fixed-7-ldps"].eta) == (7, 50, 0.5)
    assert (arms["full-ldps"].steps, arms["blind-ldps"].blind, arms["come-closer-9-psld"].start_step) == (None, True, 9)
    assert arms["flash-ldps"].against == "full-ldps" and arms["full-ldps"].against is None
    assert [arm.name for arm in make("identity", {}, starts=["20"]).arm] == ["fixed-20"]


@pytest.mark.parametrize(
    "arguments, named",
    [
        ({"operator": None, "operator_options": {}}, "`operator`"),
        ({"operator": "identity", "operator_options": {}, "starts": ["up"]}, "up"),
        ({"operator": "identity", "operator_options": {}, "starts": ["flash"], "solver_options": {"gamma": 1.0}}, "gamma"),
        ({"operator": "gaussian-blur", "operator_options": {}, "starts": ["input"]}, "blur_std"),
    ],
)
def test_flags_that_make_no_sense_are_named(arguments, named):
    with pytest.raises(UsageError, match=named):
        make(**arguments)


def test_ranges_are_for_numbers_only():
    rest = {"kernel_file": "a:b.png", "factor": "2"}
    assert parse({"blur_std": "1:2"} | rest) == {"blur_std": [1.0, 2.0]} | rest
    with pytest.raises(UsageError, match="range"):
        parse({"blur_std": "1:2:3"})


def test_every_baseline_can_be_an_arm():
    for name in BASELINES:
        assert Arm(name, baseline=name).kind == name
    assert dataclasses.replace(Arm("a", solver="ldps"), start=5).kind == "fixed" and Arm("a", solver="ldps").kind == "flash"


def test_noise_may_be_a_range_of_which_a_picture_takes_its_level():
    condition = Condition("c", "identity", noise_std=[0.02, 0.1])
    assert condition.noise(0.0) == 0.02 and condition.noise(0.5) == pytest.approx(0.06) and condition.noise(1.0, assumed=True) == 0.1
    with pytest.raises(UsageError, match="noise.std"):
        Condition("c", "identity", noise_std=[0.02, -0.1])


def test_what_a_protocol_says_does_not_act_on_the_terminal(tmp_path, cli):
    path = tmp_path / "p.toml"
    path.write_text(
        'name = "p"\ntitle = "t"\n[[condition]]\nname = "a\\u001b]0;owned\\u0007"\noperator = "identity"\nnoise_std = 0.1\n'
        '[[arm]]\nname = "x\\u001b[2J"\nbaseline = "input"\n'
    )
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    code, out, err = cli("bench", tmp_path / "a.png", "--protocol", path, "--dry-run")
    assert "\x1b" not in out + err and (code == 2 or "x\\x1b[2J" in out)
