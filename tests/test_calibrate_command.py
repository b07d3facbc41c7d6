"""`flashdiff calibrate`: the search, the choice, and where it is kept."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import save_tiny_model, tiny_pipeline

from flashdiff_cli.bench import calibrate
from flashdiff_cli.bench.arms import plan
from flashdiff_cli.bench.protocol import SETTINGS, Arm, Condition, Protocol
from flashdiff_cli.bench.records import BenchRecord, read
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.hub.checksums import check_folder, write_sums
from flashdiff_cli.operators import GaussianBlur
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.plan import SamplingRequest
from flashdiff_cli.runs.inputs import Job
from flashdiff_cli.runs.restorer import Restorer, Settings
from flashdiff_cli.solvers import SOLVERS

DEFAULTS = {"solver": "ldps", "steps": 8, "eta": 0.0, "noise_correction": 0.9, "solver_settings": {"ldps": {"dc_step": 0.5}}}
TUNED = {"steps": 4, "eta": 0.0, "noise_correction": 0.7, "variance_multiplier": 2.0}
TUNED |= {"settings": {"dc_step": 0.25, "guidance": "norm", "model_std": 0.0}}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", defaults=DEFAULTS)


@pytest.fixture
def model(source, tmp_path):
    """A copy to write to, with checksums."""
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(source, folder)
    write_sums(folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(4):
        folder = tmp_path / "in" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((24, 24), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return tmp_path / "in"


@pytest.fixture
def run(cli, model, pictures, tmp_path):
    out = tmp_path / "out"

    def call(*arguments):
        fixed = ("--operator", "gaussian-blur", "--blur-std", "0.3:2", "-m", model, "-o", out)
        return cli("calibrate", pictures, "-r", *fixed, *arguments)

    call.out = out
    return call


def defaults_of(folder):
    return json.loads((folder / "model_index.json").read_text())["defaults"]


def chosen(pipeline, solver, operator, **asked):
    """What a run would do, as `store` keeps it."""
    plan = pipeline.plan(SamplingRequest(solver=solver, **asked), operator)
    return {name: getattr(plan, name) for name in SETTINGS} | {"settings": plan.solver.describe()}


# What is in use


def test_settings_are_those_of_the_operator_or_its_kin_or_of_any_or_the_general_ones():
    tuned = {"ldps": {"gaussian-blur": TUNED, "random-inpainting": {"steps": 5}, "*": {"steps": 6}}}
    pipeline = tiny_pipeline(defaults=DEFAULTS | {"tuned": tuned})
    assert chosen(pipeline, "ldps", "gaussian-blur") == TUNED
    assert chosen(pipeline, None, "gaussian-blur") == TUNED
    assert chosen(pipeline, "ldps", "box-inpainting")["steps"] == 5
    assert [chosen(pipeline, "ldps", name)["steps"] for name in ("jpeg", None, "gaussian-blur+jpeg")] == [6, 6, 6]
    general = chosen(pipeline, "psld", "gaussian-blur")
    assert {k: general[k] for k in SETTINGS} == {"steps": 8, "eta": 0.0, "noise_correction": 0.9, "variance_multiplier": 1.0}
    assert general["settings"] == {option.name: option.default for option in SOLVERS["psld"].options}
    assert chosen(pipeline, "ldps", "jpeg")["settings"]["dc_step"] == 0.5
    assert chosen(pipeline, "ldps", "gaussian-blur", solver_options={"dc_step": 2.0})["settings"]["dc_step"] == 2.0
    assert chosen(pipeline, "ldps", None)["settings"]["dc_step"] == 0.5


def test_a_call_uses_what_is_tuned_under_what_it_is_given():
    measured = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    tuned = tiny_pipeline(defaults=DEFAULTS | {"tuned": {"ldps": {"gaussian-blur": TUNED}}})
    plain = tiny_pipeline(defaults=DEFAULTS)
    given = {k: v for k, v in TUNED.items() if k != "settings"}
    expected = plain(measured, GaussianBlur(1.0), 0.05, solver="ldps", solver_options={"dc_step": 0.25}, **given)
    found = tuned(measured, GaussianBlur(1.0), 0.05)
    assert torch.equal(found.images, expected.images) and (found.schedule_steps, found.solver["dc_step"]) == (4, 0.25)
    # A blind call, one by one, takes those of what the picture is diagnosed with.
    blind = tuned(measured.expand(2, -1, -1, -1), None, 0.05)
    assert blind.schedule_steps == 4 and blind.solver["dc_step"] == 0.25
    assert tuned(measured, GaussianBlur(1.0), 0.05, steps=6).schedule_steps == 6


def test_a_restorer_and_a_bench_use_what_is_tuned(model, pictures):
    calibrate.store(model, "ldps", "gaussian-blur", TUNED)
    restorer = Restorer(model, "cpu")
    from flashdiff_cli.pictures.files import read_picture

    settings = Settings(operator="gaussian-blur", operator_options={"blur_std": 1.0}, noise_std=0.05)
    picture = read_picture(pictures / "a" / "0.png")
    _, record = restorer.restore(picture, settings)
    assert (record.schedule_steps, record.solver["dc_step"]) == (4, 0.25)
    _, looked = restorer.analyse(picture, settings)
    assert (looked.schedule_steps, looked.start_step) == (4, record.start_step)
    with pytest.raises(UsageError, match="4 steps"):
        restorer.check(Settings(operator="gaussian-blur", operator_options={"blur_std": 1.0}, start_step=5))
    restorer.check(Settings(operator="identity", start_step=5))
    conditions = (Condition("g", "gaussian-blur", {"blur_std": 1.0}), Condition("j", "identity"))
    protocol = Protocol("p", conditions, (Arm("flash", solver="ldps"), Arm("full", solver="ldps", start="full")))
    plans = {(c.name, a.name): plan(a, protocol, restorer.pipeline, "m", c.assumption[0]) for c in conditions for a in protocol.arm}
    assert [plans[k, "flash"].choices["steps"] for k in "gj"] == [4, 8] and [plans[k, "flash"].solver.dc_step for k in "gj"] == [0.25, 0.5]
    assert plans["g", "full"].choices["steps"] == 1000 and plans["g", "full"].solver.dc_step == 0.25


# The grid


def test_a_grid_of_text_is_checked():
    axes = calibrate.parse_axes("psld", {"steps": "4, 8,4", "ae_weight": "0,0.1", "guidance": "norm,bayes"})
    assert axes == {"steps": [4, 8], "ae_weight": [0.0, 0.1], "guidance": ["norm", "bayes"]}
    wrong = {"gamma": ("1", "`gamma`"), "steps": ("0", "`steps` 0"), "eta": (",", "at least one"), "dc_step": ("x", "'x'")}
    for given, named in (({name: text}, named) for name, (text, named) in wrong.items()):
        with pytest.raises(UsageError, match=named):
            calibrate.parse_axes("psld", given)


def test_candidates_are_the_grid_on_the_settings_in_use_which_run_along():
    pipeline = tiny_pipeline(defaults=DEFAULTS)
    base = calibrate.present(pipeline, "ldps", "gaussian-blur")
    assert base["steps"] == 8 and base["settings"]["dc_step"] == 0.5 and base["settings"]["guidance"] == "norm"
    found = calibrate.candidates("ldps", base, {"steps": [4, 6], "dc_step": [0.5, 1.0]}, 24, 0)
    assert [(c.value("steps"), c.value("dc_step"), c.in_grid) for c in found] == [
        *((4, 0.5, True), (4, 1.0, True), (6, 0.5, True), (6, 1.0, True)),
        (8, 0.5, False),
    ]
    assert [c.name for c in found][1] == "ldps steps=4 eta=0 noise_correction=0.9 variance_multiplier=1"
    alone = calibrate.candidates("ldps", base, {"steps": [4]}, 24, 0)
    assert alone[0].name == found[0].name and len({c.name for c in found}) == 5 and all(c.value("noise_correction") == 0.9 for c in found)
    around = calibrate.axes_around(base)
    assert around["steps"] == [3, 5, 8] and around["dc_step"] == [0.25, 0.5, 1.0] and "gamma" not in around
    few = calibrate.candidates("ldps", base, around, 5, 0)
    assert len(few) == 5 and all(c.in_grid for c in few) and base in [c.choice for c in few]
    assert few == calibrate.candidates("ldps", base, around, 5, 0) != calibrate.candidates("ldps", base, around, 5, 1)


def test_folders_take_turns(tmp_path):
    jobs = [Job(tmp_path / name, tmp_path / name) for name in ("a/1", "a/2", "a/3", "b/1")]
    assert [str(job.source.relative_to(tmp_path)) for job in calibrate.take_turns(jobs)] == ["a/1", "b/1", "a/2", "a/3"]


def test_rounds():
    expected = {(16, 25): [4, 8, 16], (16, 9): [8, 16], (16, 3): [16], (3, 25): [1, 2, 3], (1, 25): [1]}
    assert {key: calibrate.round_sizes(*key) for key in expected} == expected


def test_the_balanced_objective_holds_smoothness_against_a_picture():
    def record(**values):
        return BenchRecord("p", "c", "a", "i", "d", **({"psnr": 30.0, "haarpsi": 0.8, "gradient": 1.0} | values))

    base = calibrate.balanced(record())
    assert base == pytest.approx(46.0)
    assert calibrate.balanced(record(psnr=31.0)) - base == pytest.approx(1.0)
    assert calibrate.balanced(record(haarpsi=0.85)) - base == pytest.approx(1.0)
    assert calibrate.balanced(record(gradient=math.exp(-0.1))) - base == pytest.approx(-1.0)
    assert calibrate.balanced(record(gradient=math.exp(0.1))) - base == pytest.approx(-1.0)


# The search, on records that are made up


def made_up(search, worth):
    """Run a search whose records hold worth(candidate, picture) as PSNR and the length of the schedule as evaluations."""
    rounds = []
    for bench in search.rounds():
        arms = [arm.name for arm in bench.selected.arm]
        rounds.append((arms, len(bench.items)))
        for c, arm in ((c, arm) for c in bench.selected.condition for arm in bench.selected.arm):
            for index, item in enumerate(bench.items):
                candidate = next((t for t in search.tried if t.name == arm.name), None)
                values = {"psnr": 20.0, "ssim": 0.5, "ms_ssim": 0.5, "gmsd": 0.1, "haarpsi": 0.5, "gradient": 1.0, "variance": 0.05}
                if candidate is not None:
                    psnr = worth(candidate, index)
                    values |= {"psnr": psnr, "network_evaluations": candidate.value("steps")}
                    if psnr is None:
                        values = {"status": "failed", "error": "it broke"}
                bench.log.add(bench._record(c, arm.name, item, **values))
    return rounds


@pytest.fixture
def search(tmp_path, pictures):
    from flashdiff_cli.bench.dataset import scan
    from flashdiff_cli.runs.inputs import find

    pipeline = tiny_pipeline(defaults=DEFAULTS)

    def make(axes, objective="psnr", budget=None):
        items, _ = scan(calibrate.take_turns(find([pictures], recursive=True)), None, pipeline.size_multiple)
        base = calibrate.present(pipeline, "ldps", "gaussian-blur")
        condition = Condition("gaussian-blur", "gaussian-blur", {"blur_std": [0.3, 2.0]})
        tried = calibrate.candidates("ldps", base, axes, 100, 0)
        return calibrate.Search(pipeline, "tiny", "ldps", condition, tried, items, tmp_path / "records", objective, budget)

    return make


def test_the_best_third_goes_on_with_the_best_of_each_length(search):
    one = search({"steps": [2, 4, 8], "dc_step": [0.5, 1.0, 2.0, 3.0]})
    rounds = made_up(one, lambda c, i: 20 + c.value("steps") + c.value("dc_step") + 0.1 * i)
    # Four of 12 and the best of 2 and of 4 steps; two of these six, the same two, and the settings in use.
    assert [(len(arms), pictures) for arms, pictures in rounds] == [(2, 4), (12, 1), (6, 2), (5, 4)]
    assert {c.value("steps") for c in one.finalists} == {2, 4, 8}
    rows = one.table()
    assert (rows[0].candidate.value("steps"), rows[0].candidate.value("dc_step")) == (8, 3.0)
    assert calibrate.choose(rows) is rows[0] and not any(row.tied for row in rows[1:])
    assert rows[1].difference["mean"] == pytest.approx(rows[1].means["psnr"] - rows[0].means["psnr"])
    # The settings in use came along.
    assert [c.value("dc_step") for c in one.finalists if c.in_use] == [0.5]
    # Where the grid does not hold them, they are only compared with.
    other = search({"steps": [2, 4], "dc_step": [1.0, 2.0]})
    made_up(other, lambda c, i: 20.0 if c.in_grid else 30.0)
    assert next(row.candidate.in_grid for row in other.table()) is False and calibrate.choose(other.table()).candidate.in_grid


def test_ties_go_to_the_cheaper_one(search):
    one = search({"steps": [2, 4, 8]})
    made_up(one, lambda c, i: {2: 29.0, 4: 29.97 + 0.2 * (-1) ** i, 8: 30.0}[c.value("steps")])
    rows = one.table()
    assert [(row.candidate.value("steps"), row.tied) for row in rows] == [(8, True), (4, True), (2, False)]
    assert calibrate.choose(rows).candidate.value("steps") == 4
    # An interval that holds 0 does not excuse a mean that is worse by more than the tolerance.
    two = search({"steps": [2, 4, 8]})
    made_up(two, lambda c, i: {2: 29.0, 4: 29.7 + 2 * (-1) ** i, 8: 30.0}[c.value("steps")])
    assert calibrate.choose(two.table()).candidate.value("steps") == 8


def test_a_budget_leaves_out_what_takes_more(search):
    axes = {"steps": [8, 400], "dc_step": [0.5]}
    free = search(axes)
    made_up(free, lambda c, i: 20.0 + c.value("steps"))
    cheap, dear = (free.expected(next(c for c in free.tried if c.value("steps") == n)) for n in (8, 400))
    # 0.05 is the noise at the 29th of 1000 steps: the second of 8, the 13th of 400.
    assert (cheap, dear) == (2, 13)
    tight = search(axes, budget=8)
    rounds = made_up(tight, lambda c, i: 20.0 + c.value("steps"))
    assert all("steps=400" not in arm for arms, _ in rounds for arm in arms)
    assert calibrate.choose(tight.table()).candidate.value("steps") == 8
    with pytest.raises(FlashdiffError, match="takes 2.0"):
        made_up(search(axes, budget=1), lambda c, i: 20.0)
    # What was measured counts in the end, not what was expected.
    late = search(axes, budget=7)
    made_up(late, lambda c, i: 20.0)
    with pytest.raises(FlashdiffError, match="no candidate of the last round"):
        late.table()


def test_what_fails_is_left_out_and_all_failing_is_an_error(search):
    one = search({"steps": [2, 4, 6]})
    made_up(one, lambda c, i: None if c.value("steps") == 4 else 20.0 + c.value("steps"))
    assert {c.value("steps") for c in one.finalists} == {2, 6, 8}
    with pytest.raises(FlashdiffError, match="it broke"):
        made_up(search({"steps": [3, 5]}), lambda c, i: None)


def test_an_unknown_objective(search):
    with pytest.raises(UsageError, match="beauty"):
        search({"steps": [2]}, objective="beauty")


def test_settings_in_use_that_are_better_are_told(search, capsys):
    from flashdiff_cli.commands.calibrate_show import say_choice

    for better, told in ((0.5, True), (0.05, False), (-1.0, False)):
        one = search({"steps": [2]})
        made_up(one, lambda c, i, better=better: 20.0 if c.in_grid else 20.0 + better)
        rows = one.table()
        say_choice(rows, calibrate.choose(rows), ["steps"], "psnr", 4, False)
        out = capsys.readouterr().out
        assert ("better by 0.50" in out) is told and "chosen: steps 2" in out and max(map(len, out.splitlines())) <= 80
        assert [line[0] for line in out.splitlines() if line[0] in "*<"] == (["<", "*"] if better > 0 else ["*", "<"])


# Where the choice is kept


def test_a_choice_is_stored_and_the_checksums_stay_right(model):
    before = (model / "unet" / "config.json").read_text()
    (model / "unet" / "config.json").write_text(before + "\n")
    calibrate.store(model, "ldps", "gaussian-blur", TUNED)
    calibrate.store(model, "psld", "gaussian-blur", TUNED | {"steps": 5})
    kept = defaults_of(model)
    assert kept["tuned"]["ldps"]["gaussian-blur"] == TUNED and kept["tuned"]["psld"]["gaussian-blur"]["steps"] == 5
    assert {k: kept[k] for k in DEFAULTS} == DEFAULTS
    # A file that was damaged before still shows.
    assert {check.path for check in check_folder(model) if check.state != "ok"} == {"unet/config.json"}
    (model / "unet" / "config.json").write_text(before)
    lines = (model / "SHA256SUMS").read_text()
    write_sums(model)
    assert (model / "SHA256SUMS").read_text() == lines
    assert chosen(FlashDiffusionPipeline.from_pretrained(model), "ldps", "gaussian-blur") == TUNED
    assert not list(model.glob(".*"))


def test_a_folder_without_checksums_gets_none(model):
    (model / "SHA256SUMS").unlink()
    calibrate.store(model, "ldps", "jpeg", TUNED)
    assert not (model / "SHA256SUMS").exists() and "jpeg" in defaults_of(model)["tuned"]["ldps"]


# The command


def test_a_run_stores_its_choice_says_it_and_goes_on_from_its_records(run, model):
    arguments = ("--steps", "4,8", "--dc-step", "0.1,0.5", "--batch", "2", "--objective", "psnr")
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80 and "PSNR" in lines[0] and sum(line.startswith("*") for line in lines) == 1
    stored = defaults_of(model)["tuned"]["ldps"]["gaussian-blur"]
    assert stored["steps"] in (4, 8) and stored["settings"]["dc_step"] in (0.1, 0.5) and stored["settings"]["guidance"] == "norm"
    assert all(check.state == "ok" for check in check_folder(model))
    records = read(run.out)
    blurs = {(r.image, r.operator["blur_std"]) for r in records}
    assert len(blurs) == len({image for image, _ in blurs}) == 4
    size = (run.out / "records.jsonl").stat().st_size
    index = (model / "model_index.json").read_bytes()
    # The same, but for the mark at the settings in use, which are the chosen ones now.
    assert run(*arguments)[1].splitlines()[-2:] == lines[-2:] and (run.out / "records.jsonl").stat().st_size == size
    assert (model / "model_index.json").read_bytes() == index


def test_an_interrupted_run_stores_nothing(run, model, monkeypatch):
    from flashdiff_cli.bench.runner import Bench

    def interrupted(self, *_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(Bench, "run", interrupted)
    index = (model / "model_index.json").read_bytes()
    assert run("--steps", "4,8")[0] == 130 and (model / "model_index.json").read_bytes() == index


def test_json_and_no_store_leave_the_model_alone(run, model):
    index = (model / "model_index.json").read_bytes()
    code, out, err = run("--steps", "4,8", "--no-store", "--json", "--solver", "psld", "--ae-weight", "0,0.1", "--limit", "2", "-q")
    found = json.loads(out)
    assert (code, err) == (0, "") and found["pictures"] == 2 and found["chosen"] in [row["choice"] for row in found["last_round"]]
    assert (model / "model_index.json").read_bytes() == index


def test_a_dry_run_does_nothing(run, model):
    index = (model / "model_index.json").read_bytes()
    code, out, _ = run("--dry-run")
    assert code == 0 and "24 candidates; rounds of 1, 2, 4 pictures" in out and len(out.splitlines()) == 25
    assert not run.out.exists() and (model / "model_index.json").read_bytes() == index


@pytest.mark.parametrize(
    "arguments, named",
    [
        (("--solver", "magic"), "magic"),
        (("--gamma", "1"), "--gamma"),
        (("--steps", "4,x"), "--steps"),
        (("--objective", "beauty"), "beauty"),
        (("--kept-fraction", "0.5"), "--kept-fraction"),
    ],
)
def test_what_makes_no_sense_is_one_line(run, model, arguments, named):
    index = (model / "model_index.json").read_bytes()
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and named in err and len(err.splitlines()) == 1
    assert (model / "model_index.json").read_bytes() == index and not (run.out / "records.jsonl").exists()


def test_a_name_is_no_folder_to_store_in(cli, pictures, tmp_path):
    for name in ("photos", "owner/name"):
        code, _, err = cli("calibrate", pictures, "-r", "--operator", "identity", "-m", name, "-o", tmp_path / "out")
        assert code == 2 and name in err and "--no-store" in err


def test_two_pictures_of_one_name_are_told(cli, pictures, model, tmp_path):
    (pictures / "a" / "1.png").write_bytes((pictures / "b" / "1.png").read_bytes())
    folders = (pictures / "a", pictures / "b")
    code, _, err = cli("calibrate", *folders, "--operator", "identity", "-m", model, "-o", tmp_path / "out", "--steps", "4")
    assert code == 2 and "1.png" in err
