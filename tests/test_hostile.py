"""Hostile models, checkpoints, recipes, protocols and journals: each is used, or refused in one line; no other exception, no hang, no memory.

120 cases, or 720 with FLASHDIFF_LONG=1; every case is made from its number alone.
"""

import os
import resource
import shutil
import signal
import sys
from contextlib import contextmanager
from dataclasses import asdict

import hostile
import original_ldm
import pytest
import torch
from test_journal import job_of
from test_journal import make as restored
from tiny import save_tiny_model

from flashdiff_cli.bench.protocol import load
from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.hub.checksums import write_sums
from flashdiff_cli.models.convert import convert_ldm, convert_severity
from flashdiff_cli.operators import GaussianBlur
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.runs.entries import NAME
from flashdiff_cli.runs.journal import FOREIGN, OTHER, Journal, Origin
from flashdiff_cli.runs.merge import merged
from flashdiff_cli.runs.report import Gathered, make_report
from flashdiff_cli.runs.tabulate import to_csv
from flashdiff_cli.training import make_task
from flashdiff_cli.training.degradation import Degradations
from flashdiff_cli.training.recipe import Recipe

LONG = os.environ.get("FLASHDIFF_LONG") == "1"
CASES = dict.fromkeys(("model", "checkpoint", "recipe", "protocol", "journal"), 120 if LONG else 20)
CASES |= dict.fromkeys(("model", "checkpoint"), 180 if LONG else 30)
PROCESSOR_SECONDS, SECONDS = 20, 240
"""That one case may take: of the processor, and of the clock, for a machine that is busy."""
MEMORY = 1 << 30
"""Bytes that all cases of a test may add to what the process has held."""

pytestmark = [pytest.mark.timeout(0), pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes named pipes")]


class TooLong(BaseException):
    """Not caught by anything that catches exceptions."""


@contextmanager
def time_limit():
    def ring(*_):
        raise TooLong

    before = [signal.signal(number, ring) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), before, strict=True):
            signal.signal(number, handler)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def outcomes(kind, make, use, tmp_path) -> int:
    """Run all cases of a kind; returns how many were refused."""
    refused, faults, before = 0, [], peak()
    for case in range(CASES[kind]):
        folder = tmp_path / f"{case}"
        folder.mkdir()
        argument = make(folder, hostile.generator(20, list(CASES).index(kind), case))
        try:
            with time_limit():
                use(argument)
        except FlashdiffError as error:
            refused += 1
            if not str(error) or not str(error).isprintable():
                faults.append((case, "not one line", str(error)))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            faults.append((case, type(error).__name__, str(error)[:200]))
        shutil.rmtree(folder)
    assert not faults, faults
    assert peak() - before < MEMORY
    return refused


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    defaults = {"solver": "ldps", "steps": 10, "eta": 0.0, "solver_settings": {"ldps": {"dc_step": 1.0}}}
    defaults |= {
        "tuned": {"ldps": {"gaussian-blur": {"steps": 10, "settings": {"guidance": "norm"}}}},
        "of_encoder": {"severity": {"noise_correction": 0.5}},
    }
    calibration = {"variance": [0.0] * 15, "width": [0.0] * 15, "bounds": [[-1.0, 1.0]] * 4}
    defaults |= {"calibration": {"severity": calibration}, "denoiser_gain": [[0, 1.0], [999, 0.5]], "fidelity": True, "noise_rule": "level"}
    return save_tiny_model(tmp_path_factory.mktemp("model") / "whole", kind="kl", defaults=defaults)


def restore(folder):
    pipe = FlashDiffusionPipeline.from_pretrained(folder)
    images = pipe(torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32), GaussianBlur(1.0), 0.05, start_step=1).images
    assert torch.isfinite(images).all()


def test_hostile_models(whole, tmp_path):
    def make(folder, rng):
        shutil.copytree(whole, folder / "model")
        if rng.integers(3) == 0:
            write_sums(folder / "model")
        hostile.model(folder / "model", rng)
        return folder / "model"

    restore(whole)
    assert outcomes("model", make, restore, tmp_path) > CASES["model"] // 2


def test_hostile_checkpoints(tmp_path):
    base, mark = tmp_path / "base", tmp_path / "mark"
    sources = {kind: original_ldm.write(base / kind, kind) for kind in ("vq", "kl")}
    saved, _ = original_ldm.severity_checkpoint("kl")
    torch.save(saved, base / "severity.ckpt")

    def make(folder, rng):
        kind = ("vq", "kl", "severity")[rng.integers(3)]
        if kind == "severity":
            path, settings = shutil.copy(base / "severity.ckpt", folder / "model.ckpt"), None
        else:
            path = shutil.copy(sources[kind], folder / "model.ckpt")
            settings = shutil.copy(sources[kind].with_name("config.yaml"), folder / "config.yaml")
        hostile.checkpoint(path, settings, mark, rng)
        return path, folder / "out", settings is None

    def use(case):
        path, target, severity = case
        try:
            (convert_severity if severity else convert_ldm)(path, target)
        except FlashdiffError:
            assert not target.exists() and not list(target.parent.glob(".out*"))
            raise

    (tmp_path / "cases").mkdir()
    assert outcomes("checkpoint", make, use, tmp_path / "cases") > CASES["checkpoint"] // 2
    assert not mark.exists()


