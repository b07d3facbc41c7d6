"""`flashdiff watch`: what comes is restored once, when it is complete; a run that was ended goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import save_tiny_model

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.runs.watching import Arrivals

QUICK = ("--every", "0.05", "--settle", "0", "--idle", "0", "--fast", "--json", "--quiet")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", defaults={"solver": "ldps", "steps": 40, "eta": 0.0})


def picture(path, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def names(jobs):
    return [job.source.name for job in jobs]


def test_a_file_is_taken_once_it_has_stayed_the_same(tmp_path):
    arrivals = Arrivals(tmp_path, settle=2)
    assert arrivals.poll(0) == [] and not arrivals.waiting
    (tmp_path / "a.png").write_bytes(b"half")
    assert arrivals.poll(1) == [] and arrivals.waiting
    (tmp_path / "a.png").write_bytes(b"half and half")
    assert arrivals.poll(3.5) == [], "it has grown since"
    assert arrivals.poll(5.4) == []
    assert names(arrivals.poll(5.5)) == ["a.png"] and not arrivals.waiting
    assert arrivals.poll(100) == [], "once"
    (tmp_path / "a.png").write_bytes(b"another")
    assert arrivals.poll(101) == [] and names(arrivals.poll(103)) == ["a.png"], "again when it has changed"
    (tmp_path / "a.png").unlink()
    assert arrivals.poll(104) == []
    (tmp_path / "a.png").write_bytes(b"back")
    assert arrivals.poll(105) == [] and names(arrivals.poll(107)) == ["a.png"], "and when it has come back"


def test_hidden_and_other_files_are_passed_over_and_a_missing_folder_is_said(tmp_path):
    for name in (".a.png", "a.txt", "sub/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert Arrivals(tmp_path, settle=0).poll(0) == []
    assert names(Arrivals(tmp_path, recursive=True, settle=0).poll(0)) == ["b.png"]
    with pytest.raises(FlashdiffError, match="no such folder"):
        Arrivals(tmp_path / "gone").poll(0)


def test_what_is_there_is_restored_and_known_the_next_time(cli, model, tmp_path):
    for i, name in enumerate(("a.png", "b.jpg")):
        picture(tmp_path / "in" / name, i)
    (tmp_path / "in" / "c.png").write_bytes(b"no picture")
    command = ("watch", tmp_path / "in", "-o", tmp_path / "out", *QUICK, "--model", model)
    code, out, err = cli(*command)
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 1 and [r["status"] for r in records] == ["done", "done", "failed"] and "c.png" in err
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.*g")}
    assert set(times) == {"a.png", "b.jpg"}
    (tmp_path / "in" / "c.png").unlink()
    code, out, _ = cli(*command)
    assert code == 0 and out == ""
    assert times == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.*g")}
    code, out, _ = cli("restore", tmp_path / "in", "-o", tmp_path / "out", "--fast", "--json", "--model", model)
    assert code == 0 and [json.loads(line)["status"] for line in out.splitlines()] == ["skipped"] * 2, "restore knows it too"


def test_results_beside_their_sources_are_not_sources(cli, model, tmp_path):
    picture(tmp_path / "a.png")
    for _ in range(2):
        assert cli("watch", tmp_path, *QUICK, "--model", model)[0] == 0
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["a-restored.png", "a.png"]


def test_a_stranger_file_in_the_way_is_left_alone_and_said_once(cli, model, tmp_path):
    picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "out" / "a.png", 5)
    before = (tmp_path / "out" / "a.png").read_bytes()
    code, out, err = cli("watch", tmp_path / "in", "-o", tmp_path / "out", *QUICK, "--idle", "0.3", "--model", model)
    assert code == 1 and len(out.splitlines()) == 1 and err.count("a.png") <= 3
    assert (tmp_path / "out" / "a.png").read_bytes() == before


@pytest.mark.parametrize(("options", "said"), [(("-o", "a.png"), "--output"), (("--format", "exe"), "--format")])
def test_wrong_usage(cli, model, tmp_path, options, said):
    code, _, err = cli("watch", tmp_path, *options, "--model", model)
    assert code == 2 and said in err


def test_it_goes_on_until_a_signal(model, tmp_path):
    """A real process: pictures that come while it runs are done; SIGTERM ends it with its own exit code."""
    (tmp_path / "in").mkdir()
    command = [
        sys.executable,
        "-m",
        "flashdiff_cli",
        "watch",
        "in",
        "-o",
        "out",
        "--every",
        "0.05",
        "--settle",
        "0.2",
        "--fast",
        "--model",
        str(model),
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        assert "watching in" in process.stderr.readline()
        for number in range(2):
            picture(tmp_path / "in" / f"{number}.png", number)
            wait_for(tmp_path / "out" / f"{number}.png")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143 and "Traceback" not in err
    assert "0.png" in out and "1.png" in out


def wait_for(path: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} has not come"
        time.sleep(0.05)


def test_a_picture_whose_result_has_the_name_of_another_fails_alone(cli, model, tmp_path):
    for i, name in enumerate(("a.png", "a-restored.png", "b.png")):
        picture(tmp_path / "in" / name, i)
    before = (tmp_path / "in" / "a-restored.png").read_bytes()
    code, out, _ = cli("watch", tmp_path / "in", *QUICK, "--model", model)
    told = {Path(r["input"]).name: r for r in map(json.loads, out.splitlines())}
    assert code == 1 and {name: r["status"] for name, r in told.items()} == {"a.png": "failed", "a-restored.png": "done", "b.png": "done"}
    assert "would overwrite an input" in told["a.png"]["error"] and (tmp_path / "in" / "a-restored.png").read_bytes() == before
    # One picture, and a folder that is not there yet and has a dot in its name.
    picture(tmp_path / "one" / "c.png")
    assert cli("watch", tmp_path / "one", "-o", tmp_path / "out.v2", *QUICK, "--model", model)[0] == 0
    assert (tmp_path / "out.v2" / "c.png").is_file()
