"""Journals: what they know a file by, what older versions wrote, what strangers put into them, and how long they may be."""

import json
import os
import tracemalloc
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.runs import entries as module
from flashdiff_cli.runs.entries import NAME, Entries
from flashdiff_cli.runs.inputs import Job
from flashdiff_cli.runs.journal import DONE, FOREIGN, NEW, OTHER, STALE, Journal, Origin, fingerprint
from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.resume import DO, REFUSE, SKIP, decide

LINES = 100_000 if os.environ.get("FLASHDIFF_LONG") == "1" else 20_000


def job_of(folder, name="a.png", data=b"source"):
    (folder / "in").mkdir(exist_ok=True)
    (folder / "out").mkdir(exist_ok=True)
    source = folder / "in" / name
    source.write_bytes(data)
    return Job(source, Path(name), folder / "out" / name)


def make(job, settings="x", data=b"result", record=None, overwrite=False):
    """What a run does with a picture once it is restored."""
    import hashlib

    journal = Journal()
    journal.state(job, settings)
    record = record or Record(str(job.source), str(job.target), severity=0.5)
    digest = hashlib.sha256(job.source.read_bytes()).hexdigest()
    with journal.result(job, settings, digest, record, overwrite) as file:
        file.write(data)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_states(tmp_path):
    job = job_of(tmp_path)
    assert Journal().state(job, "x") == NEW
    make(job)
    assert Journal().state(job, "x") == DONE and Journal().state(job, "y") == STALE
    record = Journal().record(job)
    assert (record.severity, record.status, record.input) == (0.5, "skipped", str(job.source))
    job.source.write_bytes(b"another")
    assert Journal().state(job, "x") == STALE
    job.source.write_bytes(b"source")
    assert Journal().state(job, "x") == DONE  # by its content
    make(job, "y", b"result 2")
    assert Journal().state(job, "y") == DONE
    # What an earlier line knows is still known: a run was killed before the file got its name, or a copy was put back.
    job.target.write_bytes(b"result")
    assert Journal().state(job, "x") == DONE and Journal().state(job, "y") == STALE
    job.target.write_bytes(b"resulT")
    assert Journal().state(job, "x") == FOREIGN
    with pytest.raises(FlashdiffError, match="not flashdiff's"):
        make(job)
    assert job.target.read_bytes() == b"resulT"
    make(job, overwrite=True)
    assert Journal().state(job, "x") == DONE
    job.target.unlink()
    assert Journal().state(job, "x") == NEW


def test_another_source_of_the_same_name(tmp_path):
    job = job_of(tmp_path)
    make(job)
    other = job_of(tmp_path / "in", data=b"something else")
    twin = Job(other.source, Path("a.png"), job.target)
    assert Journal().state(twin, "x") == OTHER and Journal().is_of_another(twin) and not Journal().is_of_another(job)
    (decision,) = decide([twin], Journal(), "x")
    assert decision.action == REFUSE and "another picture" in decision.reason
    with pytest.raises(FlashdiffError, match="another picture"):
        make(twin)
    other.source.write_bytes(b"source")
    assert Journal().state(twin, "x") == DONE  # the same picture in another folder


def test_in_place(tmp_path):
    job = job_of(tmp_path)
    job = Job(job.source, job.below, job.source)
    make(job)
    assert job.source.read_bytes() == b"result" and Journal().state(job, "x") == DONE and Journal().state(job, "y") == STALE
    (decision,) = decide([job], Journal(), "y")
    assert decision.action == REFUSE and "--overwrite" in decision.reason
    assert decide([job], Journal(), "x")[0].action == SKIP and decide([job], Journal(), "y", overwrite=True)[0].action == DO
    assert not Journal().made(job.source)
    os.utime(job.source, (1, 1))
    assert Journal().state(job, "x") == DONE
    job.source.write_bytes(b"a new photograph")
    assert Journal().state(job, "x") == NEW


def test_extras_are_theirs_who_made_them(tmp_path):
    job, mean = job_of(tmp_path), tmp_path / "out" / "a-mean.png"
    origin = Origin.of(job.source)

    def extra(overwrite=False):
        with Journal().file(mean, origin, of="a.png", overwrite=overwrite) as file:
            file.write(b"mean")

    extra()
    extra()
    assert Journal().made(mean)
    clash = job_of(tmp_path, "a-mean.png", b"quite another")
    assert Journal().state(clash, "x") == OTHER
    mean.write_bytes(b"meaN")
    with pytest.raises(FlashdiffError, match="a-mean.png: exists already"):
        extra()
    refused = decide([job], Journal(), "x", extras=lambda target: [target.with_name("a-mean.png")])
    assert [d.action for d in refused] == [REFUSE] and mean.read_bytes() == b"meaN"
    mean.unlink()
    both = decide([job, clash], Journal(), "x", extras=lambda target: [target.with_name(f"{target.stem}-mean.png")])
    assert [d.action for d in both] == [REFUSE, DO] and "a-mean.png" in both[0].reason


