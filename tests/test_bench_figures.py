"""Figures of a bench: what they are drawn from, what is written in them, and that every file is there and whole."""

import json
import math
import xml.etree.ElementTree

import matplotlib
import numpy as np
import pytest
from bench_records import bench, keep_images, record, seen, solved
from matplotlib.text import Text
from PIL import Image

from flashdiff_cli.bench.figures import CONDITIONS, draw_all, drawings, read_index
from flashdiff_cli.bench.figures.cost import front, quality_against_cost, shared_images, steps_histogram
from flashdiff_cli.bench.figures.data import PSNR, Metric, View, mean, ordering, paired
from flashdiff_cli.bench.figures.error import error_variance
from flashdiff_cli.bench.figures.grid import before_after, columns, one_picture_everywhere, spread
from flashdiff_cli.bench.figures.level import equal_pairs, features, outliers, severity_against_level, trend
from flashdiff_cli.bench.figures.robustness import gains, robustness, worst
from flashdiff_cli.bench.figures.starts import start_search
from flashdiff_cli.bench.figures.sweep import severity_sweep
from flashdiff_cli.bench.starts import best_start, families, severity_classes
from flashdiff_cli.errors import FlashdiffError

LOWER = Metric("gmsd", "GMSD", higher=False)


def view(records, folder="nowhere", condition="blur"):
    return View.of(records, folder).only(condition)


def texts(drawing):
    return "\n".join(t.get_text() for t in drawing.figure.findobj(Text))


def test_the_bootstrap_interval_is_the_normal_one_for_many_values_and_none_for_one():
    values = np.random.default_rng(3).normal(5.0, 2.0, 400)
    found, half = mean(values), 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean()) and found.count == 400
    assert found.low == pytest.approx(values.mean() - half, abs=0.03) and found.high == pytest.approx(values.mean() + half, abs=0.03)
    assert found == mean(values) and found != mean(values, seed=1)
    assert mean([2.5]).low is None and mean([2.5]).reach == (0.0, 0.0) and mean([]) is None
    assert mean([1.0, 1.0]).text(sign=True) == "+1.00 [+1.00, +1.00]" and mean([-1.0]).text() == "\N{MINUS SIGN}1.00"


def test_paired_gains_are_positive_where_it_is_better_whichever_way_the_metric_runs():
    better = {"a": {"psnr": 30.0, "gmsd": 0.1}, "b": {"psnr": 20.0, "gmsd": None}, "c": {"psnr": 1.0, "gmsd": 1.0}}
    reference = {"a": {"psnr": 28.0, "gmsd": 0.3}, "b": {"psnr": 21.0, "gmsd": 0.2}}
    assert paired(better, reference, PSNR) == {"a": 2.0, "b": -1.0}
    assert paired(better, reference, LOWER) == pytest.approx({"a": 0.2})


def test_a_later_record_replaces_and_what_is_not_done_or_not_finite_is_left_out():
    records = [record(psnr=20.0), record(psnr=21.0), record("tv", psnr=9.0, status="skipped"), record("decoded", psnr=math.inf)]
    found = view(records)
    assert found.arms["input"]["a/0.png"]["psnr"] == 21.0 and list(found.arms) == ["input", "decoded"]
    assert found.arms["decoded"]["a/0.png"]["psnr"] is None


def test_arms_stand_in_the_order_of_their_kind_and_fixed_starts_by_step():
    arms = [solved("flash", "a"), solved("full", "a", start="full"), solved("k9", "a", start=9), solved("k2", "a", start=2)]
    arms += [record("decoded", "a"), record("tv", "a"), record("input", "a"), solved("blind", "a", assumed={"estimated": True})]
    assert list(view(arms[::-1]).arms) == ["input", "tv", "decoded", "k2", "k9", "full", "flash", "blind"]


def test_the_perceptual_metric_is_the_first_that_every_arm_has():
    records = bench(2)
    assert view(records).perceptual.key == "haarpsi"
    assert view([r | {"lpips_vgg": 0.2} for r in records]).perceptual.key == "lpips_vgg"
    some = [r | {"lpips_vgg": 0.2 if r["arm"] != "wiener" else None} for r in records]
    assert view(some).perceptual.key == "haarpsi"
    assert view([record(psnr=3.0)]).perceptual is None and [m.key for m in view([record(psnr=3.0)]).metrics] == ["psnr"]


