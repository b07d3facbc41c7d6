"""Runs in parts, and what several runs have done told together."""

import csv
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tiny import save_tiny_model

from flashdiff_cli.commands.table import table
from flashdiff_cli.errors import UsageError
from flashdiff_cli.runs.entries import NAME
from flashdiff_cli.runs.inputs import Job
from flashdiff_cli.runs.journal import Journal
from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.shards import Shard
from flashdiff_cli.runs.tables import Tables
from flashdiff_cli.storage.url import Url


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", defaults={"solver": "ldps", "steps": 20, "eta": 0.0})


def folder(path, names):
    for i, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 24, 3), dtype=np.uint8)).save(path / name)
    return path


def records(out):
    return [json.loads(line) for line in out.splitlines()]


def pictures(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*.*") if p.name != NAME}


def test_every_picture_falls_to_one_part_by_its_name_alone():
    jobs = [Job(Path(f"/mounted/here/{i}.jpg"), Path(f"{i}.jpg")) for i in range(3000)]
    parts = [Shard(i, 7).of(jobs) for i in range(1, 8)]
    assert Counter(job for part in parts for job in part) == Counter(jobs)
    assert min(map(len, parts)) > 300 and max(map(len, parts)) < 560
    elsewhere = [Job(Path(f"/elsewhere/{job.below}"), job.below) for job in jobs]
    assert [job.below for job in Shard(3, 7).of(elsewhere)] == [job.below for job in parts[2]]
    # The names' hash must not change from version to version, or parts that go on later would do others' pictures.
    assert [job.below.name for job in parts[0]][:4] == ["3.jpg", "5.jpg", "6.jpg", "9.jpg"]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "-1/3", "1/3/5", "1/999999"])
def test_a_part_that_is_none_is_refused(text, cli, tmp_path):
    with pytest.raises(UsageError, match="--shard"):
        Shard.parse(text)
    code, _, err = cli("restore", folder(tmp_path / "in", ["a.png"]), f"--shard={text}")
    assert code == 2 and "i/n" in err and err.count("\n") == 1


def test_parts_give_what_one_run_gives_and_the_report_tells_of_all(cli, model, tmp_path):
    names = [f"{i}.png" for i in range(5)] + ["below/a.gif", "below/a.png", "below/b.png"]
    source = folder(tmp_path / "in", names)
    fixed = ("-r", "--model", model, "--start-step", "2", "--json")
    assert cli("restore", source, "-o", tmp_path / "whole", *fixed)[0] == 0
    done = []
    for i in (1, 2, 3):
        code, out, _ = cli("restore", source, "-o", tmp_path / "parts", *fixed, "--shard", f"{i}/3")
        assert code == 0
        done += records(out)
    assert len(done) == len({r["input"] for r in done}) == 8
    # Also names that collide get the same numbers in parts.
    assert pictures(tmp_path / "parts") == pictures(tmp_path / "whole") and "below/a-2.png" in pictures(tmp_path / "parts")

    page, table = tmp_path / "all.html", tmp_path / "all.csv"
    code, out, err = cli("report", tmp_path / "parts", "--json", "-o", page, "--csv", table)
    assert code == 0 and "8 restored" in err and "failed" not in err
    told = records(out)
    assert {r["output"]: r["severity"] for r in told} == {r["output"]: r["severity"] for r in done}
    assert all(Path(r["input"]).is_file() for r in told)
    assert page.read_text().count("<figure>") == 8 and "a.gif" in page.read_text()
    with open(table, newline="") as file:
        assert len(list(csv.DictReader(file))) == 8


def test_failures_come_from_what_was_printed_unless_they_were_done_since(cli, model, tmp_path):
    source = folder(tmp_path / "in", ["a.png", "b.png"])
    (source / "bad.png").write_bytes(b"no picture")
    (source / "late.png").write_bytes(b"not yet a picture")
    fixed = (source, "-o", tmp_path / "out", "--model", model, "--start-step", "2", "--json")
    logs = []
    for i in (1, 2):
        code, out, _ = cli("restore", *fixed, "--shard", f"{i}/2")
        logs.append(tmp_path / f"part-{i}.jsonl")
        logs[-1].write_text(out)
    folder(tmp_path / "in", ["late.png"])
    assert cli("restore", *fixed)[0] == 1
    code, out, err = cli("report", tmp_path / "out", *logs, "--json")
    told = {Path(r["input"]).name: r["status"] for r in records(out)}
    assert code == 1 and "3 restored, 1 failed" in err
    assert told == {"a.png": "done", "b.png": "done", "late.png": "done", "bad.png": "failed"}