def old_line(job, **changes):
    """As version 0.1.0 wrote it."""
    source, target = (path.stat() for path in (job.source, job.target))
    values = {"output": job.target.name, "source": str(job.source), "in_place": False}
    values |= {"source_stat": [source.st_size, source.st_mtime_ns], "target_stat": [target.st_size, target.st_mtime_ns]}
    values |= {"settings": "x", "record": asdict(Record(str(job.source), str(job.target), others=["out/a-mean.png"], severity=0.25))}
    return values | changes


def test_lines_of_older_versions(tmp_path):
    job = job_of(tmp_path)
    job.target.write_bytes(b"result")
    (tmp_path / "out" / NAME).write_text(json.dumps(old_line(job)) + "\n")
    assert Journal().state(job, "x") == DONE and Journal().record(job).severity == 0.25
    assert Journal().made(tmp_path / "out" / "a-mean.png") and not Journal().made(tmp_path / "out" / "b.png")
    os.utime(job.target, (1, 1))
    assert Journal().state(job, "x") == FOREIGN  # they know no more than size and time


def test_lines_that_a_kill_left_unfinished(tmp_path):
    job = job_of(tmp_path)
    make(job)
    path = tmp_path / "out" / NAME
    whole = path.read_bytes()
    line = whole.index(b"\n") + 1
    for end in range(0, line - 1, 41):
        path.write_bytes(whole[:end])
        assert Journal().state(job, "x") == FOREIGN
        path.write_bytes(whole[:end])
        make(job, overwrite=True)
        assert Journal().state(job, "x") == DONE
    path.write_bytes(b"\xff\x00{}\n[1]\n" + whole[:50] + b"\n" + whole)
    journal = Journal()
    assert journal.state(job, "x") == DONE
    (note,) = journal.notes()
    assert "passed over (3)" in note


HOSTILE = {
    "output": [None, 3, "", "..", "../x", "/etc/passwd", "a\0b", ["a.png"], "n" * 5000],
    "source": [None, 3, [], "x" * 40_000],
    "in_place": ["yes", 1, None],
    "target_stat": [None, [], [1], [1, "2"], [True, 1], [1e3, 2], [2**70, 1], list(range(9)), {}],
    "source_stat": ["x", [1], [None, 1]],
    "source_digest": [3, "zz", "A" * 64, "0" * 63],
    "settings": [None, 5, {"a": 1}],
    "record": [3, "x", [], {"input": 3}, {"status": "<b>"}, {"input": "a", "severity": "<script>"}],
}
RECORDS = [
    {"severity": [0.5]},
    {"severity": -1.0},
    {"severity": True},
    {"width": 3},
    {"width": 3.5, "height": 2},
    {"steps": 3},
    {"steps": 3, "schedule_steps": 0},
    {"status": "[red]x[/red]"},
    {"notes": "x"},
    {"notes": [1]},
    {"notes": ["x" * 40_000]},
    {"seconds": {"total": "soon"}},
    {"seconds": {"total": -1}},
    {"seconds": []},
    {"operator": {}},
    {"operator": {"name": 3}},
    {"operator": "x"},
    {"degradation": {"confidence": "sure"}},
    {"degradation": {"confidence": 0.5}},
    {"tiles": {}},
    {"tiles": [1] * 300_000},
    {"model": {"a": "b"}},
    {"samples": 2**80},
    {"error": 5},
]


def test_lines_of_strangers_count_for_nothing(tmp_path):
    """Any value of another type or size makes a line one that flashdiff did not write."""
    job = job_of(tmp_path)
    job.target.write_bytes(b"result")
    make(job, overwrite=True)
    path = tmp_path / "out" / NAME
    good = lines(path)[0]
    cases = [good | {name: value} for name, values in HOSTILE.items() for value in values]
    cases += [good | {"record": good["record"] | values} for values in RECORDS]
    for case in cases:
        text = json.dumps(case) + "\n"
        path.write_text(text)
        journal = Journal()
        assert journal.state(job, "x") == FOREIGN, text[:300]
    deep = '{"output": "a.png", "x": ' + "[" * 100_000 + "]" * 100_000 + "}\n"
    for text in (deep, "[" * 100_000 + "\n", '{"output": "a.png"}\n', "1" * 5000 + "\n", "{\n" * 50, '{"output": "a.png", "seen": "x"}\n'):
        path.write_text(text)
        journal = Journal()
        assert journal.state(job, "x") == FOREIGN and len(journal.notes()) == 1
    path.write_text(text + json.dumps(good) + "\n")
    assert Journal().state(job, "x") == DONE