def test_ordering_is_the_share_of_pairs_in_order_and_broken_sweeps_are_left_out():
    rows = [record("severity", "a", level=t, severity=s) for t, s in ((0.0, 1.0), (0.5, 3.0), (1.0, 2.0))]
    rows += [record("severity", "b", level=0.0, severity=1.0), record("severity", "b", level=1.0, severity=2.0)]
    assert list(view(rows).sweep) == ["a"] and ordering(view(rows).sweep) == pytest.approx([2 / 3])


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (5, [5]), (6, [3, 3]), (10, [4, 3, 3]), (30, [10, 10, 10])])
def test_classes_of_severity_are_terciles_or_fewer_where_there_are_few(count, sizes):
    classes = severity_classes({f"{i:02d}": (i * 7 % count) for i in range(count)})
    assert [len(c) for c in classes] == sizes
    ranks = [int(image) * 7 % count for part in classes for image in part]
    assert ranks == sorted(ranks)


def test_the_trend_is_that_of_most_pictures_and_outliers_are_the_farthest():
    records = []
    for i in range(40):
        what = seen(i / 39)
        what["severity"] += {7: 0.3, 20: -0.15, 30: 0.2}.get(i, 0.002 * math.sin(i))
        records.append(record("decoded", f"{i:02d}", **what))
    found = view(records)
    model = trend([r["level"] for r in found.seen], [r["severity"] for r in found.seen])
    at = np.array([0.0, 0.5, 1.0])
    assert model.predict(features(at, model.n_features_in_)) == pytest.approx(0.1 + 0.3 * at, abs=0.01)
    above, below = outliers(found)
    assert [r["image"] for r in above[:2]] == ["07", "30"] and below[0]["image"] == "20" and len(above) == len(below) == 3
    assert trend([0.0, 1.0], [1.0, 2.0]) is None


def test_outliers_come_from_the_pictures_that_were_kept_and_the_caption_says_so(tmp_path):
    records = bench(20)
    keep_images([r for r in records if r["image"] < "set/010"], tmp_path)
    found = view(records, tmp_path)
    above, below = outliers(found)
    assert all(r["image"] < "set/010" for r in above + below) and above and below
    assert "among the 10 whose files were kept" in severity_against_level(found).caption


def test_pairs_of_equal_severity_are_far_apart_in_level_and_use_no_picture_twice():
    levels = {"a": (0.1, 0.300), "b": (0.9, 0.304), "c": (0.5, 0.302), "d": (0.12, 0.5), "e": (0.2, 0.5), "f": (1.0, 0.2)}
    rows = [record("decoded", name, level=t, severity=s) for name, (t, s) in levels.items()]
    assert [(x["image"], y["image"]) for x, y in equal_pairs(rows)] == [("a", "b")]


def test_the_best_fixed_start_is_found_and_the_difference_to_the_matched_one_is_written():
    found = view(bench(9, fixed=(0, 10, 20, 30, 40)))
    ((key, (fixed, matched)),) = families(found.arms).items()
    assert key == ("ldps", 250) and list(fixed) == [0, 10, 20, 30, 40] and len(matched) == 9
    # Quality falls with the square of the distance to 20 + 30 severity, about 27 on average: 30 is nearest.
    assert best_start(fixed, list(matched), "psnr")[0] == 30
    assert best_start({k: {i: {"gmsd": abs(k - 20)} for i in "ab"} for k in fixed}, ["a", "b"], "gmsd")[0] == 20
    (drawn,) = start_search(found)
    words = texts(drawn)
    differences = [29.5 - (29.5 - 0.001 * (30 - 20 - 30 * r["severity"]) ** 2) for r in matched.values()]
    assert min(differences) > 0 and "easy: +0.0" in words and "hard: +0.0" in words
    assert "9 pictures of 16 x 16 pixels in 3 classes" in drawn.caption
    # Where the noise comes from depends on the model, which records do not tell.
    assert "eq. 9" not in drawn.caption


def test_a_blind_arm_is_not_taken_for_the_matched_start():
    records = bench(3, fixed=(0, 10))
    for r in records:
        if r["arm"] == "flash-ldps":
            r["assumed"] = {"estimated": True}
    assert start_search(view(records)) == []


def test_the_front_holds_what_nothing_cheaper_beats():
    assert front([(0, 20.0), (1, 19.0), (5, 25.0), (9, 25.0), (2, 22.0)]) == [(0, 20.0), (2, 22.0), (5, 25.0)]


def test_arms_are_compared_on_the_pictures_that_all_have():
    arms = {"few": {key: {} for key in "bc"}, "many": {key: {} for key in "abcd"}, "other": {key: {} for key in "xyz"}}
    kept, images = shared_images(arms)
    assert list(kept) == ["few", "many"] and images == ["b", "c"]
    records = [r for r in bench(6) if not (r["arm"] == "full-ldps" and r["image"] > "set/002.png")]
    assert "3 pictures" in quality_against_cost(view(records)).caption


