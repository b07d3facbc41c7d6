"""The loop of a bench: fair, repeatable, resumable, and never stopped by one bad cell."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_pipeline

from flashdiff_cli.bench import arms as arms_module
from flashdiff_cli.bench.dataset import batches, centre, choose_ids, degrade, derive, scan
from flashdiff_cli.bench.metrics import psnr
from flashdiff_cli.bench.protocol import from_dict
from flashdiff_cli.bench.records import Log, image_path, parse, read
from flashdiff_cli.bench.runner import Bench, Work
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.pictures.files import read_picture
from flashdiff_cli.runs.inputs import Job, find

DEFAULTS = {"solver": "ldps", "steps": 20, "eta": 0.0}
BLUR = {"name": "blur", "operator": "gaussian-blur", "options": {"blur_std": [0.3, 2.0]}}
HOLES = {"name": "holes", "operator": "random-inpainting", "options": {"kept_fraction": [0.9, 0.3]}}
SMALL = {"name": "small", "operator": "downsampling", "options": {"factor": 2}}
SHAKE = {"name": "shake", "operator": "motion-blur", "options": {"blur_length": [1.0, 9.0]}}
ARMS = [
    {"name": "input", "baseline": "input"},
    {"name": "decoded", "baseline": "decoded"},
    {"name": "flash", "solver": "ldps", "start": "flash"},
    {"name": "fixed-3", "solver": "ldps", "start": 3},
    {"name": "closer", "solver": "ldps", "start": "come-closer", "start_step": 4},
    {"name": "full", "solver": "unguided", "start": "full", "steps": 6},
    {"name": "blind", "solver": "ldps", "start": "flash", "blind": True},
]
TIMES = ("seconds",)


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline(defaults=DEFAULTS)


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((37, 33), Image.Resampling.BICUBIC).save(tmp_path / f"{i}.png")
    return tmp_path


def protocol(conditions=(BLUR,), arms=ARMS, **changes):
    return from_dict({"name": "p", "condition": list(conditions), "arm": list(arms), "size": 24} | changes)


def bench(pipeline, pictures, folder, plan=None, arms=None, limit=None, **options):
    plan = plan or protocol()
    items, errors = scan(find([pictures])[:limit], plan.size, pipeline.size_multiple)
    assert not errors
    return Bench(plan, plan.select(arms, None), pipeline, "tiny", items, folder, **options)


def results(records):
    """Records without what is timed, by cell."""
    return {r.key: {k: v for k, v in json.loads(r.to_json()).items() if k not in TIMES} for r in records}


def same(a, b, tolerance=2e-3):
    assert a.keys() == b.keys()
    for key in a:
        for name, value in a[key].items():
            if isinstance(value, float):
                assert b[key][name] == pytest.approx(value, rel=tolerance, abs=tolerance), (key, name)
            else:
                assert b[key][name] == value, (key, name)


def test_every_arm_of_every_condition_gives_a_record(pipeline, pictures, tmp_path):
    records = list(bench(pipeline, pictures, tmp_path / "out", protocol((BLUR, HOLES, SMALL, SHAKE))).run())
    assert len(records) == 3 * 4 * len(ARMS) and {r.status for r in records} == {"done"}
    for r in records:
        assert (r.width, r.height, r.model, r.protocol) == (24, 24, "tiny", "p") and 0 <= r.level <= 1
        assert r.psnr and 0 < r.haarpsi <= 1 and r.seconds["total"] >= 0
    by = {(r.condition, r.arm): r for r in records if r.image == "0.png"}
    assert by["blur", "flash"].start == "flash" and by["blur", "fixed-3"].start == by["blur", "fixed-3"].start_step == 3
    assert by["blur", "fixed-3"].network_evaluations == 3 and by["blur", "closer"].network_evaluations == 4
    assert (by["blur", "full"].network_evaluations, by["blur", "full"].schedule_steps) == (6, 6)
    assert by["blur", "blind"].assumed["estimated"] and not by["blur", "flash"].assumed["estimated"]
    low, high = BLUR["options"]["blur_std"]
    assert by["blur", "input"].operator["blur_std"] == pytest.approx(low + by["blur", "input"].level * (high - low), abs=1e-3)
    assert by["holes", "flash"].assumed["kept_fraction"] == by["holes", "flash"].operator["kept_fraction"]
    for arm in ("decoded", "flash", "fixed-3"):
        assert by["blur", arm].variance == by["blur", "decoded"].variance > 0 and by["blur", arm].error_variance > 0
    assert by["blur", "full"].variance is None and by["blur", "closer"].error_variance is None


def test_a_batch_gives_what_single_runs_give(pipeline, pictures, tmp_path):
    plan = protocol((BLUR, HOLES, SMALL, SHAKE))
    alone = results(bench(pipeline, pictures, tmp_path / "a", plan, batch=1).run())
    together = results(bench(pipeline, pictures, tmp_path / "b", plan, batch=3).run())
    same(alone, together)


def test_a_record_does_not_depend_on_the_other_pictures_or_arms(pipeline, pictures, tmp_path):
    whole = results(bench(pipeline, pictures, tmp_path / "a").run())
    (pictures / "0.png").unlink()
    (pictures / "1.png").rename(pictures / "z.png")
    some = results(bench(pipeline, pictures, tmp_path / "b", arms=["fixed-3"]).run())
    renamed = {k: v | {"image": "1.png" if v["image"] == "z.png" else v["image"]} for k, v in some.items()}
    expected = {k: v for k, v in whole.items() if k[1] == "fixed-3" and k[2] != "0.png"}
    same({(*k[:2], v["image"], k[3]): v for k, v in renamed.items()}, expected, 0)


def test_all_arms_get_the_same_measurement_and_the_same_noise(pipeline, pictures, tmp_path, monkeypatch):
    seen = {}
    original = arms_module.run

    def spy(plan, batch, *rest):
        first = torch.randn(4, generator=batch.generators()[0])
        seen[plan.arm.name] = (batch.measurement.clone(), first)
        return original(plan, batch, *rest)

    monkeypatch.setattr("flashdiff_cli.bench.runner.run", spy)
    list(bench(pipeline, pictures, tmp_path / "out", limit=1).run())
    assert set(seen) == {arm["name"] for arm in ARMS}
    for measurement, noise in seen.values():
        assert torch.equal(measurement, seen["input"][0]) and torch.equal(noise, seen["input"][1])


def test_a_bench_goes_on_where_it_was_killed(pipeline, pictures, tmp_path):
    whole = results(bench(pipeline, pictures, tmp_path / "whole").run())
    folder = tmp_path / "killed"
    running = bench(pipeline, pictures, folder).run()
    for _ in range(9):
        next(running)
    running.close()
    path = folder / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:7]) + lines[7][:40])
    again = list(bench(pipeline, pictures, folder).run())
    assert len(again) == len(whole) - 7
    same(results(read(folder)), whole, 0)
    assert list(bench(pipeline, pictures, folder).run()) == []


def test_what_changed_is_done_again_and_replaces(pipeline, pictures, tmp_path):
    folder = tmp_path / "out"
    list(bench(pipeline, pictures, folder, arms=["input", "fixed-3"]).run())
    changed = [arm | {"start": 5} if arm["name"] == "fixed-3" else arm for arm in ARMS]
    again = list(bench(pipeline, pictures, folder, protocol(arms=changed), arms=["input", "fixed-3"]).run())
    assert [r.arm for r in again] == ["fixed-3"] * 3 and {r.start for r in read(folder) if r.arm == "fixed-3"} == {5}
    reseeded = list(bench(pipeline, pictures, folder, protocol(arms=changed, seed=1), arms=["input"]).run())
    assert len(reseeded) == 3
    before = read_picture(pictures / "0.png").image
    Image.fromarray(255 - np.array(Image.open(pictures / "0.png"))).save(pictures / "0.png")
    assert not torch.equal(before, read_picture(pictures / "0.png").image)
    redone = list(bench(pipeline, pictures, folder, protocol(arms=changed, seed=1), arms=["input"]).run())
    assert [r.image for r in redone] == ["0.png"]


def test_a_measure_that_is_asked_for_later_is_taken_once(pipeline, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("flashdiff_cli.bench.metrics._lpips", lambda network, device: lambda image, clean: torch.full((len(image),), 0.5))
    folder, more = tmp_path / "out", protocol(metrics=["psnr", "lpips_alex"])
    assert {r.lpips_alex for r in bench(pipeline, pictures, folder, arms=["input"]).run()} == {None}
    assert {r.lpips_alex for r in bench(pipeline, pictures, folder, more, arms=["input"]).run()} == {0.5}
    assert list(bench(pipeline, pictures, folder, more, arms=["input"]).run()) == []
    assert list(bench(pipeline, pictures, folder, arms=["input"]).run()) == []


def test_other_defaults_of_the_model_leave_records_that_do_not_use_them(pictures, tmp_path):
    folder = tmp_path / "out"
    list(bench(tiny_pipeline(defaults=DEFAULTS), pictures, folder).run())
    calibrated = tiny_pipeline(defaults=DEFAULTS | {"noise_correction": 0.9, "solver_settings": {"psld": {"dc_step": 3.0}}})
    assert {r.arm for r in bench(calibrated, pictures, folder).run()} == {"flash", "fixed-3", "blind"}
    retrained = tiny_pipeline(defaults=DEFAULTS)
    with torch.no_grad():
        next(retrained.severity.parameters()).add_(0.1)
    todo = {arm for _, arm, count in bench(retrained, pictures, folder).todo() if count}
    assert todo == {"decoded", "flash", "fixed-3", "blind"}


def test_a_model_without_severity_encoder_runs_what_needs_none(pictures, tmp_path):
    pipeline = tiny_pipeline(defaults=DEFAULTS)
    bare = type(pipeline)(pipeline.first_stage, pipeline.unet, pipeline.scheduler, defaults=DEFAULTS)
    records = list(bench(bare, pictures, tmp_path / "out", protocol(levels=3), limit=1).run())
    status = {r.arm: r.status for r in records}
    assert status == {
        **dict.fromkeys(["input", "closer", "full"], "done"),
        **dict.fromkeys(["decoded", "flash", "fixed-3", "blind", "severity"], "skipped"),
    }
    assert all("severity encoder" in r.error for r in records if r.status == "skipped")


def test_arms_that_do_not_fit_are_skipped_with_the_reason(pipeline, pictures, tmp_path):
    arms = [{"name": n, "baseline": n} for n in ("wiener", "biharmonic")]
    records = list(bench(pipeline, pictures, tmp_path / "out", protocol((BLUR, HOLES), arms), limit=1).run())
    found = {(r.condition, r.arm): (r.status, r.error) for r in records}
    assert {k for k, v in found.items() if v[0] == "done"} == {("blur", "wiener"), ("holes", "biharmonic")}
    assert "blur" in found["holes", "wiener"][1] and "missing pixels" in found["blur", "biharmonic"][1]


def test_a_failure_is_a_record_and_is_tried_again(pipeline, pictures, tmp_path, monkeypatch):
    def fail(plan, batch, *rest):
        if plan.arm.name == "decoded":
            raise FlashdiffError("no luck")
        if plan.arm.name == "flash":
            raise RuntimeError("CUDA out of memory")
        return original(plan, batch, *rest)

    original = arms_module.run
    monkeypatch.setattr("flashdiff_cli.bench.runner.run", fail)
    records = list(bench(pipeline, pictures, tmp_path / "out", limit=1, arms=["input", "decoded", "flash"]).run())
    assert {r.arm: r.status for r in records} == {"input": "done", "decoded": "failed", "flash": "failed"}
    assert "no luck" in records[1].error and "`batch`" in records[2].error and records[1].psnr is None
    monkeypatch.setattr("flashdiff_cli.bench.runner.run", original)
    again = list(bench(pipeline, pictures, tmp_path / "out", limit=1, arms=["input", "decoded", "flash"]).run())
    assert {r.arm: r.status for r in again} == {"decoded": "done", "flash": "done"}


def test_a_fault_of_the_program_is_not_hidden(pipeline, pictures, tmp_path, monkeypatch):
    def wrong(*_):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("flashdiff_cli.bench.runner.run", wrong)
    with pytest.raises(RuntimeError, match="shapes"):
        list(bench(pipeline, pictures, tmp_path / "out", limit=1).run())


def test_values_that_are_not_finite_are_a_failure(pictures, tmp_path):
    broken = tiny_pipeline(defaults=DEFAULTS)
    with torch.no_grad():
        broken.unet.conv_out.bias.fill_(float("nan"))
    records = list(bench(broken, pictures, tmp_path / "out", limit=1, arms=["input", "full"], save_images=1).run())
    assert [(r.arm, r.status, r.psnr is None) for r in records] == [("input", "done", False), ("full", "failed", True)]
    assert not image_path(tmp_path / "out", "blur", "0.png", "full").exists()


def test_saved_images_are_what_was_measured(pipeline, pictures, tmp_path):
    folder = tmp_path / "out"
    list(bench(pipeline, pictures, folder, arms=["decoded"]).run())
    assert not (folder / "images").exists()
    records = list(bench(pipeline, pictures, folder, arms=["decoded"], save_images=2).run())
    assert [r.image for r in records] == ["0.png", "1.png"]
    names = sorted(p.relative_to(folder / "images").as_posix() for p in (folder / "images").rglob("*.png"))
    assert names == [f"blur/{i}/{name}.png" for i in (0, 1) for name in ("clean", "decoded", "input")]
    restored, clean = (read_picture(image_path(folder, "blur", "0.png", n)).image for n in ("decoded", "clean"))
    assert torch.equal(clean, centre(read_picture(pictures / "0.png").image, 24, pipeline.size_multiple))
    assert psnr(restored / 2, clean / 2).item() == pytest.approx(records[0].psnr, abs=0.1)


def test_two_pictures_of_one_name_cannot_both_be_saved(pipeline, pictures, tmp_path):
    Image.open(pictures / "0.png").save(pictures / "0.bmp")
    with pytest.raises(UsageError, match="0: two pictures"):
        bench(pipeline, pictures, tmp_path / "out", save_images=4)


def test_what_the_solver_is_told_can_be_wrong(pipeline, pictures, tmp_path):
    wrong = BLUR | {"name": "told", "draws": "blur", "assumed": {"options": {"blur_std": [0.6, 4.0]}, "noise_std": 0.1}}
    records = list(bench(pipeline, pictures, tmp_path / "out", protocol((BLUR, wrong)), arms=["input", "fixed-3"], limit=1).run())
    by = {(r.condition, r.arm): r for r in records}
    assert by["told", "input"].psnr == by["blur", "input"].psnr and by["told", "fixed-3"].psnr != by["blur", "fixed-3"].psnr
    told = by["told", "fixed-3"]
    assert told.operator == by["blur", "fixed-3"].operator and told.noise_std == 0.05
    level = told.level
    assert told.operator["blur_std"] == pytest.approx(0.3 + 1.7 * level, abs=1e-3)
    assert told.assumed["blur_std"] == pytest.approx(0.6 + 3.4 * level, abs=1e-3) and told.assumed["noise_std"] == pytest.approx(0.1)


def test_a_sweep_measures_severity_at_every_level(pipeline, pictures, tmp_path):
    plan = protocol((BLUR, HOLES), levels=4)
    folder = tmp_path / "out"
    records = list(bench(pipeline, pictures, folder, plan, arms=["severity"]).run())
    assert len(records) == 3 * 2 * 4 and {r.arm for r in records} == {"severity"}
    one = [r for r in records if (r.condition, r.image) == ("blur", "1.png")]
    assert [r.level for r in one] == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-5)
    assert [r.operator["blur_std"] for r in one] == pytest.approx([0.3, 0.8667, 1.4333, 2.0], abs=1e-3)
    assert all(r.variance > 0 and r.error_variance > 0 and 0 <= r.start_step <= 20 and r.psnr is None for r in records)
    assert list(bench(pipeline, pictures, folder, plan, arms=["severity"]).run()) == []
    assert len(list(bench(pipeline, pictures, folder, replace(plan, levels=5), arms=["severity"]).run())) == 30


def test_masks_of_a_sweep_are_nested_and_its_noise_is_fresh(pipeline, pictures):
    plan = protocol((HOLES,))
    item = scan(find([pictures])[:1], 24, pipeline.size_multiple)[0][0]
    first, last = (degrade(item, item.image(), plan.condition[0], 0, (j, 4)) for j in (0, 3))
    kept = [case.operator.mask[0, 0].bool() for case in (first, last)]
    assert bool((kept[0] | ~kept[1]).all()) and kept[1].sum() < kept[0].sum()
    noise = [case.measurement - case.operator.on_signed(case.clean) for case in (first, last)]
    assert (noise[0] - noise[1]).std() > 0.1


def test_measurements_depend_on_content_seed_and_condition_only(pipeline, pictures):
    item = scan(find([pictures])[:1], 24, pipeline.size_multiple)[0][0]
    condition = protocol().condition[0]
    case = degrade(item, item.image(), condition, 0)
    moved = degrade(replace(item, path=pictures / "elsewhere.png", below="b/c.png"), item.image(), condition, 0)
    assert torch.equal(case.measurement, moved.measurement) and case.seed == moved.seed
    for other in (degrade(item, item.image(), condition, 1), degrade(item, item.image(), replace(condition, name="d"), 0)):
        assert other.level != case.level and other.seed != case.seed
    shared = degrade(item, item.image(), replace(condition, name="d", draws="blur"), 0)
    assert torch.equal(shared.measurement, case.measurement)
    assert derive("a", 1) == derive("a", 1) != derive("a1")


def test_operators_that_cannot_share_a_batch_run_one_by_one(pipeline, pictures, tmp_path, monkeypatch):
    from flashdiff_cli.operators import GaussianBlur, Operator

    monkeypatch.setattr(GaussianBlur, "_stack", classmethod(Operator._stack.__func__))
    records = list(bench(pipeline, pictures, tmp_path / "out", arms=["fixed-3"], batch=3).run())
    assert [r.status for r in records] == ["done"] * 3


def test_pictures_are_cut_in_the_middle():
    image = torch.arange(9.0 * 14).view(1, 1, 9, 14)
    assert centre(image, 4, 2)[0, 0, 0, 0] == image[0, 0, 2, 5] and centre(image, 4, 2).shape == (1, 1, 4, 4)
    assert centre(image, None, 8).shape == (1, 1, 8, 8) and centre(image, 100, 2).shape == (1, 1, 8, 8)
    with pytest.raises(FlashdiffError, match="size_multiple"):
        centre(image, None, 16)


def test_pictures_of_equal_size_share_batches(pipeline, pictures):
    Image.new("RGB", (16, 16)).save(pictures / "0a.png")
    items, _ = scan(find([pictures]), None, 8)
    assert [[i.below for i in group] for group in batches(items, 2)] == [["0.png", "1.png"], ["0a.png"], ["2.png"]]


def test_files_that_cannot_be_read_are_named(pictures):
    (pictures / "bad.png").write_bytes(b"no picture")
    Image.new("RGB", (4, 4)).save(pictures / "tiny.png")
    items, errors = scan(find([pictures]), None, 8)
    assert len(items) == 3 and ["bad.png" in errors[0], "tiny.png" in errors[1]] == [True, True]


def test_a_list_of_names_chooses_pictures(pictures, tmp_path):
    (tmp_path / "ids.txt").write_text("# test split\n2\n\n0.png\n")
    assert [j.below.name for j in choose_ids(find([pictures]), tmp_path / "ids.txt")] == ["2.png", "0.png"]
    (tmp_path / "ids.txt").write_text("0\n9\n")
    with pytest.raises(UsageError, match="9"):
        choose_ids(find([pictures]), tmp_path / "ids.txt")
    with pytest.raises(UsageError, match="none.txt"):
        choose_ids([Job(pictures, pictures)], tmp_path / "none.txt")


def test_time_left_is_told_and_work_ends_at_one(pipeline, pictures, tmp_path):
    told = []
    list(bench(pipeline, pictures, tmp_path / "out", arms=["input", "fixed-3"]).run(lambda *event: told.append(event)))
    shares = [share for _, share, _ in told]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0)
    assert told[0][2] is None and told[-1][2] == pytest.approx(0, abs=1e-6)


def test_the_present_arm_counts_for_the_time_that_is_left():
    work = Work()
    work.expect("slow", 100)
    work.expect("quick", 10)
    assert work.left("slow") is None and work.share() == 0
    assert work.left("slow", running=50, elapsed=100.0) == pytest.approx(50 * 2 + 10 * 2)
    assert work.share(running=55) == pytest.approx(0.5)
    work.finish("slow", 100, 200.0)
    assert work.left("quick", running=5, elapsed=1.0) == pytest.approx(5 * 0.2) and work.share(running=5) == pytest.approx(105 / 110)
    work.finish("quick", 10, 2.0)
    assert work.left() == 0 and work.share() == 1


def test_a_stop_is_kept_between_arms(pipeline, pictures, tmp_path):
    done = []
    running = bench(pipeline, pictures, tmp_path / "out").run(stopped=lambda: len(done) >= 4)
    for record in running:
        done.append(record)
    assert len(done) == 4 and len(read(tmp_path / "out")) == 4


def test_lines_that_are_no_records_are_passed_over(tmp_path):
    record = '{"protocol": "p", "condition": "c", "arm": "a", "image": "i", "digest": "d", "later_field": 1}'
    assert [r.arm for r in parse(["", "{", "[]", "3", '{"arm": "b"}', record])] == ["a"]
    log = Log(tmp_path / "new" / "folder")
    assert log.records == {} and (tmp_path / "new" / "folder").is_dir()


def test_a_stored_measurement_is_what_a_file_holds(pipeline, pictures):
    items = scan(find([pictures]), None, pipeline.size_multiple)[0]
    condition = protocol(conditions=({**BLUR, "noise_std": [0.3, 0.5], "stored": True},)).condition[0]
    case = degrade(items[0], items[0].image(), condition, 0)
    levels = (case.measurement + 1) * 127.5
    assert (levels - levels.round()).abs().max() < 1e-3 and case.measurement.abs().max() <= 1
    assert case.noise_std == pytest.approx(0.3 + 0.2 * case.level) and case.assumed_noise_std == case.noise_std
