"""What is found in folders and what is passed over, which names are possible, and pictures through a pipe."""

import csv
import io
import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from tiny import save_tiny_model

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.pages import render
from flashdiff_cli.pictures import formats
from flashdiff_cli.runs.inputs import find, say_passed
from flashdiff_cli.runs.piped import ending_of, is_picture, read_standard_input
from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.report import make_report
from flashdiff_cli.runs.tabulate import to_csv


def picture(seed=0, size=(24, 16)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def saved(kind="PNG", **options):
    buffer = io.BytesIO()
    picture().save(buffer, kind, **options)
    return buffer.getvalue()


def put(path, data=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(saved() if data is None else data)
    return path


def names(jobs):
    return sorted(str(job.below) for job in jobs)


def test_every_format_that_is_read_by_name_is_found_in_a_folder(tmp_path):
    for ending in formats.READ:
        put(tmp_path / f"a{ending.upper() if len(ending) == 4 else ending}")
    passed = Counter()
    found = find([tmp_path], passed=passed)
    assert {job.source.suffix.lower() for job in found} == set(formats.READ) and say_passed(passed) is None
    assert {".jfif", ".jpe", ".gif", ".jp2", ".ppm", ".tiff", ".avif"} <= set(formats.READ)


@pytest.mark.parametrize("ending", [".jfif", ".jpe"])
def test_other_endings_of_jpeg_are_written_as_such(ending):
    assert formats.FORMATS[ending] == "JPEG" and ending_of(saved("JPEG")) == ".jpg" and ending_of(saved("GIF")) == ".png"


def test_what_a_folder_passes_over_is_counted(tmp_path):
    for name in (
        "a.png",
        "b.txt",
        "c.txt",
        "d.mov",
        "noending",
        ".hidden.png",
        ".DS_Store",
        "sub/e.png",
        ".thumbnails/f.png",
        "@eaDir/g.jpg",
    ):
        put(tmp_path / name)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    passed = Counter()
    assert names(find([tmp_path], passed=passed)) == ["a.png"]
    expected = {".txt": 2, ".mov": 1, "without a known ending": 1, "hidden": 1, "pipes, devices or broken links": 2}
    expected |= {"hidden folders or folders of thumbnails": 2, "subfolders (-r looks in them)": 1}
    assert +passed == expected
    said = say_passed(passed)
    assert said.startswith("10 passed over in folders: ") and "2 .txt" in said


@pytest.mark.parametrize("hidden", [".thumbnails", ".Trash-1000", "@eaDir", "__MACOSX", "#recycle", ".cache/deep/er"])
def test_hidden_folders_and_thumbnails_are_no_pictures_unless_they_are_named(tmp_path, hidden):
    put(tmp_path / "in" / "x" / hidden / "a.png")
    put(tmp_path / "in" / "x" / "b.png")
    passed = Counter()
    assert names(find([tmp_path / "in"], recursive=True, passed=passed)) == ["x/b.png"]
    assert passed["hidden folders or folders of thumbnails"] == 1
    assert names(find([tmp_path / "in" / "x" / hidden], recursive=True)) == ["a.png"]
    pattern = str(tmp_path / "in" / "**" / "*.png")
    assert [job.source.name for job in find([pattern])] == ["b.png"]
    assert [job.source.name for job in find([str(tmp_path / "in" / "x" / hidden / "*.png")])] == ["a.png"]


def test_links_to_folders_are_not_followed_round_and_round(tmp_path):
    put(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in", target_is_directory=True)
    passed = Counter()
    assert names(find([tmp_path / "in"], recursive=True, passed=passed)) == ["a.png"] and passed["links to folders"] == 1


def test_a_folder_without_pictures_says_what_it_has(tmp_path):
    put(tmp_path / "notes.txt")
    with pytest.raises(FlashdiffError, match=r"no pictures.*-r looks.*1 \.txt"):
        find([tmp_path])


ODD = [
    "=1+1.png",
    "+a.png",
    "-b.png",
    "@c.png",
    "\x1b[31mred.png",
    "tab\t.png",
    "line\nbreak.png",
    "\u202egnp.exe.png",
    "a\u2028b.png",
    "<b>&'\".png",
]


def test_no_name_is_a_formula_or_acts_on_a_console_or_page():
    records = [Record(f"in/{name}", error=name, status="failed") for name in ODD] + [Record(name, status="failed", error="x") for name in ODD]
    rows = list(csv.reader(io.StringIO(to_csv(records))))
    assert len(rows) == len(records) + 1
    for cell in (cell for row in rows for cell in row):
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")) and cell.isprintable()
    page = make_report(records)
    assert "<b>&" not in page and not any(mark in page for mark in ("\x1b", "\u202e", "\u2028"))
    assert all(json.loads(record.to_json())["input"] == record.input for record in records)


def test_a_number_in_a_cell_stays_a_number():
    row = next(csv.DictReader(io.StringIO(to_csv([Record("a.png", noise_std=-0.5, notes=["=x"], others=["-y"])]))))
    assert row["noise_std"] == "-0.5" and json.loads(row["notes"]) == ["=x"] and json.loads(row["others"]) == ["-y"]


def test_bytes_that_are_no_text_stand_as_escapes_in_table_and_page():
    name = os.fsdecode(b"Fr\xfchling.png")
    records = [Record(name, status="failed", error=name)]
    assert "Fr\\udcfchling" in to_csv(records)
    assert "Fr\\udcfchling" in make_report(records).encode(errors="backslashreplace").decode()
    assert render("report.html", title=name, about="", facts=[], cards=[], more="", plot=None, columns=[], rows=[], failures=[])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", defaults={"solver": "ldps", "steps": 10, "eta": 0.0})


def program(model, *arguments, given=b"", **environment):
    """A run in a process of its own; (exit code, stdout, stderr), in bytes."""
    command = [
        sys.executable,
        "-m",
        "flashdiff_cli.commands.app",
        *arguments,
        "--model",
        model,
        "--start-step",
        "0",
        "--quiet",
    ]
    done = subprocess.run(command, input=given, capture_output=True, env=os.environ | environment, timeout=280)
    assert b"Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("encoding", ["ascii:strict", "cp1252:strict"])
def test_names_of_any_bytes_on_any_console(tmp_path, model, encoding):
    for name in (b"Fr\xfchling.png", "日本語😀.png".encode(), b"\x1b[2Jclear.png"):
        put(tmp_path / "in" / os.fsdecode(name))
    more = ("--csv", tmp_path / "t.csv", "--report", tmp_path / "t.html")
    code, out, err = program(model, "restore", tmp_path / "in", "-o", tmp_path / "out", *more, PYTHONIOENCODING=encoding)
    assert code == 0 and b"\x1b" not in out + err and out
    assert sorted(p.name for p in (tmp_path / "out").glob("[!.]*")) == sorted(p.name for p in (tmp_path / "in").iterdir())
    assert len(list(csv.reader(io.StringIO((tmp_path / "t.csv").read_text(encoding="utf-8"))))) == 4
    assert "日本語" in (tmp_path / "t.html").read_text(encoding="utf-8")
    code, out, err = program(model, "restore", tmp_path / "in", "-o", tmp_path / "out", "--json", PYTHONIOENCODING=encoding)
    assert code == 0 and {json.loads(line)["input"] for line in out.splitlines()} == {str(p) for p in (tmp_path / "in").iterdir()}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM"])
def test_a_picture_is_told_from_a_list_of_names(kind):
    data = saved(kind)
    assert is_picture(data) and read_standard_input(io.BytesIO(data)) == data
    assert is_picture(data[:300]) or kind in ("WEBP",)


def test_names_on_standard_input_in_lines_or_ended_by_zeros(tmp_path):
    paths = [put(tmp_path / os.fsdecode(name)) for name in (b"a.png", b"Fr\xfch.png", b"line\nbreak.png")]
    zeros = b"\0".join(map(os.fsencode, paths)) + b"\0"
    assert [job.source for job in find(["-"], listed=read_standard_input(io.BytesIO(zeros)))] == paths
    lines = b"\r\n".join(map(os.fsencode, paths[:2])) + b"\n\n"
    assert [job.source for job in find(["-"], listed=read_standard_input(io.BytesIO(lines)))] == paths[:2]


@pytest.mark.parametrize(
    "data",
    [b"", b"\n \n", b"%PDF-1.7\0\1\2\3" * 50, bytes(1000), b"x" * 100_000, np.random.default_rng(0).bytes(5000)],
    ids=range(6),
)
def test_what_is_neither_a_picture_nor_names_is_one_line(data):
    with pytest.raises(FlashdiffError, match="-: standard input is"):
        read_standard_input(io.BytesIO(data))


class Pipe(io.TextIOWrapper):
    def __init__(self, data):
        super().__init__(io.BytesIO(data), encoding="utf-8")


@pytest.fixture
def piped(model, monkeypatch, capfdbinary):
    """Run `restore` or another verb with something on standard input; (exit code, stdout, stderr), in bytes."""
    from flashdiff_cli.commands.app import main

    def call(data, *arguments, verb="restore"):
        out = Pipe(b"")
        monkeypatch.setattr(sys, "stdin", Pipe(data))
        monkeypatch.setattr(sys, "stdout", out)
        fixed = ["--start-step", "0"] if verb == "restore" else []
        code = 0
        try:
            main([verb, *map(str, arguments), "--model", str(model), "--quiet", *fixed])
        except SystemExit as leave:
            code = leave.code or 0
        out.flush()
        err = capfdbinary.readouterr().err
        assert b"Traceback" not in err
        return code, out.buffer.getvalue(), err

    return call


@pytest.mark.parametrize(("kind", "result"), [("PNG", "PNG"), ("JPEG", "JPEG"), ("TIFF", "TIFF"), ("GIF", "PNG")])
def test_a_picture_goes_from_standard_input_to_standard_output(piped, kind, result):
    code, out, err = piped(saved(kind), "-")
    with Image.open(io.BytesIO(out)) as after:
        assert (code, err) == (0, b"") and after.format == result and after.size == (24, 16)


def test_a_piped_picture_is_what_its_file_becomes(piped, tmp_path):
    source = put(tmp_path / "a.png")
    _, out, _ = piped(source.read_bytes(), "-")
    assert piped(b"", source, "-o", tmp_path / "b.png")[0] == 0
    assert out == (tmp_path / "b.png").read_bytes() == piped(b"", source, "-o", "-")[1]
    code, out, _ = piped(source.read_bytes(), "-", "-o", tmp_path / "c.jpg", "--json")
    record = json.loads(out)
    assert code == 0 and (record["input"], record["output"]) == ("-", str(tmp_path / "c.jpg"))
    assert Image.open(tmp_path / "c.jpg").format == "JPEG"
    code, _, err = piped(source.read_bytes(), "-", "-o", tmp_path / "c.jpg")
    assert code == 1 and b"--overwrite" in err and len(err.splitlines()) == 1
    assert piped(source.read_bytes(), "-", "-o", tmp_path / "c.jpg", "--overwrite")[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--json",),
        ("--in-place",),
        ("-n", "2"),
        ("--dry-run",),
        ("--csv", "x.csv"),
        ("-o", "."),
        ("-o", "folder"),
        ("other.png",),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_through_a_pipe_is_one_line(piped, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = piped(saved(), "-", *arguments)
    assert code == 2 and out == b"" and len(err.splitlines()) == 1 and list(tmp_path.iterdir()) == []


def test_other_verbs_take_a_piped_picture_or_say_so(piped):
    code, out, _ = piped(saved(), "-", "--json", verb="severity")
    assert code == 0 and json.loads(out)["input"] == "-"
    code, _, err = piped(saved(), "-", verb="encode")
    assert code == 2 and b"standard input is a picture" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("data", [saved()[:500], b"\xff\xd8\xff\xe0" + bytes(90), bytes(500), b"%PDF-1.4\0" * 9])
def test_a_damaged_picture_or_anything_else_through_a_pipe_is_one_line(piped, data):
    code, out, err = piped(data, "-")
    assert code == 1 and out == b"" and len(err.splitlines()) == 1 and b"-: " in err
