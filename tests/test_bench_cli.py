"""`flashdiff bench` from end to end on a tiny model."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny import save_tiny_model

from flashdiff_cli.bench.protocol import packaged
from flashdiff_cli.bench.records import read
from flashdiff_cli.runs.entries import NAME

DEFAULTS = {"solver": "ldps", "steps": 8, "eta": 0.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", defaults=DEFAULTS)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((24, 24), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def run(cli, model, pictures, tmp_path):
    out = tmp_path / "out"

    def call(*arguments, figures=False):
        return cli("bench", pictures, "-o", out, "--model", model, "--figures" if figures else "--no-figures", *arguments)

    call.out = out
    return call


def test_a_packaged_protocol_leaves_records_tables_and_images(run):
    arms = "input,decoded,wiener,flash-ldps,severity"
    code, out, err = run("--protocol", "gblur-varying", "--arms", arms, "--limit", "2", "--save-images", "1", "--batch", "2", figures=True)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80 and [line.split()[0] for line in lines[1:6]] == ["arm", *arms.split(",")[:4]]
    assert "10 levels of 2 pictures" in out
    assert len(read(run.out)) == 2 * 4 + 2 * 10
    files = sorted(p.relative_to(run.out).as_posix() for p in run.out.rglob("*") if p.is_file())
    drawn = [name for name in files if name.startswith("figures/")]
    assert {"figures/figures.json", "figures/severity-sweep.gblur-varying.png"} <= set(drawn)
    files = [name for name in files if name not in drawn and name != NAME]
    names = ("clean", "decoded", "flash-ldps", "input", "wiener")
    assert files == [
        *(f"images/gblur-varying/0/{name}.png" for name in names),
        *("page.html", "protocol.json", "records.jsonl", "summary.html", "summary.json", "summary.md"),
    ]
    facts = json.loads((run.out / "protocol.json").read_text())
    assert facts["protocol"]["name"] == "gblur-varying" and len(facts["protocol"]["arm"]) > 10
    assert facts["arms_run"] == arms.split(",")[:4] and facts["machine"]["cores"] >= 1 and facts["versions"]["torch"]
    assert "--protocol gblur-varying" in facts["command"]
    summary = json.loads((run.out / "summary.json").read_text())
    row = summary["conditions"]["gblur-varying"]["arms"]["flash-ldps"]
    assert row["n"] == 2 and row["difference"]["to"] == "input" and row["measures"]["psnr"]["low"] is not None


def test_a_second_run_does_nothing_and_says_the_same(run):
    arguments = ("--operator", "identity", "--start", "input,2", "--steps", "8")
    first = run(*arguments)
    size = (run.out / "records.jsonl").stat().st_size
    summary = (run.out / "summary.json").read_bytes()
    assert run(*arguments) == first and first[0] == 0
    assert (run.out / "records.jsonl").stat().st_size == size and (run.out / "summary.json").read_bytes() == summary


@pytest.mark.parametrize("mine", ["summary.md", "protocol.json", "records.jsonl", "images/mine.png"])
def test_what_a_bench_has_not_made_stays(run, mine):
    """Seen before anything is computed; a folder that was moved, or made by a version without a journal, is gone on with."""
    arguments = ("--operator", "identity", "--start", "input", "--limit", "1")
    (run.out / mine).parent.mkdir(parents=True)
    (run.out / mine).write_text("my notes\n")
    code, _, err = run(*arguments)
    assert code == 1 and mine.split("/")[0] in err and err.count("\n") == 1
    assert [p.read_text() for p in run.out.rglob("*") if p.is_file()] == ["my notes\n"]
    if mine == "records.jsonl":
        return
    assert run(*arguments, "--overwrite")[0] == 0
    if "/" in mine:
        assert (run.out / mine).read_text() == "my notes\n"
        return
    assert run(*arguments)[0] == 0
    (run.out / mine).write_text("changed since\n")
    code, _, err = run(*arguments)
    assert code == 1 and mine in err and (run.out / mine).read_text() == "changed since\n"
    (run.out / NAME).unlink()
    assert run(*arguments)[0] == 0 and (run.out / mine).read_text() != "changed since\n"


def test_arms_from_flags_as_json(run):
    ranges = ("--operator", "gaussian-blur", "--blur-std", "0.3:2", "--noise-std", "0.1", "--solver", "ldps,psld", "--dc-step", "0.5")
    code, out, err = run(*ranges, "--start", "input,flash,1", "--steps", "6", "--levels", "2", "--json", "--limit", "1")
    records = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [r["arm"] for r in records] == ["severity", "severity", "input", "flash-ldps", "flash-psld", "fixed-1-ldps", "fixed-1-psld"]
    assert all(0.3 <= r["operator"]["blur_std"] <= 2 and r["noise_std"] == 0.1 for r in records)
    assert records[3]["solver"]["dc_step"] == 0.5 and records[3]["schedule_steps"] == 6 and records[5]["network_evaluations"] == 1


def test_a_protocol_file_and_an_option_on_top(run, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        '[[condition]]\nname = "half"\noperator = "downsampling"\noptions = { factor = 4 }\n[[arm]]\nname = "input"\nbaseline = "input"\n'
    )
    code, _, err = run("--protocol", path, "--factor", "2", "--size", "16", "--seed", "3")
    found = read(run.out)
    assert (code, err) == (0, "") and {(r.operator["factor"], r.width, r.seed, r.protocol) for r in found} == {(2, 16, 3, "mine")}


def test_a_picture_that_cannot_be_read_is_told_and_the_rest_is_done(run, pictures):
    (pictures / "bad.png").write_bytes(b"")
    code, _, err = run("--operator", "identity", "--start", "input")
    assert code == 1 and "bad.png" in err and len(err.splitlines()) == 1 and len(read(run.out)) == 3
    for path in pictures.glob("[0-9].png"):
        path.unlink()
    code, out, err = run("--operator", "identity", "--start", "input")
    assert (code, out) == (1, "") and "bad.png" in err


def test_a_measure_that_cannot_be_had_is_told(run, monkeypatch):
    from flashdiff_cli.bench import metrics

    def unreachable(*_):
        raise OSError("no network")

    monkeypatch.setattr(metrics, "_lpips", unreachable)
    code, _out, err = run("--operator", "identity", "--start", "input", "--metrics", "psnr,lpips_vgg")
    assert code == 0 and "lpips_vgg" in err and len(err.splitlines()) == 1
    assert "lpips_vgg is left out" in (run.out / "summary.md").read_text()


def test_fid_needs_and_saves_all_images(run, monkeypatch):
    from flashdiff_cli.bench import metrics

    class Counter:
        def __init__(self):
            self.seen = []

        def to(self, device):
            return self

        def update(self, image, real):
            self.seen.append((tuple(image.shape), real))

        def compute(self):
            return float(len(self.seen))

    monkeypatch.setattr(metrics, "_distribution", lambda name, count=100: Counter())
    code, _, _ = run("--operator", "identity", "--start", "input,decoded", "--metrics", "psnr,fid")
    arms = json.loads((run.out / "summary.json").read_text())["conditions"]["identity"]["arms"]
    assert code == 0 and [arms[a]["measures"]["fid"]["mean"] for a in ("input", "decoded")] == [6.0, 6.0]
    assert len(list(run.out.rglob("clean.png"))) == 3 and "FID" in (run.out / "summary.md").read_text()


def test_an_id_list(run, tmp_path):
    (tmp_path / "ids").write_text("2\n1\n")
    assert run("--operator", "identity", "--start", "input", "--ids", tmp_path / "ids", "--limit", "1")[0] == 0
    assert [r.image for r in read(run.out)] == ["2.png"]


def test_list_and_dry_run(cli, run, pictures):
    code, out, _ = cli("bench", "--list")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == packaged()
    assert max(map(len, out.splitlines())) <= 100
    code, out, _ = run("--protocol", "robustness", "--dry-run")
    assert code == 0 and "3 pictures x 9 conditions x 4 arms: 108 records" in out and "told gaussian-blur blur_std [0.21, 2.1]" in out
    assert not run.out.exists()


@pytest.mark.parametrize(
    "arguments, named",
    [
        ((), "--operator"),
        (("--protocol", "nowhere"), "nowhere"),
        (("--protocol", "gblur-varying", "--solver", "ldps"), "--solver"),
        (("--protocol", "gblur-varying", "--dc-step", "1"), "--dc-step"),
        (("--protocol", "gblur-varying", "--kept-fraction", "1"), "--kept-fraction"),
        (("--protocol", "gblur-varying", "--arms", "magic"), "magic"),
        (("--protocol", "gblur-varying", "--metrics", "beauty"), "beauty"),
        (("--operator", "identity", "--start", "sideways"), "sideways"),
        (("--operator", "identity", "--start", "9", "--steps", "8"), "9"),
        (("--operator", "gaussian-blur", "--blur-std", "3:x"), "3:x"),
        (("--operator", "identity", "--solver", "magic"), "magic"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_leaves_nothing(run, arguments, named):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and named in err and len(err.splitlines()) == 1
    assert not (run.out / "records.jsonl").exists()


def test_pictures_and_a_folder_are_needed(cli, pictures):
    for arguments, named in ((("bench",), "pictures"), (("bench", pictures, "--operator", "identity"), "--output")):
        code, _, err = cli(*arguments)
        assert code == 2 and named in err
