"""Another package's operator and solver, fifteen lines each: in `--help`, as flags, by `--option`, in a bench and in Python."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tiny import save_tiny_model

from flashdiff_cli.commands import flags
from flashdiff_cli.errors import UsageError

PACKAGE = '''
import torch

from flashdiff_cli import Operator, Option, Solver


class Fading(Operator):
    """Contrast lost towards a grey of one half."""

    help = "contrast that was lost"
    options = (
        Option("contrast", float, "share of the contrast that is left", None, 0.05, 1.0),
        Option("limit", int, "a name that the commands have themselves", 7),
    )

    def __init__(self, contrast, limit=7):
        self.contrast, self.limit = torch.as_tensor(contrast, dtype=torch.float32).reshape(-1), limit

    def forward(self, x):
        return x * self.contrast.to(x).view(-1, 1, 1, 1)

    adjoint = forward

    def describe(self, index=0):
        return {"contrast": self.contrast[index % len(self.contrast)].item(), "limit": self.limit}

    def subset(self, active):
        return self if len(self.contrast) == 1 else type(self)(self.contrast[active], self.limit)


class Halved(Solver):
    """Predicts, and keeps so much of the prediction."""

    help = "a shrunk prediction"
    options = (Option("kept", float, "share of the prediction that is kept", 0.5, 0.0, 1.0),)

    def step(self, z, level, problem, noise):
        z0, eps = problem.predict(z, level)
        return problem.schedule.step(self.kept * z0, eps, level, noise)
'''
ENTRY_POINTS = "[flashdiff.operators]\nfading = their_package:Fading\n[flashdiff.solvers]\nhalved = their_package:Halved\n"
SCRIPT = """
import contextlib, io, json, os, sys
from flashdiff_cli.commands.app import main

def run(*arguments):
    out = io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out):
        try:
            main(list(arguments))
        except SystemExit as leave:
            code = leave.code or 0
    return code, out.getvalue()

model, picture, place = sys.argv[1:]
common = ("--model", model, "--operator", "fading", "--noise-std", "0.02", "--solver", "halved", "--json")
found = {"help": run("restore", "--help")[1], "bench help": run("bench", "--help")[1]}
found["flags"] = run("restore", picture, "-o", place + "/a.png", *common, "--contrast", "0.5", "--kept", "0.25", "--start-step", "2")
more = ("--option", "contrast=0.5", "--option", "kept=0.25", "--option", "limit=9", "--limit", "1", "--start-step", "2")
found["option"] = run("restore", picture, "-o", place + "/b.png", *common, *more)
bench = ("bench", picture, "--operator", "fading", "--contrast", "0.5", "--solver", "halved", "--kept", "0.25", "--start", "input,2")
found["bench"] = run(*bench, "--size", "32", "-o", place + "/bench", "--model", model, "--json", "-q")
import flashdiff
_, record = flashdiff.restore(picture, model=model, operator="fading", contrast=0.5, solver="halved", kept=0.25, noise_std=0.02, start_step=2)
found["python"] = json.loads(record.to_json())
print(json.dumps(found), flush=True)
os._exit(0)
"""


@pytest.fixture
def package(tmp_path):
    """What an installer leaves of a package with two entry points; returns the folder to import from."""
    place = tmp_path / "site"
    info = place / "their_package-1.0.dist-info"
    info.mkdir(parents=True)
    (place / "their_package.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return place


def test_a_package_of_others_is_used_everywhere(package, tmp_path):
    import json

    model = save_tiny_model(tmp_path / "tiny", defaults={"solver": "ldps", "steps": 10, "eta": 0.0})
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    picture = tmp_path / "in" / "a.png"
    Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC).save(picture)
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"PYTHONPATH": path, "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    command = [sys.executable, "-c", SCRIPT, str(model), str(picture), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for text in (found["help"], found["bench help"]):
        assert "--contrast" in text and "--kept" in text and "--option" in text and "fading" in text
    records = []
    for way in ("flags", "option"):
        code, out = found[way]
        assert code == 0, (way, done.stderr)
        records.append(json.loads(out))
    records.append(found["python"])
    for record in records:
        assert record["operator"]["name"] == "fading" and record["operator"]["contrast"] == 0.5
        assert record["solver"]["name"] == "halved" and record["solver"]["kept"] == 0.25
    # A name that the command has itself stays the command's; the other one is reached by --option.
    assert [r["operator"]["limit"] for r in records] == [7, 9, 7]
    code, out = found["bench"]
    assert code == 0, done.stderr
    assert {json.loads(line)["arm"] for line in out.splitlines() if '"arm"' in line} >= {"fixed-2"}


def test_any_option_goes_where_it_belongs():
    operator, solver = flags.split({"blur_std": 1.0, "option": ["dc-step=2", "--jpeg-quality=30"]})
    assert operator == {"blur_std": 1.0, "jpeg_quality": "30"} and solver == {"dc_step": "2"}
    for pair, reason in (("blurstd=3", "did you mean blur_std"), ("blur_std", "NAME=VALUE"), ("=3", "NAME=VALUE")):
        with pytest.raises(UsageError, match=reason):
            flags.split({"option": [pair]})


def test_without_plugins_the_flags_need_no_torch():
    script = "import sys, flashdiff_cli.commands.flags; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
