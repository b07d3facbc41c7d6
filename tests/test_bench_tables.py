"""Tables: means, intervals, paired differences and severity figures of records that are made by hand."""

import json
import math

import numpy as np
import pytest

from flashdiff_cli.bench.protocol import from_dict
from flashdiff_cli.bench.records import BenchRecord
from flashdiff_cli.bench.tables import frame, number, severity_figures, summarise, to_html, to_markdown
from flashdiff_cli.runs.record import finite

PROTOCOL = from_dict(
    {
        "name": "p",
        "title": "A <title>",
        "baseline": "input",
        "metrics": ["psnr", "gmsd"],
        "condition": [{"name": "c", "operator": "identity"}],
        "arm": [
            {"name": "input", "baseline": "input"},
            {"name": "full", "solver": "ldps", "start": "full"},
            {"name": "flash", "solver": "ldps", "against": "full"},
            {"name": "psld", "solver": "psld"},
        ],
    }
)


def record(arm, image, **values):
    return BenchRecord("p", "c", arm, f"{image}.png", f"{image:064}", **values)


def records():
    made = []
    for i in range(10):
        made.append(record("flash", i, psnr=25.0 + i + 0.1 * (i % 2), gmsd=0.1, network_evaluations=20 + i, seconds={"total": 2.0}))
        made.append(record("input", i, psnr=20.0 + i, gmsd=0.2, seconds={"total": 0.0}))
        made.append(record("psld", i, status="skipped", error="no | adjoint"))
        if i < 8:
            made.append(record("full", i, psnr=25.0 + i, gmsd=0.1, network_evaluations=1000, seconds={"total": 90.0}))
        else:
            made.append(record("full", i, status="failed", error="boom"))
    return made


def test_differences_are_paired_over_the_pictures_that_both_have():
    arms = summarise(records(), PROTOCOL)["conditions"]["c"]["arms"]
    assert list(arms) == ["input", "full", "flash", "psld"]
    found = arms["flash"]["difference"]
    assert found["to"] == "full" and found["measures"]["psnr"]["n"] == 8
    assert found["measures"]["psnr"]["mean"] == pytest.approx(0.05) and 0 <= found["measures"]["psnr"]["low"] <= 0.05
    # Unpaired, the spread of the pictures would hide it: the interval of the mean itself is far wider.
    assert found["measures"]["psnr"]["high"] - found["measures"]["psnr"]["low"] < 0.1
    assert arms["flash"]["measures"]["psnr"]["high"] - arms["flash"]["measures"]["psnr"]["low"] > 2
    assert found["evaluations_ratio"] == pytest.approx(8 * 1000 / sum(20 + i for i in range(8)))
    assert arms["full"]["difference"]["to"] == "input" and arms["full"]["difference"]["evaluations_ratio"] is None
    assert "difference" not in arms["input"] and (arms["full"]["n"], arms["full"]["failed"]) == (8, 2)
    assert (arms["psld"]["n"], arms["psld"]["skipped"], arms["psld"]["reason"]) == (0, 10, "no | adjoint")


def test_a_value_that_is_missing_or_infinite_is_left_out():
    made = [record("input", 0, psnr=20.0), record("input", 1, psnr=math.inf), record("input", 2, psnr=None)]
    found = summarise(made, PROTOCOL)["conditions"]["c"]["arms"]["input"]
    assert found["n"] == 3 and found["measures"]["psnr"]["n"] == 1 and found["measures"]["psnr"]["mean"] == 20.0
    assert found["measures"]["gmsd"]["mean"] is None
    assert "| input | 3 | 20.00 | - |" in to_markdown(summarise(made, PROTOCOL))


def test_pages_hold_every_arm_and_are_plain_data():
    summary = summarise(records(), PROTOCOL, {("c", "flash"): {"fid": 12.34}}) | {"missing": ["lpips_vgg is left out"]}
    assert json.loads(json.dumps(finite(summary)))["conditions"]["c"]["arms"]["flash"]["measures"]["fid"]["mean"] == 12.34
    markdown, page = to_markdown(summary), to_html(summary)
    assert "| flash | 10 | 29.55 [" in markdown and "no \\| adjoint" in markdown and "lpips_vgg is left out." in markdown
    assert "8 (2 failed)" in markdown and "| flash | full | 8 | +0.05 [" in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows[:6]} == {rows[0].count("|")}
    assert "A &lt;title&gt;" in page and "<td>flash</td>" in page and "http" not in page


def test_records_that_the_protocol_does_not_know_come_last():
    made = [record("old-arm", 0, psnr=1.0), *records(), BenchRecord("p", "old", "input", "0.png", "d", psnr=2.0)]
    found = summarise(made, PROTOCOL)["conditions"]
    assert list(found) == ["c", "old"] and list(found["c"]["arms"])[-1] == "old-arm"


def test_severity_against_truth():
    made = [record("decoded", i, variance=v, error_variance=e) for i, (v, e) in enumerate([(0.1, 0.2), (0.2, 0.4), (0.3, 0.3), (0.4, 0.8)])]
    made += [record("flash", i, variance=9.0, error_variance=9.0) for i in range(4)]
    found = severity_figures(frame(made))
    assert found["n"] == 4 and found["spearman"] == pytest.approx(0.8)
    assert found["pearson"] == pytest.approx(np.corrcoef([0.1, 0.2, 0.3, 0.4], [0.2, 0.4, 0.3, 0.8])[0, 1])
    assert severity_figures(frame([record("input", 0, psnr=1.0)])) is None


def test_the_order_of_levels_in_a_sweep():
    made = []
    for image, variances in enumerate([(0.1, 0.2, 0.3), (0.1, 0.3, 0.2), (0.1, None, 0.2)]):
        for level, variance in zip((0.0, 0.5, 1.0), variances, strict=True):
            values = {"level": level, "variance": variance, "error_variance": 0.1 + level, "start_step": image, "settings": "new"}
            if variance is not None:
                made.append(record("severity", image, **values))
    stale = [record("severity", 9, level=0.25, variance=5.0, error_variance=1.0, settings="old")]
    found = severity_figures(frame(stale + made))
    assert found["sweep_pictures"] == 2 and found["levels"] == [0.0, 0.5, 1.0]
    assert found["ordering_accuracy"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert found["mean_start_by_level"] == [0.5, 0.5, 0.5] and found["n"] == 8


def test_numbers():
    figures = {"mean": 0.1234, "low": 0.1, "high": 0.15}
    assert number(figures, 2) == "0.12 [0.10, 0.15]" and number(figures, 1, signed=True) == "+0.1 [+0.1, +0.1]"
    assert number(figures, 3, interval=False) == "0.123" and number({"mean": None, "low": None}, 1) == "-"


def test_what_got_worse_and_what_was_found_are_counted():
    made = [record("input", i, psnr=20.0) for i in range(8)]
    # A measurement that is the clean picture itself, and one that was restored to it.
    made += [record("input", 8), record("flash", 8, psnr=50.0)]
    for i in range(8):
        found = {"kind": "noise" if i < 6 else "jpeg", "estimated": True}
        made.append(record("flash", i, psnr=19.9 if i == 3 else 20.1, assumed=found))
    summary = summarise(made, PROTOCOL)
    arms = summary["conditions"]["c"]["arms"]
    assert arms["flash"]["worse_than_input"] == 0.125 and arms["flash"]["kinds"] == {"noise": 6, "jpeg": 2}
    assert "worse_than_input" not in arms["input"] and "kinds" not in arms["input"]
    page = to_markdown(summary)
    assert "less PSNR than their input: flash 12.5%." in page and "flash took it for: noise 6, jpeg 2." in page