def test_every_record_that_is_written_is_one_that_is_read():
    record = Record("a", "b", ["c"], width=3, height=2, operator={"name": "x", "blur_std": 1.5, "estimated": True}, severity=0.5)
    record.degradation = {"kind": "x", "confidence": 0.5, "probabilities": {"x": 0.5, "y": 0.5}}
    record.start_step = record.steps = record.network_evaluations = 3
    record.schedule_steps, record.seconds, record.notes = 20, {"total": 1.5}, ["ü"]
    record.solver, record.tiles = {"name": "ldps", "eta": 0.0}, [{"top": 0, "left": 8, "severity": 0.5}]
    assert Record.of_stranger(json.loads(record.to_json())) == record
    assert Record.of_stranger(asdict(record) | {"new in a later version": {}}) == record
    assert {f.name for f in fields(Record)} >= set(asdict(record))


@pytest.mark.parametrize("bound", ["lines", "passed", "size"])
def test_a_journal_that_no_run_wrote_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch, bound):
    job = job_of(tmp_path)
    path = tmp_path / "out" / NAME
    if bound == "size":
        with open(path, "wb") as file:
            file.truncate(2**40)
    else:
        monkeypatch.setattr(module, "MOST_LINES", 1000)
        monkeypatch.setattr(module, "MOST_PASSED", 1000)
        path.write_bytes((b'{"output": "a.png"}\n' if bound == "lines" else b"{}\n") * 1001)
    with pytest.raises(FlashdiffError, match="flashdiff.jsonl"):
        Journal().state(job, "x")
    assert decide([job], Journal(), "x")[0].action == REFUSE


def test_a_line_without_an_end_is_not_held_in_memory(tmp_path):
    job = job_of(tmp_path)
    make(job)
    path = tmp_path / "out" / NAME
    whole = path.read_bytes()
    with open(path, "wb") as file:
        file.truncate(200 * 2**20)  # zeros
        file.seek(0, 2)
        file.write(b"\n" + whole)
    tracemalloc.start()
    try:
        assert Journal().state(job, "x") == DONE
        assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    finally:
        tracemalloc.stop()


def test_many_large_lines_of_one_file_are_not_all_looked_at(tmp_path):
    job = job_of(tmp_path)
    make(job)
    path = tmp_path / "out" / NAME
    line = path.read_text().splitlines()[0]
    large = line[:-1] + ', "more": "' + "x" * 2**20 + '"}\n'
    path.write_text(line + "\n" + large * 30 + '{"more": "' + "x" * 2**17 + '", "output": "b.png"}\n')
    entries = Entries(path.parent)
    assert 10 < len(list(entries.of("a.png"))) < 16 and entries.passed == 1


def test_a_long_journal_is_read_once_and_little_of_it_kept(tmp_path):
    """100,000 lines with FLASHDIFF_LONG=1."""
    job = job_of(tmp_path)
    make(job)
    path = tmp_path / "out" / NAME
    line = path.read_text().splitlines()[0]
    with open(path, "a") as file:
        file.writelines(line.replace('"output": "a.png"', f'"output": "{number}.png"', 1) + "\n" for number in range(LINES))
    size = path.stat().st_size
    tracemalloc.start()
    try:
        entries = Entries(path.parent)
        assert tracemalloc.get_traced_memory()[0] < LINES * 400 + 2**20 < size
    finally:
        tracemalloc.stop()
    assert entries.passed == 0 and next(entries.of(f"{LINES - 1}.png"))[0].record.severity == 0.5
    assert Journal().state(job, "x") == DONE


def test_what_other_runs_add_is_seen(tmp_path):
    job, journal = job_of(tmp_path), Journal()
    assert journal.state(job, "x") == NEW
    make(job)
    assert journal.state(job, "x") == DONE


def test_fingerprints_of_several_sources():
    assert Origin.of(Path("a"), Path("b")).name == Origin.of(Path("a"), Path("b")).name != Origin.of(Path("b"), Path("a")).name
    assert fingerprint(a=1) != fingerprint(a=2)
