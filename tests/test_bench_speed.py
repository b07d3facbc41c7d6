"""`flashdiff bench speed`: what is timed, and how it is told."""

import json

import pytest
from tiny import save_tiny_model, tiny_pipeline

from flashdiff_cli.bench.speed import Stopwatch, measure
from flashdiff_cli.errors import UsageError

DEFAULTS = {"solver": "ldps", "steps": 40, "eta": 0.0}


def test_the_step_is_compared_with_its_networks_and_a_batch_with_single_runs():
    rows = {row.what: row for row in measure(tiny_pipeline(defaults=DEFAULTS), side=13, rounds=2, pictures=2)}
    assert all(row.seconds > 0 and row.processor is not None for row in rows.values() if row.note in ("", "pictures a minute"))
    step, least = rows["step of ldps"], next(row for name, row in rows.items() if name.endswith("the least of a guided step"))
    assert step.relative == pytest.approx(step.processor / least.processor)
    single, together = (next(row for name, row in rows.items() if name.endswith(end)) for end in ("one by one", "in one batch"))
    assert single.relative == pytest.approx(120 / single.seconds)
    assert rows["staggered over one by one"].relative == pytest.approx(single.processor / together.processor)
    assert rows["peak memory"].relative > 10
    with pytest.raises(UsageError, match="`pictures`"):
        measure(tiny_pipeline(), side=16, pictures=1)


def test_each_function_runs_once_to_warm_up_and_then_as_often_as_asked():
    calls = []
    row = Stopwatch(tiny_pipeline().unet.device, 3).time("x", lambda: calls.append(1))
    assert len(calls) == 4 and row.what == "x" and row.relative is None


def test_the_command_prints_lines_between_tabs_or_json(cli, tmp_path):
    model = save_tiny_model(tmp_path / "model", defaults=DEFAULTS)
    arguments = ("bench", "speed", "-m", model, "--size", "16", "--limit", "2")
    code, out, _ = cli(*arguments)
    lines = [line.split("\t") for line in out.splitlines()]
    assert code == 0 and lines[0][:2] == ["what", "seconds"] and {len(line) for line in lines} == {5} and "cores" in lines[-1][-1]
    code, out, err = cli(*arguments, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["side"] == 16 and found["machine"]["device"] == "cpu" and any("UNet" in row["what"] for row in found["rows"])
