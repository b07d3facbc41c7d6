"""How the command line speaks: to people, to pipes, and of what it expects."""

import json
import logging
import os

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tiny import save_tiny_model

from flashdiff_cli.commands import complete, process
from flashdiff_cli.commands.show import Meter
from flashdiff_cli.commands.table import LEFT_ALONE, closing, report, table, to_tsv
from flashdiff_cli.errors import UsageError, choose_from
from flashdiff_cli.operators import OPERATORS
from flashdiff_cli.runs import expected
from flashdiff_cli.runs.inputs import Job
from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.tabulate import to_csv


def record(**values):
    known = {"status": "done", "width": 40, "height": 30, "severity": 0.2, "start_step": 3, "schedule_steps": 40, "steps": 3}
    known |= {"network_evaluations": 3, "noise_std": 0.01, "seconds": {"total": 2.0}}
    known |= {"operator": {"name": "gaussian-blur", "blur_std": 1.5, "estimated": True}}
    return Record(**({"input": "a.png"} | known | {"degradation": {"kind": "gaussian-blur", "confidence": 0.9}} | values))


LONG_NAME = "a-folder-with-a-long-name/" * 5 + "picture\twith a tab.png"


def test_pipes_get_a_line_a_picture_with_whole_names(capsys):
    report([record(input=LONG_NAME), Record("b.png", status="failed", error="b.png: no such file")], as_json=False)
    head, first, second = capsys.readouterr().out.splitlines()
    rows = [dict(zip(head.split("\t"), line.split("\t"), strict=True)) for line in (first, second)]
    assert rows[0]["input"] == LONG_NAME.replace("\t", "\\t") and rows[0]["blur_width"] == "1.5" and rows[0]["total_seconds"] == "2"
    assert (rows[0]["kind"], rows[0]["confidence"], rows[0]["noise"]) == ("gaussian-blur", "0.9", "0.01")
    assert rows[1]["status"] == "failed" and rows[1]["error"] == "b.png: no such file" and rows[1]["severity"] == ""
    assert to_tsv([]) == ""


def test_a_csv_has_plain_columns_after_the_fields_of_the_schema():
    head, line = to_csv([record()]).splitlines()
    assert head.endswith("tiles,kind,confidence,blur_width,noise,total_seconds") and line.endswith("gaussian-blur,0.9,1.5,0.01,2.0")


def test_a_picture_that_is_left_alone_is_told_in_plain_words():
    console = Console(width=80, record=True, file=open(os.devnull, "w"))
    found = {"operator": {"name": "identity", "estimated": True}, "degradation": {"kind": "none", "confidence": 0.97}}
    console.print(table([record(**found), record(status="skipped")], True))
    text = " ".join(console.export_text().split())
    assert LEFT_ALONE.split()[0] in text and "97%" in text and "noise" not in text.split("a.png")[1] and "up" in text


def test_the_closing_line_counts():
    records = [record(), record(), record(status="skipped"), Record("b", status="failed", error="no")]
    assert closing(records, 34, {"report": "family.html", "table": None}) == "2 restored, 1 up to date, 1 failed, 34 passed over: report family.html"
    assert closing([record()]) == "1 restored"


def test_a_value_that_is_mistyped_is_understood():
    assert choose_from("gausian_blur", ["gaussian-blur", "jpeg"]) == "did you mean gaussian-blur? choose from gaussian-blur, jpeg"
    assert choose_from("x", ["jpeg"]) == choose_from(None, ["jpeg"]) == choose_from("j" * 10_000, ["jpeg"]) == "choose from jpeg"
    with pytest.raises(UsageError, match="did you mean motion-blur"):
        OPERATORS["motoin-blur"]
    with pytest.raises(UsageError, match=r"did you mean 444\?"):
        OPERATORS["jpeg"].from_options((8, 8), 0, jpeg_quality=50, chroma="4444")