def test_gain_under_each_condition_and_its_worst_cell():
    records = bench(4, "easy") + bench(4, "hard", drop=3.0) + bench(4, "other", classical=(), drop=9.0)
    found = View.of(records, "nowhere")
    table = gains(found, PSNR)
    assert table["easy", "flash-ldps"].value == pytest.approx(5.5) and table["hard", "flash-ldps"].value == pytest.approx(2.5)
    assert ("other", "wiener") not in table and ("easy", "input") not in table
    assert worst(found, table) == ("other", "flash-ldps")
    assert worst(found, {cell: gain for cell, gain in table.items() if cell[1] != "flash-ldps"}) == ("other", "decoded")
    drawn = robustness(found)
    assert "flash-ldps under other" in drawn.caption and "worst" in texts(drawn) and "not run" in texts(drawn)
    assert robustness(View.of(bench(4), "nowhere")) is None


def test_arms_of_one_condition_have_no_bars():
    drawn = robustness(View.of(bench(2, "a", classical=("tv",)) + bench(2, "b"), "nowhere"))
    assert "tv" not in texts(drawn) and "wiener" not in texts(drawn) and "decoded" in texts(drawn)


def test_numbers_are_written_into_the_figures():
    found = view(bench(9, sweep=10))
    assert "ordering accuracy 1.000" in texts(severity_sweep(found)) and "9 pictures" in severity_sweep(found).caption
    # The true variance is 1.1 times the estimated one.
    assert "Spearman 1.000" in texts(error_variance(found)) and "Pearson 1.000" in texts(error_variance(found))
    steps = [r["steps"] for r in found.arms["flash-ldps"].values()]
    assert f"flash-ldps: mean {sum(steps) / 9:.1f} of 250 (n=9)" in texts(steps_histogram(found))


def test_solvers_with_the_same_steps_share_their_bars_and_lengths_have_panels():
    records = bench(3, solvers=("ldps", "psld"))
    records += [r | {"arm": "flash-ddpm", "schedule_steps": 1000, "steps": 4 * r["steps"]} for r in records if r["arm"] == "flash-ldps"]
    drawn = steps_histogram(view(records))
    assert "flash-ldps, flash-psld: mean" in texts(drawn) and len(drawn.figure.axes) == 2


def test_an_operator_that_does_not_change_has_no_figure_over_the_level():
    fixed = [r | {"operator": {"name": "gaussian-blur", "blur_std": 3.0}} for r in bench(9)]
    place = [r | {"operator": {"name": "box", "left": int(r["image"][4:7]) * 5 % 7}} for r in bench(9)]
    assert severity_against_level(view(fixed)) is None and severity_against_level(view(place)) is None
    assert view(bench(9)).parameters == "blur std 0.45 to 2.85" and severity_against_level(view(bench(9))) is not None


def test_the_grid_shows_one_solver_and_says_what_was_not_run(tmp_path):
    records = bench(8, solvers=("psld", "ldps"), classical=("wiener", "tv"))
    keep_images(records, tmp_path)
    found = view(records, tmp_path)
    assert columns(found) == ["input", "wiener", "decoded", "full-psld", "flash-psld", "clean"]
    drawn = before_after(found)
    assert "flash-psld" in texts(drawn) and "level 0.06" in texts(drawn) and "level 0.94" in texts(drawn) and "6 pictures" in drawn.caption
    first = found.arms["input"]["set/000.png"]["psnr"]
    assert f"{first:.2f} dB" in texts(drawn)
    more = records + bench(8, "other", solvers=("psld",), classical=())
    keep_images(more, tmp_path)
    drawn = one_picture_everywhere(View.of(more, tmp_path))
    assert "other" in texts(drawn) and "not run" in texts(drawn) and "2 of 2 conditions" in drawn.caption


