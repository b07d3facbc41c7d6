"""The matched start against the best fixed one: numbers of records whose quality is a known function of the start step."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from bench_records import solved

from flashdiff_cli.bench.protocol import from_dict
from flashdiff_cli.bench.records import parse
from flashdiff_cli.bench.starts import start_search
from flashdiff_cli.bench.tables import summarise, to_html, to_markdown

FIXED = (0, 10, 20, 30)
MATCHED = {"easy": 8, "middle": 19, "hard": 33}
"""Start steps of nine pictures, three a class."""
MEASURES = ("psnr", "ssim", "gmsd", "haarpsi")


def quality(step, best, i):
    """Picture i from a start step, where `best` is its best one: each measure has its own optimum, 10 steps later for GMSD."""
    off, later = abs(step - best), abs(step - best - 10)
    return {"psnr": 20 + i - 0.1 * off, "ssim": 0.8 - 0.01 * off, "gmsd": 0.1 + 0.001 * later, "haarpsi": 0.5 - 0.002 * off}


def records(fixed=FIXED, solver="ldps", schedule=250):
    made = []
    for i in range(9):
        best = 10 * (i // 3)
        own = {"severity": 0.1 * (i + 1), "solver": solver, "schedule": schedule, "condition": "c"}
        step = list(MATCHED.values())[i // 3]
        made.append(solved(f"flash-{solver}", f"{i}.png", steps=step, **own, **quality(step, best, i)))
        for k in fixed:
            made.append(solved(f"fixed-{k}-{solver}", f"{i}.png", start=k, steps=k, **own, **quality(k, best, i)))
    return made


def arms(made):
    found = {}
    for r in made:
        found.setdefault(r["arm"], {})[r["image"]] = r
    return found


def summary(made, metrics=MEASURES):
    content = {"name": "p", "metrics": list(metrics), "condition": [{"name": "c", "operator": "identity"}]}
    protocol = from_dict(content | {"arm": [{"name": "flash-ldps", "solver": "ldps"}]})
    return summarise(parse(json.dumps(r) for r in made), protocol)


def test_each_class_and_measure_has_its_best_fixed_start():
    (found,) = start_search(arms(records()), MEASURES)
    assert (found["arm"], found["solver"], found["schedule_steps"], found["fixed"]) == ("flash-ldps", "ldps", 250, [0, 10, 20, 30])
    assert [c["name"] for c in found["classes"]] == ["easy", "middle", "hard"] and [c["n"] for c in found["classes"]] == [3, 3, 3]
    assert [c["start_step"] for c in found["classes"]] == [8, 19, 33]
    assert found["classes"][1]["severity"] == pytest.approx([0.4, 0.6])
    for j, part in enumerate(found["classes"]):
        best = {m: of["best_start"] for m, of in part["measures"].items()}
        # Lower GMSD is better: an order the wrong way round would find the farthest step.
        assert best == {"psnr": 10 * j, "ssim": 10 * j, "gmsd": 10 * j + 10, "haarpsi": 10 * j}


def test_means_differences_and_shares_are_those_of_the_formula():
    easy, middle, hard = start_search(arms(records()), MEASURES)[0]["classes"]
    psnr = easy["measures"]["psnr"]
    assert psnr["best_mean"] == pytest.approx(21.0) and psnr["matched_mean"] == pytest.approx(20.2) and psnr["percent"] is None
    # Paired: the pictures are 1 dB apart, and all lose the same.
    assert [psnr["difference"][k] for k in ("mean", "low", "high")] == pytest.approx([-0.8] * 3) and psnr["difference"]["n"] == 3
    ssim = middle["measures"]["ssim"]
    # Step 19 is 9 from the best of 10.
    assert ssim["difference"]["mean"] == pytest.approx(-0.09) and ssim["percent"] == pytest.approx(-100 * 0.09 / 0.8)
    gmsd, haarpsi = hard["measures"]["gmsd"], hard["measures"]["haarpsi"]
    # From step 33, GMSD is 3 steps off its best of 30, HaarPSI 13 off its best of 20.
    assert gmsd["best_mean"] == pytest.approx(0.1) and gmsd["matched_mean"] == pytest.approx(0.103) and gmsd["percent"] == pytest.approx(3)
    assert haarpsi["matched_mean"] == pytest.approx(0.474) and haarpsi["percent"] == pytest.approx(-5.2)


def test_the_interval_is_that_of_the_differences_over_pictures():
    made = records()
    for r in made:
        if r["arm"] == "flash-ldps":
            r["psnr"] += {"0.png": 0.3, "1.png": 0.0, "2.png": -0.3}.get(r["image"], 0.0)
    found = start_search(arms(made), MEASURES)[0]["classes"][0]["measures"]["psnr"]["difference"]
    assert found["mean"] == pytest.approx(-0.8)
    # Of 27 equally likely resamples of three, one has the lowest mean: more than the 2.5 % that are cut.
    assert [found["low"], found["high"]] == pytest.approx([-1.1, -0.5])


def test_of_equal_starts_the_lowest_counts():
    made = [r | {"psnr": 25.0} for r in records()]
    assert [c["measures"]["psnr"]["best_start"] for c in start_search(arms(made[::-1]), ["psnr"])[0]["classes"]] == [0, 0, 0]


def test_only_pictures_with_all_starts_and_measures_count_and_measures_that_an_arm_lacks_are_left_out():
    made = [r for r in records() if (r["image"], r["arm"]) != ("0.png", "fixed-20-ldps")]
    made = [r | {"ssim": None if r["arm"] == "fixed-0-ldps" else r["ssim"]} for r in made]
    made = [r | {"psnr": math.inf if (r["image"], r["arm"]) == ("8.png", "flash-ldps") else r["psnr"]} for r in made]
    (found,) = start_search(arms(made), MEASURES)
    assert sum(c["n"] for c in found["classes"]) == 7 and [c["name"] for c in found["classes"]] == ["easy", "hard"]
    assert list(found["classes"][0]["measures"]) == ["psnr", "gmsd", "haarpsi"]
    assert list(start_search(arms(records()), ["gmsd"])[0]["classes"][0]["measures"]) == ["gmsd"]


def test_each_solver_and_length_of_schedule_is_searched_by_itself():
    made = records() + records(solver="psld", fixed=(5, 15))
    longer = [r | {"arm": r["arm"] + "-long"} for r in records(schedule=1000, fixed=(100, 200))]
    found = start_search(arms(made + longer), MEASURES)
    assert [(s["arm"], s["schedule_steps"], s["fixed"]) for s in found] == [
        ("flash-ldps", 250, [0, 10, 20, 30]),
        ("flash-psld", 250, [5, 15]),
        ("flash-ldps-long", 1000, [100, 200]),
    ]


@pytest.mark.parametrize("case", ["no fixed start", "one fixed start", "no matched start", "blind", "other solver", "no severity"])
def test_without_a_search_there_is_no_table(case):
    made = records()
    if case in ("no fixed start", "one fixed start"):
        made = records(fixed=() if case == "no fixed start" else (10,))
    elif case == "no matched start":
        made = [r for r in made if r["start"] != "flash"]
    elif case == "no severity":
        made = [r | {"severity": None} for r in made]
    else:
        change = {"assumed": {"estimated": True}} if case == "blind" else {"solver": {"name": "psld"}}
        made = [r | change if r["start"] == "flash" else r for r in made]
    found = summary(made)
    assert found["conditions"]["c"]["start_search"] == []
    for page in (to_markdown(found), to_html(found)):
        assert "best fixed start" not in page and "in its favour" not in page


def test_the_table_has_a_row_for_each_class_and_measure_and_says_how_the_best_was_chosen():
    found = summary(records())
    assert found["conditions"]["c"]["start_search"] == start_search(arms(records()), MEASURES)
    markdown, page = to_markdown(found), to_html(found)
    lines = markdown.splitlines()
    head = lines.index("| arm | class | n | severity | matched start | measure | best fixed start | its mean | matched | difference | % |")
    rows = lines[head + 2 : lines.index("", head)]
    assert len(rows) == 12 and {row.count("|") for row in rows} == {12}
    easy = "| flash-ldps | easy | 3 | 0.100 to 0.300 | 8.0 of 250 |"
    assert rows[0] == f"{easy} PSNR ↑ | 0 | 21.00 | 20.20 | -0.80 [-0.80, -0.80] | - |"
    assert rows[2] == f"{easy} GMSD ↓ | 10 | 0.1000 | 0.1020 | +0.0020 [+0.0020, +0.0020] | +2.0 |"
    assert "flash-ldps against fixed starts at steps 0, 10, 20, 30: the best one is chosen" in lines[lines.index("", head) + 1]
    assert "on the same pictures, in its favour" in page and "<td>middle</td>" in page and "<td>-3.6</td>" in page


def test_what_failed_does_not_count():
    made = [r | {"status": "failed"} if r["start"] in (10, 20, 30) else r for r in records()]
    assert summary(made)["conditions"]["c"]["start_search"] == []


def test_the_numbers_are_those_that_the_figure_writes():
    from flashdiff_cli.bench.figures.data import View
    from flashdiff_cli.bench.figures.starts import start_search as draw

    made = [r | {"psnr": r["psnr"] + np.sin(7 * j)} for j, r in enumerate(records())]
    (drawn,) = draw(View.of(made, "nowhere").only("c"))
    words = [t.get_text().replace("\N{MINUS SIGN}", "-") for t in drawn.figure.axes[0].texts]
    for part in start_search(arms(made), MEASURES)[0]["classes"]:
        d = part["measures"]["psnr"]["difference"]
        assert f"{part['name']}: {d['mean']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}]" in words


def test_tables_need_no_matplotlib():
    code = "from flashdiff_cli import lean; lean.install(); import os, sys, flashdiff_cli.bench.tables; os._exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=280).returncode == 0