def test_shells_complete_values():
    assert complete.operators("gaussian-blur+ran") == ["gaussian-blur+random-inpainting", "gaussian-blur+random-box-inpainting"]
    assert complete.solvers("ldps,ps") == ["ldps,psld"] and "photos" in complete.models("ph")
    assert "gblur-varying" in complete.protocols("gblur") and complete.starts("in") == ["inversion"]
    assert complete.devices("c") == ["cpu", "cuda"] and complete.dtypes("bf") == ["bfloat16"] and "png" in complete.formats("p")


def test_options_of_the_process_are_undone_after_a_run(tmp_path, monkeypatch):
    monkeypatch.delenv(process.LIMIT, raising=False)
    before = (os.environ.get("OMP_NUM_THREADS"), list(logging.getLogger("flashdiff").handlers))
    import torch

    threads = torch.get_num_threads()
    try:
        with process.of_this_run():
            process.set_threads(1)
            process.set_limit(0.5)
            process.set_log_file(tmp_path / "log.txt")
            process.log.info("one %s", "line")
            assert os.environ["OMP_NUM_THREADS"] == "1" and torch.get_num_threads() == 1 and os.environ[process.LIMIT] == "0.5"
    finally:
        torch.set_num_threads(threads)
    assert (os.environ.get("OMP_NUM_THREADS"), list(logging.getLogger("flashdiff").handlers)) == before and process.LIMIT not in os.environ
    assert "INFO one line" in (tmp_path / "log.txt").read_text()
    for refused in (lambda: process.set_threads(0), lambda: process.set_limit(-1), lambda: process.set_log_file(tmp_path)):
        with process.of_this_run(), pytest.raises(Exception, match=r"--(threads|max-megapixels|log-file)"):
            refused()


