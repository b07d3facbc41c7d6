"""The published page: every section can be run, and what can be run here gives the published numbers."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flashdiff_cli.bench.protocol import SEVERITY, load
from flashdiff_cli.bench.records import parse, read
from flashdiff_cli.bench.tables import summarise
from flashdiff_cli.runs.record import finite

REPOSITORY = Path(__file__).resolve().parents[1]
PUBLISHED = REPOSITORY / "docs" / "results"


def driver():
    spec = importlib.util.spec_from_file_location("results_driver", REPOSITORY / "benchmarks" / "results.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


SECTIONS = driver().SECTIONS


def flat(value, path=""):
    """The numbers of nested dictionaries and lists by their path."""
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, part in items for k, v in flat(part, f"{path}/{key}").items()}
    return {path: value} if isinstance(value, (int, float)) else {}


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.name)
def test_a_section_names_arms_that_its_protocol_has(section):
    protocol = load(section.protocol)
    known = {arm.name for arm in protocol.arm} | {SEVERITY}
    assert section.arms is None or set(section.arms.split(",")) <= known


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.name)
def test_a_section_has_published_its_records(section):
    folder = PUBLISHED / section.name
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert records and not [r for r in records if r["status"] == "failed"]
    assert len({r["image"] for r in records}) == section.limit
    assert f"(results/{section.name}/figures/" in (REPOSITORY / "docs" / "results.md").read_text()


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.name)
def test_the_published_tables_follow_from_the_published_records(section):
    folder = PUBLISHED / section.name
    published = json.loads((folder / "summary.json").read_text())
    found = json.loads(json.dumps(finite(summarise(parse((folder / "records.jsonl").read_text().splitlines()), load(section.protocol)))))
    for name, condition in published["conditions"].items():
        assert flat(found["conditions"][name]) == pytest.approx(flat(condition), rel=1e-6)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.name)
def test_pictures_that_may_not_be_passed_on_are_not_published(section):
    names = [path.name for path in (PUBLISHED / section.name).rglob("*.png")]
    assert section.shown or not [name for name in names if name.startswith("before-after")]


def test_the_command_gives_the_published_numbers_again(tmp_path, monkeypatch):
    """For the light one of the three examples: a picture's records do not depend on the others (tests/test_bench_runner.py)."""
    results, picture = driver(), "examples/light-clean.png"
    (section,) = [s for s in results.SECTIONS if s.name == "examples"]
    assert picture in section.pictures
    monkeypatch.setattr(results, "SECTIONS", (replace(section, pictures=(picture,), limit=1),))
    monkeypatch.setattr(sys, "argv", ["results.py", "-o", str(tmp_path / "results"), "--only", "examples", "--publish"])
    monkeypatch.chdir(REPOSITORY)
    results.main()
    now, then = (
        {(r.condition, r.arm, r.level): r for r in read(top / "examples") if r.image == "light-clean.png"}
        for top in (tmp_path / "results", PUBLISHED)
    )
    assert now.keys() == then.keys() and len(now) == len(section.arms.split(",")) - 1 + 10
    for key, published in then.items():
        # Not bit for bit: another processor adds in another order, and a run of steps carries that on.
        for measure, tolerance in {"psnr": 0.05, "ssim": 0.003, "haarpsi": 0.003, "network_evaluations": 0.5, "severity": 0.003}.items():
            value = getattr(published, measure)
            assert getattr(now[key], measure) == (value if value is None else pytest.approx(value, abs=tolerance)), (key, measure)
    assert set(results.KEPT) >= {path.name for path in (tmp_path / "results" / "examples").iterdir()}
    assert "flash-ldps" in (tmp_path / "results.md").read_text()