RECIPE = {
    "stage": "classifier",
    "steps": 3,
    "crop": 80,
    "betas": [0.9, 0.99],
    "precision": "no",
    "data": [{"name": "faces", "weight": 1.0, "min_scale": 0.5}],
    "model": {"width": 8, "dropout": 0.1},
    "loss": {"parameter_weight": 1.0, "views": 2, "side": 72},
    "degradation": [
        {"operator": "gaussian-blur", "weight": 0.5, "blur_std": [0.6, 3.5], "noise_std": 0.01, "noise_spread": 0.5},
        {"operator": "jpeg", "jpeg_quality": [6.0, 80.0], "chroma": "444"},
    ],
}


def test_hostile_recipes(tmp_path):
    def make(folder, rng):
        hostile.document(folder / "recipe.toml", RECIPE, rng)
        return folder / "recipe.toml"

    def use(path):
        recipe = Recipe.load(path)
        make_task(recipe, [], {}, None)
        if recipe.degradation:
            Degradations(recipe.degradation).draw(torch.zeros(4, 3, 64, 64), torch.Generator().manual_seed(0))

    (tmp_path / "recipe.toml").write_text("".join(f"{k} = {hostile.toml(v)}\n" for k, v in RECIPE.items()))
    use(tmp_path / "recipe.toml")
    (tmp_path / "cases").mkdir()
    assert outcomes("recipe", make, use, tmp_path / "cases") > CASES["recipe"] // 2


PROTOCOL = {
    "name": "p",
    "title": "t",
    "size": 64,
    "seed": 3,
    "levels": 2,
    "noise_std": 0.05,
    "baseline": "full",
    "metrics": ["psnr", "ssim"],
    "condition": [
        {"name": "a", "operator": "gaussian-blur", "options": {"blur_std": [0.3, 3.0]}, "assumed": {"operator": "identity", "noise_std": 0.1}},
        {"name": "b", "operator": "gaussian-blur+jpeg", "options": {"blur_std": 1.0, "jpeg_quality": 50.0}, "stored": True},
    ],
    "arm": [
        {"name": "input", "baseline": "input"},
        {"name": "full", "solver": "ldps", "start": "full", "steps": 100, "settings": {"dc_step": 1.0}},
        {"name": "near", "solver": "ldps", "start": "come-closer", "start_step": 5, "against": "full"},
    ],
    "dataset": {"rule": "all"},
    "settings": {"photos": {"ldps": {"dc_step": 1.0, "steps": 50}}},
}


def test_hostile_protocols(tmp_path):
    def make(folder, rng):
        hostile.document(folder / "protocol.toml", PROTOCOL, rng)
        return folder / "protocol.toml"

    def use(path):
        found = load(path)
        for arm in found.arm:
            if arm.solver:
                found.given(arm, "photos")
        asdict(found)

    (tmp_path / "protocol.toml").write_text("".join(f"{k} = {hostile.toml(v)}\n" for k, v in PROTOCOL.items()))
    use(tmp_path / "protocol.toml")
    (tmp_path / "cases").mkdir()
    assert outcomes("protocol", make, use, tmp_path / "cases") > CASES["protocol"] // 2


def test_hostile_journals(tmp_path):
    def make(folder, rng):
        job = job_of(folder, data=b"a source")
        for settings in ("w", "x"):
            restored(job, settings, settings.encode())
        hostile.journal(job.target.parent / NAME, rng)
        return job

    def use(job):
        journal, sources = Journal(), {}
        journal.is_of_another(job), journal.made(job.target), journal.notes()
        # The result is a run's, or a file that nobody knows, and is never replaced as another's.
        if journal.state(job, "x") in (FOREIGN, OTHER):
            with pytest.raises(FlashdiffError):
                journal.check(job.target, Origin.of(job.source))
        record = journal.record(job)
        records = merged([job.target.parent], sources)
        make_report([*records, record], "hostile", Gathered(sources))
        to_csv([*records, record])
        assert job.target.read_bytes() == b"x" and job.source.read_bytes() == b"a source"

    assert 0 < outcomes("journal", make, use, tmp_path) < CASES["journal"]