def test_times_are_learnt_and_expected(tmp_path, monkeypatch):
    monkeypatch.setattr(expected, "_file", lambda: tmp_path / "cache" / "seconds.json")
    for i in range(2):
        Image.new("RGB", (1000, 500)).save(tmp_path / f"{i}.png")
    jobs = [Job(tmp_path / f"{i}.png", tmp_path) for i in range(2)]
    guess = expected.expect(jobs, "k", fast=False)
    assert guess is not None and not guess.known and "roughly" in str(guess) and "1 megapixels" in str(guess)
    assert expected.expect(jobs, "k", fast=True).seconds < guess.seconds
    # Two seconds a picture and ten a megapixel.
    expected.learn("k", [record(width=1000, height=m * 1000, seconds={"total": 2 + 10.0 * m}) for m in (1, 2, 4, 8)])
    assert expected.rate("k") == pytest.approx((2, 10), rel=1e-3)
    found = expected.expect(jobs, "k", fast=False, samples=3)
    assert found.known and found.seconds == pytest.approx(3 * (2 * 2 + 10), rel=1e-3) and str(found).endswith("about 42 s here")
    assert expected.expect(jobs, "k", fast=False, scale=2).megapixels == pytest.approx(4)
    # What is not to be learnt from, and a cache that is damaged.
    expected.learn("other", [Record("x", status="failed"), record(status="skipped")])
    assert expected.rate("other") is None
    (tmp_path / "cache" / "seconds.json").write_text('{"k": [1, 2], "l": "x"')
    assert expected.rate("k") is None and expected.expect([Job(tmp_path / "none.png", tmp_path)], "k", fast=False) is None
    assert [expected.duration(s) for s in (0.2, 80, 240, 9000, 400000)] == ["1 s", "80 s", "4 min", "2 h 30 min", "5 days"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.timeout(30)
def test_sizes_are_read_of_regular_files_in_bounded_time(tmp_path, monkeypatch):
    for name in ("a.png", "b.webp", "c.tif"):
        Image.new("RGB", (1000, 500)).save(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n")
    jobs = [Job(tmp_path / name, tmp_path) for name in ("pipe.png", "x.png", "a.png", "b.webp", "c.tif")]
    # What cannot be read is taken to be as large as the others.
    assert expected.megapixels(jobs) == pytest.approx(5 * 0.5)
    assert expected.megapixels(jobs[:2]) is None
    monkeypatch.setattr(expected, "LOOKED_FOR", -1.0)
    assert expected.megapixels(jobs) is None


def test_a_log_is_appended_to_logs_only(tmp_path):
    own, text, link = tmp_path / "own.log", tmp_path / "notes.txt", tmp_path / "link.log"
    text.write_text("2026-01-01 somebody's own\n")
    for _ in range(2):
        with process.of_this_run():
            process.set_log_file(own)
            process.log.info("begun")
    assert own.read_text().count("INFO begun") == 2
    link.symlink_to(own)
    for path, said in ((text, "no log of flashdiff's"), (link, "a link"), (tmp_path / "a.JPG", "a picture's name"), (tmp_path, "cannot be written")):
        with process.of_this_run(), pytest.raises(Exception, match=f"--log-file .*{said}"):
            process.set_log_file(path)
    assert text.read_text() == "2026-01-01 somebody's own\n" and own.read_text().count("\n") == 2 and not (tmp_path / "a.JPG").exists()


def test_a_system_that_does_not_say_its_memory_has_none(monkeypatch):
    import sys

    import torch

    from flashdiff_cli.bench.speed import peak_memory

    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory(torch.device("cpu")) is None


def test_a_meter_names_phases_and_counts_down_from_what_is_expected(capsys):
    shown = Meter(2, False, expected=90.0)
    shown.begin("holiday/a.png")
    shown.phase("tile 3 of 54, step 5 of 9")
    task = shown.bar.tasks[shown.steps]
    assert task.description == "a.png: tile 3 of 54, step 5 of 9"
    assert str(shown.bar.columns[-1].render(task)) in ("0:01:30", "0:01:29")
    shown.end(record(input="holiday/a.png"))
    shown.end(Record("b.png", status="skipped"))
    assert capsys.readouterr().err.splitlines() == ["[1/2] holiday/a.png: done in 2.0 s"]


def test_a_folder_from_the_command_line(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(expected, "_file", lambda: tmp_path / "seconds.json")
    model = save_tiny_model(tmp_path / "model")
    (tmp_path / "in").mkdir()
    for i in range(2):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(tmp_path / "in" / f"{i}.png")
    arguments = ("restore", tmp_path / "in", "-m", model, "-o", tmp_path / "out", "--start-step", "2", "--log-file", tmp_path / "log.txt")
    code, out, err = cli(*arguments, "--dry-run")
    assert code == 0 and len(out.splitlines()) == 2 and "2 pictures, 0.00154 megapixels: about" in err
    code, out, err = cli(*arguments, "--csv", tmp_path / "t.csv")
    assert code == 0 and len(out.splitlines()) == 3 and out.startswith("input\toutput\tstatus")
    assert err.splitlines()[0].startswith("[1/2]") and err.splitlines()[-1] == f"flashdiff: 2 restored: table {tmp_path / 't.csv'}"
    logged = (tmp_path / "log.txt").read_text()
    assert all(f"0.png: {phase}" in logged for phase in ("reading", "looking", "step 2 of 2", "finishing", "writing")) and "done in" in logged
    assert next(iter(json.loads((tmp_path / "seconds.json").read_text()))).startswith(f"{model}|auto|auto|steps")
    code, out, err = cli(*arguments)
    assert code == 0 and err == "flashdiff: 0 restored, 2 up to date\n"


def test_help_is_short_and_whole_help_is_whole(cli):
    short, whole = (cli("restore", flag)[1] for flag in ("--help", "--help-all"))
    assert "--fast" in short and "--noise-correction" not in short and "--dc-step" not in short and "--help-all" in short
    assert "--noise-correction" in whole and "--dc-step" in whole and len(whole) > 1.2 * len(short)
    assert cli("help", "restore")[:2] == (0, short) and "Example" in cli("help", "models", "pull")[1]
    assert cli("-V")[1].startswith("flashdiff ")
    for command in ("restore", "severity", "encode", "compare", "report", "bench", "calibrate", "train", "convert", "help"):
        code, out, _ = cli("help", command)
        assert code == 0 and "Example" in out, command