def test_a_result_that_was_changed_or_removed_is_no_result(cli, model, tmp_path):
    source = folder(tmp_path / "in", ["a.png", "b.png", "c.png"])
    assert cli("restore", source, "-o", tmp_path / "out", "--model", model, "--start-step", "2")[0] == 0
    (tmp_path / "out" / "a.png").unlink()
    Image.new("RGB", (8, 8)).save(tmp_path / "out" / "b.png")
    _, out, _ = cli("report", tmp_path / "out", "--json")
    assert [Path(r["output"]).name for r in records(out)] == ["c.png"]


def test_a_strangers_journal_or_records_bring_no_picture_of_the_readers_into_the_page(cli, model, tmp_path, monkeypatch):
    source, private = folder(tmp_path / "in", ["a.png"]), folder(tmp_path / "private", ["other.png", "me.png"]) / "me.png"
    code, out, _ = cli("restore", source, "-o", tmp_path / "out", "--model", model, "--start-step", "2", "--json")
    assert code == 0

    def page(*places):
        assert cli("report", *places, "-o", tmp_path / "p.html", "--overwrite")[0] == 0
        text = (tmp_path / "p.html").read_text()
        return text.count("<figure>"), text.count('class="before"')

    assert page(tmp_path / "out") == (1, 1)
    journal, asked = tmp_path / "out" / NAME, []
    told = journal.read_text()
    monkeypatch.setattr(Url, "read", lambda url, *_: asked.append(url) or (source / "a.png").read_bytes())
    for planted in (str(private), "memory://elsewhere/a.png", "https://example.org/a.png"):
        journal.write_text(told.replace(json.dumps(str(source / "a.png")), json.dumps(planted)))
        assert page(tmp_path / "out") == (1, 0), planted
    record = json.loads(out) | {"output": str(private), "input": str(private)}
    (tmp_path / "told.jsonl").write_text(json.dumps(record) + "\n")
    assert page(tmp_path / "told.jsonl") == (0, 0) and not asked


def test_what_is_no_result_is_refused_in_one_line(cli, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello\n")
    for place, said in (("empty", "no run has written"), ("notes.txt", "line 1 is no record"), ("none", "cannot be read")):
        code, out, err = cli("report", tmp_path / place)
        assert code == 1 and not out and said in err and str(tmp_path / place) in err and err.count("\n") == 1


def test_parts_do_not_write_over_each_others_tables(cli, model, tmp_path):
    source = folder(tmp_path / "in", [f"{i}.png" for i in range(4)])
    fixed = ("restore", source, "-o", tmp_path / "out", "--model", model, "--start-step", "2", "--csv", tmp_path / "all.csv")
    assert cli(*fixed, "--shard", "1/2")[0] == 0
    before = (tmp_path / "all.csv").read_bytes()
    code, _, err = cli(*fixed, "--shard", "2/2")
    assert code == 1 and "all.csv" in err and (tmp_path / "all.csv").read_bytes() == before


def test_a_parts_page_is_titled_so(tmp_path):
    page = tmp_path / "p.html"
    inputs = [tmp_path / "scans"]
    assert Tables(Journal(), inputs, [], None, page, part="3/16").write([]) == []
    assert "scans, part 3/16" in page.read_text(encoding="utf-8")


def test_records_with_little_in_them_are_shown_and_names_of_no_file_refused(cli, tmp_path):
    (tmp_path / "few.jsonl").write_text('{"input": "a.png", "severity": 0.1}\n{"input": "b.png", "severity": 0.2, "seconds": {"solve": 1.0}}\n')
    code, out, err = cli("report", tmp_path / "few.jsonl")
    assert code == 0 and "a.png" in out and "2 restored" in err
    told = [Record("a.png", severity=0.1), Record("b.png", severity=0.2, width=3, height=2, seconds={"solve": 1.0})]
    shown = Console(width=80, file=io.StringIO())
    shown.print(table(told, True))
    assert "3x2" in shown.file.getvalue() and "None" not in shown.file.getvalue()
    for name in ("a\\u0000.png", "a\\ud800.png"):
        for line in (f'{{"input": "{name}"}}', f'{{"input": "a", "output": "{name}"}}', f'{{"input": "a", "others": ["{name}"]}}'):
            (tmp_path / "odd.jsonl").write_text(line + "\n")
            code, out, err = cli("report", tmp_path / "odd.jsonl", "--csv", tmp_path / "t.csv")
            assert code == 1 and "line 1 is no record" in err and err.count("\n") == 1, line
