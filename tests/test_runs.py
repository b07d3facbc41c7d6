"""Runs over many pictures: what is found, skipped, refused, gone on with, and what an interruption leaves."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import save_tiny_model

from flashdiff_cli.commands.app import main
from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.runs.entries import NAME
from flashdiff_cli.runs.executor import each
from flashdiff_cli.runs.inputs import Job, find
from flashdiff_cli.runs.journal import fingerprint
from flashdiff_cli.runs.record import Record

DEFAULTS = {"solver": "ldps", "steps": 20, "eta": 0.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", defaults=DEFAULTS)


@pytest.fixture
def run(model, capsys):
    """Run `restore` or another verb; (exit code, records, stderr)."""

    def call(*arguments, verb="restore"):
        code = 0
        try:
            fixed = [] if "--start-step" in arguments or verb != "restore" else ["--start-step", "2"]
            of = [] if "--model" in arguments else ["--model", str(model)]
            main([verb, *map(str, arguments), *of, "--json", *fixed])
        except SystemExit as leave:
            code = leave.code or 0
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, [json.loads(line) for line in out.splitlines()], err

    return call


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8)).save(path)
    return path


def folder(path, count=3):
    for i in range(count):
        picture(path / f"{i}.png", i)
    return path


def outputs(path):
    return {p.name: p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != NAME}


def status(records):
    return [r["status"] for r in records]


def test_a_second_run_skips_what_is_done_and_repeats_its_record(run, tmp_path):
    folder(tmp_path / "in")
    code, first, _ = run(tmp_path / "in", "-o", tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.png")}
    again, second, _ = run(tmp_path / "in", "-o", tmp_path / "out")
    assert (code, again) == (0, 0) and status(second) == ["skipped"] * 3
    assert [r["severity"] for r in second] == [r["severity"] for r in first]
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.png")}


def test_changed_settings_or_sources_are_done_again(run, tmp_path):
    folder(tmp_path / "in")
    run(tmp_path / "in", "-o", tmp_path / "out")
    picture(tmp_path / "in" / "1.png", 99)
    assert status(run(tmp_path / "in", "-o", tmp_path / "out")[1]) == ["skipped", "skipped", "done"]
    assert status(run(tmp_path / "in", "-o", tmp_path / "out", "--seed", 4)[1]) == ["done"] * 3
    assert status(run(tmp_path / "in", "-o", tmp_path / "out", "--seed", 5, "--resume")[1]) == ["skipped"] * 3
    assert status(run(tmp_path / "in", "-o", tmp_path / "out", "--seed", 4, "--overwrite")[1]) == ["done"] * 3


def test_another_program_s_file_is_never_replaced_unasked(run, tmp_path):
    source = picture(tmp_path / "a.png")
    mine = tmp_path / "a-restored.png"
    mine.write_bytes(b"precious")
    code, records, err = run(source)
    assert code == 1 and status(records) == ["failed"] and "--overwrite" in err and mine.read_bytes() == b"precious"
    assert run(source, "--overwrite")[0] == 0 and mine.read_bytes() != b"precious"
    mine.write_bytes(mine.read_bytes() + b"edited since")
    assert run(source)[0] == 1


def test_outputs_beside_their_inputs_are_not_taken_for_inputs(run, tmp_path):
    folder(tmp_path, 2)
    run(tmp_path)
    code, records, _ = run(tmp_path, "--seed", 1)
    assert code == 0 and [Path(r["input"]).name for r in records] == ["0.png", "1.png"]
    assert len(run(tmp_path / "0-restored.png")[1]) == 1


def test_samples_their_mean_and_maps(run, tmp_path):
    source = picture(tmp_path / "a.png")
    code, records, err = run(source, "-n", 3, "--severity-map", "--start-step", 19)
    names = {f"a-restored{x}.png" for x in ("", "-sample2", "-sample3", "-mean", "-uncertainty", "-severity")}
    assert code == 0, err
    assert set(outputs(tmp_path)) == names | {"a.png"} and {Path(p).name for p in records[0]["others"]} == names - {"a-restored.png"}
    images = [np.asarray(Image.open(tmp_path / f"a-restored{x}.png"), float) for x in ("", "-sample2", "-sample3")]
    assert not np.array_equal(images[0], images[1]) and not np.array_equal(images[1], images[2])
    mean = np.asarray(Image.open(tmp_path / "a-restored-mean.png"), float)
    assert np.abs(mean - np.mean(images, 0)).max() <= 1
    assert records[0]["samples"] == 3
    assert records[0]["spread"] == pytest.approx(np.std(images, 0, ddof=1).mean() / 255, rel=0.05)
    alone = outputs(tmp_path)["a-restored.png"]
    run(source, "-o", tmp_path / "b.png", "--start-step", 19)
    assert (tmp_path / "b.png").read_bytes() == alone
    assert [Path(r["input"]).name for r in run(tmp_path, "-o", tmp_path / "out")[1]] == ["a.png"]


def test_samples_and_maps_never_replace_what_is_not_theirs(run, tmp_path):
    """A picture of such a name, and one of a map that somebody has written into."""
    source, mean = picture(tmp_path / "a.png"), picture(tmp_path / "a-mean.png", 1)
    before = source.read_bytes(), mean.read_bytes()
    code, records, err = run(source, mean, "-o", tmp_path / "out", "-n", 2)
    assert code == 1 and status(records) == ["failed", "done"] and "a-mean.png is another picture" in err
    assert outputs(tmp_path / "out").keys() == {f"a-mean{x}.png" for x in ("", "-sample2", "-mean", "-uncertainty")}
    code, _, err = run(source, "--in-place", "-n", 2)
    assert code == 1 and "a-mean.png: exists already" in err
    for name in ("a-restored-mean.png", "a-restored-severity.png"):
        (tmp_path / name).write_bytes(b"my own")
        code, _, err = run(source, "-n", 2, "--severity-map")
        assert code == 1 and name in err and "--overwrite" in err and (tmp_path / name).read_bytes() == b"my own"
        (tmp_path / name).unlink()
    assert (source.read_bytes(), mean.read_bytes()) == before
    assert run(source, "-n", 2, "--severity-map")[0] == run(source, "-n", 2, "--severity-map", "--seed", 1)[0] == 0
    (tmp_path / "a-restored-uncertainty.png").write_bytes(b"retouched")
    assert run(source, "-n", 2, "--severity-map", "--seed", 2)[0] == 1
    assert (tmp_path / "a-restored-uncertainty.png").read_bytes() == b"retouched"
    assert run(source, "-n", 2, "--severity-map", "--seed", 2, "--overwrite")[0] == 0


@pytest.mark.parametrize("value", [float("nan"), 1e30, 0.0], ids=["no numbers", "huge", "nothing"])
def test_a_broken_model_replaces_no_picture(model, tmp_path, run, value):
    """Weights that make every result the same, or no numbers at all: a failed record, and the picture stays."""
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    (weights,) = (broken / "first_stage").glob("*.safetensors")
    tensors = load_file(weights)
    for name in [n for n in tensors if "decoder" in n]:
        tensors[name].fill_(value)
    save_file(tensors, weights, {"format": "pt"})
    source = picture(tmp_path / "in" / "a.png")
    before = source.read_bytes()
    code, _, err = run(source, "--in-place", "--model", broken, "--no-fidelity")
    assert code in (1, 2) and err.count("\n") == 1 and source.read_bytes() == before


def test_reports_and_tables(run, tmp_path):
    folder(tmp_path / "in", 3)
    (tmp_path / "in" / "1.png").write_bytes(b"no picture")
    code, records, _ = run(tmp_path / "in", "-o", tmp_path / "out", "--report", tmp_path / "r.html", "--csv", tmp_path / "r.csv")
    page = (tmp_path / "r.html").read_text()
    assert code == 1 and page.count('type="range"') == 2 and page.count("<tr class=") == 3
    assert "1.png: not a picture" in page and "http" not in page.replace("http-equiv", "")
    with open(tmp_path / "r.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["done", "failed", "done"]
    assert float(rows[0]["severity"]) == records[0]["severity"] and json.loads(rows[0]["operator"]) == records[0]["operator"]


def test_noise_that_is_plain_to_see_is_heeded_and_said(run, tmp_path):
    ramp = np.linspace(40, 215, 64)[None, :, None] + np.zeros((64, 1, 3))
    noisy = ramp + 0.05 * 255 * np.random.default_rng(0).standard_normal(ramp.shape)
    Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8)).save(tmp_path / "a.png")
    blur, again = ("--operator", "gaussian-blur", "--blur-std", "1"), {"restore": ("--overwrite",), "severity": ()}
    for told, heeded in (("0.05", False), ("0.1", False), ("0.01", True)):
        # Blind, what was told goes before what was seen, and is held against the picture likewise.
        for verb, degradation in (("restore", blur), ("severity", blur), ("restore", ()), ("severity", ())):
            _, (record,), _ = run(tmp_path / "a.png", *degradation, "--noise-std", told, *again[verb], verb=verb)
            assert bool(record["notes"]) == heeded
            assert record["noise_std"] == pytest.approx(0.05 if heeded else float(told), rel=0.1 if heeded else 1e-6)


def test_in_place(run, tmp_path):
    source = picture(tmp_path / "a.png")
    before = source.read_bytes()
    assert run(source, "--in-place")[0] == 0
    once = source.read_bytes()
    assert once != before and outputs(tmp_path) == {"a.png": once}
    assert status(run(source, "--in-place")[1]) == ["skipped"]
    code, _, err = run(source, "--in-place", "--seed", 3)
    assert code == 1 and "--overwrite" in err and source.read_bytes() == once
    assert run(source, "--in-place", "--overwrite")[0] == 0 and source.read_bytes() != once
    code, _, err = run(source, "--in-place", "-o", tmp_path / "x.png")
    assert code == 2 and "--in-place" in err
    (tmp_path / "b.gif").write_bytes(b"")
    assert run(tmp_path / "b.gif", "--in-place")[0] == 2


def test_a_dry_run_writes_nothing(run, tmp_path, capsys, model):
    folder(tmp_path / "in", 2)
    run(tmp_path / "in" / "0.png", "-o", tmp_path / "out")
    before = outputs(tmp_path)
    code, plan, _ = run(tmp_path / "in", "-o", tmp_path / "out", "--dry-run")
    assert code == 0 and [p["action"] for p in plan] == ["skip", "restore"] and outputs(tmp_path) == before
    (tmp_path / "out" / "1.png").write_bytes(b"x")
    code, plan, _ = run(tmp_path / "in", "-o", tmp_path / "out", "--dry-run")
    assert code == 1 and plan[1]["action"] == "refuse" and "--overwrite" in plan[1]["reason"]


def test_limits_patterns_and_lists(run, tmp_path, monkeypatch):
    folder(tmp_path / "in", 4)
    assert len(run(tmp_path / "in", "--limit", 2, "-o", tmp_path / "a")[1]) == 2
    assert len(run(tmp_path / "in" / "[12].png", "-o", tmp_path / "b")[1]) == 2
    code, _, err = run(tmp_path / "in" / "x*.png")
    assert code == 1 and "nothing matches" in err
    lines = f"{tmp_path / 'in' / '3.png'}\n\n{tmp_path / 'in' / '0.png'}\n"
    monkeypatch.setattr("sys.stdin", iter(lines.splitlines(keepends=True)))
    assert [Path(r["input"]).name for r in run("-", "-o", tmp_path / "c")[1]] == ["3.png", "0.png"]
    odd = picture(tmp_path / "odd[1].png")
    assert [job.source for job in find([odd])] == [odd]


def test_fingerprints():
    assert fingerprint(a=1, b=2) == fingerprint(b=2, a=1) != fingerprint(a=1, b=3)


def test_reading_and_writing_overlap_with_computing(tmp_path):
    """Each picture's three parts take their turn while the neighbours' others do, and at most three pictures are held."""
    jobs = [Job(picture(tmp_path / f"{i}.png", i), Path(f"{i}.png")) for i in range(6)]
    events, lock = [], threading.Lock()

    def note(*what):
        with lock:
            events.append(what)

    def work(job, image):
        index = jobs.index(job)
        note("compute", index)
        time.sleep(0.02)
        return Record(str(job.source)), lambda record: (time.sleep(0.02), note("written", index))

    records = list(each(jobs, work))
    assert [r.input for r in records] == [str(j.source) for j in jobs]
    order = {event: i for i, event in enumerate(events)}
    assert any(order[("compute", i + 1)] < order[("written", i)] for i in range(5))
    assert all(order[("written", i)] < order[("compute", i + 2)] for i in range(4) if i + 2 < 6)


def test_failures_of_reading_computing_and_writing_stay_with_their_picture(tmp_path):
    jobs = [Job(picture(tmp_path / f"{i}.png", i), Path(f"{i}.png")) for i in range(5)]
    jobs[1].source.write_bytes(b"")

    def work(job, image):
        index = jobs.index(job)
        if index == 2:
            raise MemoryError

        def finish(record):
            if index == 3:
                raise FlashdiffError("disk full")

        return Record(str(job.source)), finish

    found = list(each(jobs, work))
    assert status([vars(r) for r in found]) == ["done", "failed", "failed", "failed", "done"]
    assert "memory" in found[2].error and found[3].error == f"{jobs[3].source}: disk full"

    def broken(job, image):
        raise ZeroDivisionError("no\nluck")

    (record,) = each(jobs[:1], broken)
    assert record.status == "failed" and "ZeroDivisionError: no luck" in record.error and str(jobs[0].source) in record.error


def test_stopping_between_pictures_loses_none_that_was_computed(tmp_path):
    jobs = [Job(picture(tmp_path / f"{i}.png", i), Path(f"{i}.png")) for i in range(5)]
    computed, written = [], []

    def work(job, image):
        computed.append(job)
        return Record(str(job.source)), lambda record: written.append(job)

    records = list(each(jobs, work, stopped=lambda: len(computed) == 2))
    assert len(records) == 2 and written == computed == jobs[:2]


def command(model, *arguments):
    return [sys.executable, "-m", "flashdiff_cli.commands.app", "restore", *map(str, arguments), "--model", str(model), "--quiet"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_finishes_the_picture_and_says_what_is_left(model, tmp_path):
    folder(tmp_path / "in", 40)
    run = subprocess.Popen(
        command(model, tmp_path / "in", "-o", tmp_path / "out", "--start-step", 15, "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = run.stdout.readline()
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=120)
    done = [json.loads(line) for line in (first + out).splitlines()]
    assert run.returncode == 130 and "left:" in err and "Traceback" not in err
    assert 1 <= len(done) < 40 and len(outputs(tmp_path / "out")) == len(done)
    for record in done:
        Image.open(record["output"]).load()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_killed_run_leaves_whole_outputs_and_is_completed_bit_for_bit(model, run, tmp_path):
    """SIGKILL at random moments; the last run completes the rest, and all is as if nothing had happened."""
    count, kills = 12, int(os.environ.get("FLASHDIFF_KILLS", 3))
    folder(tmp_path / "in", count)
    code, records, _ = run(tmp_path / "in", "-o", tmp_path / "quiet", "--start-step", 15)
    expected, each = outputs(tmp_path / "quiet"), max(r["seconds"]["total"] for r in records)
    assert code == 0 and len(expected) == count
    rng = np.random.default_rng(int(os.environ.get("FLASHDIFF_KILLS_SEED", 0)))
    for kill in range(kills):
        there = len(list((tmp_path / "out").glob("[!.]*.png")))
        killed = subprocess.Popen(command(model, tmp_path / "in", "-o", tmp_path / "out", "--start-step", 15))
        # Once it has begun to write, that is in the middle of a picture or of its file.
        while kill and killed.poll() is None and len(list((tmp_path / "out").glob("[!.]*.png"))) <= there:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 2 * each))
        killed.kill()
        killed.wait()
        for path in (tmp_path / "out").glob("[!.]*.png"):
            assert path.read_bytes() == expected[path.name]
    assert run(tmp_path / "in", "-o", tmp_path / "out", "--start-step", 15, "--resume")[0] == 0
    assert outputs(tmp_path / "out") == expected