def test_spread_keeps_both_ends():
    assert spread(range(10), 4) == [0, 3, 6, 9] and spread("ab", 4) == ["a", "b"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A bench that allows every figure."""
    folder = tmp_path_factory.mktemp("bench")
    records = bench(12, fixed=(0, 20, 40), sweep=4) + bench(3, "noise 2x/é", drop=1.0)
    # Equal severity at different levels.
    for i, t in enumerate((0.1, 0.9)):
        records += [record(arm, f"p/{i}.png", psnr=25.0, **(seen(t) | {"severity": 0.25})) for arm in ("input", "decoded")]
    keep_images(records, folder)
    return records, folder, draw_all(records, folder)


def test_every_figure_is_drawn_as_png_and_svg(whole):
    _, folder, paths = whole
    stems = [p.stem for p in paths[::2]]
    kinds = ("before-after", "quality-against-cost", "start-search", "steps", "severity-against-level", "severity-sweep")
    assert {name.split(".")[0] for name in stems} == {*kinds, "error-variance", "equal-severity", "robustness", "before-after-conditions"}
    assert stems.count("before-after.blur") == 1 and "steps.noise-2x" in stems
    assert [p.suffix for p in paths] == [".png", ".svg"] * len(stems)
    index = read_index(folder)
    assert [e["name"] for e in index] == stems and {e["condition"] for e in index} == {None, "blur", "noise 2x/é"}
    for entry in index:
        assert "picture" in entry["caption"] and entry["title"]
        with Image.open(folder / "figures" / f"{entry['name']}.png") as picture:
            assert picture.width >= 800
            shown = np.asarray(picture.convert("L"))
        assert shown.min() < 100 and (shown > 250).mean() > 0.05
        tree = xml.etree.ElementTree.parse(folder / "figures" / f"{entry['name']}.svg")
        assert tree.getroot().tag.endswith("svg")


def test_the_same_records_give_the_same_bytes_and_leave_the_settings_of_matplotlib(tmp_path):
    before = dict(matplotlib.rcParams)
    records = bench(2)
    contents = []
    for name in ("one", "two"):
        keep_images(records, tmp_path / name)
        contents.append([p.read_bytes() for p in draw_all(records, tmp_path / name)])
    assert contents[0] == contents[1] and len(contents[0]) == 10
    assert dict(matplotlib.rcParams) == before


def test_figures_that_are_no_longer_allowed_are_removed(tmp_path):
    records = [r for r in bench(2, sweep=3) if r["arm"] in ("severity", "decoded")]
    draw_all(records, tmp_path)
    own = tmp_path / "figures" / "mine.png"
    own.write_bytes(b"")
    assert (tmp_path / "figures" / "severity-sweep.blur.svg").exists()
    draw_all([r for r in records if r["arm"] != "severity"], tmp_path)
    assert read_index(tmp_path) and not list((tmp_path / "figures").glob("severity-sweep*")) and own.exists()
    assert "severity-sweep.blur" not in [e["name"] for e in read_index(tmp_path)]


@pytest.mark.parametrize("records", [[], [record(status="failed", error="no")], [record("tv", status="skipped", error="no")]])
def test_without_results_there_are_no_figures(tmp_path, records):
    assert draw_all(records, tmp_path) == [] and list(tmp_path.iterdir()) == []


def test_one_picture_and_metrics_that_are_missing(tmp_path):
    records = bench(1, fixed=(0, 10), sweep=3) + bench(1, "other")
    for r in records:
        r |= dict.fromkeys(("haarpsi", "gmsd", "ssim"))
    keep_images(records, tmp_path)
    names = {p.stem.split(".")[0] for p in draw_all(records, tmp_path)}
    assert {"before-after", "quality-against-cost", "start-search", "steps", "severity-sweep", "error-variance", "robustness"} <= names
    # Nothing but severities, as of a bench of a sweep alone.
    only = [r for r in records if r["arm"] == "severity"]
    assert [p.name for p in draw_all(only, tmp_path / "sweep")] == ["severity-sweep.blur.png", "severity-sweep.blur.svg"]
    # No metric at all.
    bare = [r | {"psnr": None} for r in records]
    assert {p.stem.split(".")[0] for p in draw_all(bare, tmp_path / "bare")} == {"steps", "severity-sweep", "error-variance"}


def test_of_many_conditions_the_first_have_figures_of_their_own():
    records = [r for i in range(CONDITIONS + 2) for r in bench(1, f"c{i}", classical=())]
    with matplotlib.rc_context():
        of = [condition for condition, _ in drawings(View.of(records, "nowhere"))]
    assert of[0] is None and set(of[1:]) == {f"c{i}" for i in range(CONDITIONS)}


def test_a_folder_that_cannot_be_written_and_a_damaged_index_are_errors_in_one_line(tmp_path):
    (tmp_path / "figures").write_text("a file")
    with pytest.raises(FlashdiffError, match="cannot be written"):
        draw_all(bench(2), tmp_path)
    damaged = tmp_path / "other" / "figures"
    damaged.mkdir(parents=True)
    (damaged / "figures.json").write_text('[{"name": "x"}]')
    with pytest.raises(FlashdiffError, match="cannot be read"):
        read_index(tmp_path / "other")
    entry = {"condition": None, "title": "t", "caption": "c"}
    (damaged / "figures.json").write_text(json.dumps([{"name": "../../out", **entry}, {"name": "in", **entry}]))
    assert [e["name"] for e in read_index(tmp_path / "other")] == ["in"]
