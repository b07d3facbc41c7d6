"""What the arms cost: steps run, network evaluations and seconds against quality."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from flashdiff_cli.bench.figures.data import Mean, Metric, View, pictures, sizes, some_mean, values
from flashdiff_cli.bench.figures.style import LINE, SOFT, Drawing, Look, log_ticks, looks, new_figure, slug
from flashdiff_cli.bench.records import Record, kind, one, solver

BINS = 25
QUICK = 1e-3
"""Seconds; what is quicker is shown there, a logarithmic axis has no 0."""


def steps_histogram(view: View) -> Drawing | None:
    """Draw how many reverse steps the pictures took, for every arm with a matched start."""
    arms = {arm: of for arm, of in view.of_kind("flash").items() if values(of, "steps")}
    if not arms:
        return None
    taken = {arm: values(of, "steps") for arm, of in arms.items()}
    look = looks(view.arms)
    # Arms on schedules of different length would crush each other's bars: one panel a length.
    lengths: dict[int | None, list[str]] = {}
    for arm, of in arms.items():
        lengths.setdefault(one(of).get("schedule_steps"), []).append(arm)
    figure = new_figure(1.0 + 2.9 * len(lengths))
    for axes, (whole, names) in zip(figure.subplots(len(lengths), 1, squeeze=False)[:, 0], lengths.items(), strict=True):
        every = np.concatenate([taken[arm] for arm in names])
        low, high = int(every.min()), int(every.max())
        width = max(1, -(-(high - low + 1) // BINS))
        edges = np.arange(low, high + width + 1, width) - 0.5
        # The start does not depend on the solver: arms with the same steps share their bars.
        alike: dict[tuple, list[str]] = {}
        for arm in names:
            alike.setdefault(tuple(sorted(taken[arm])), []).append(arm)
        for steps, same in alike.items():
            color, average = look[same[0]].color, sum(steps) / len(steps)
            label = f"{', '.join(same)}: mean {average:.1f} of {whole} (n={len(steps)})"
            axes.hist(steps, edges, histtype="stepfilled", alpha=0.3 if len(alike) > 1 else 0.55, color=color)
            axes.hist(steps, edges, histtype="step", color=color, linewidth=1.4, label=textwrap.fill(label, 100))
            axes.axvline(average, color=color, linestyle=(0, (4, 2)), linewidth=1.4)
        room = max(3, 0.05 * (high - low))
        axes.set_xlim(max(low - room, -1), high + room)
        axes.set_xlabel(f"reverse steps run (of {whole})")
        axes.set_ylabel("pictures")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.margins(y=0.12)
        axes.legend(loc="upper left", bbox_to_anchor=(0, 1.0 + 0.09 * len(alike)), borderaxespad=0.1)
    records = [r for of in arms.values() for r in of.values()]
    count = len({r["image"] for r in records})
    caption = f"Reverse steps from the matched start, {pictures(count)} {sizes(records)}, condition {view.condition}. Dashed: means."
    return Drawing(f"steps.{slug(view.condition)}", "Steps that pictures take", caption, figure)


def shared_images(arms: Mapping[str, Mapping[str, Record]]) -> tuple[dict[str, Mapping[str, Record]], list[str]]:
    """Return arms and the pictures that all of them have; an arm without any in common with the largest is left out."""
    kept, images = {}, set()
    for arm in sorted(arms, key=lambda a: -len(arms[a])):
        common = images & set(arms[arm]) if kept else set(arms[arm])
        if common:
            kept[arm], images = arms[arm], common
    return {arm: of for arm, of in arms.items() if arm in kept}, sorted(images)


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (cost, quality) that no other beats in both, cheapest first; more quality is better."""
    best, kept = -np.inf, []
    for x, y in sorted(points, key=lambda p: (p[0], -p[1])):
        if y > best:
            kept.append((x, y))
            best = y
    return kept


def _mark(look: Look, of: Mapping[str, Record]) -> dict[str, Any]:
    """Return how an arm's point is drawn, on the axes and in the legend; fixed starts are many and small."""
    if kind(one(of)) == "fixed":
        return {"color": look.color, "marker": ".", "markersize": 5, "markeredgewidth": 0, "alpha": 0.6}
    face = look.color if look.fill else "white"
    return {"color": look.color, "marker": look.marker, "markersize": 7, "markeredgewidth": 1.4, "markerfacecolor": face}


def _axis(axes: Axes, metric: Metric, arms: Mapping[str, Mapping[str, Record]], images: Sequence[str], key: str, look: Mapping[str, Look]) -> None:
    """Draw every arm at its mean cost and mean quality, with both intervals, over the line of those that nothing beats.

    Pictures differ much more than arms do, so quality is taken against the picture's mean over the arms (the interval
    within subjects of Cousineau 2005); the mean stays what it is.

    Args:
        key: "evaluations" or "seconds".
    """
    usual = {i: sum(of[i][metric.key] for of in arms.values()) / len(arms) for i in images}
    level = sum(usual.values()) / len(usual)
    spent = {"evaluations": lambda r: r.get("network_evaluations") or 0, "seconds": lambda r: max(r["seconds"]["total"], QUICK)}[key]
    places: dict[str, tuple[Mean, Mean]] = {}
    for arm, of in arms.items():
        quality = some_mean([of[i][metric.key] - usual[i] + level for i in images])
        places[arm] = some_mean([spent(of[i]) for i in images]), quality
    sign = 1 if metric.higher else -1
    best = front([(cost.value, sign * quality.value) for cost, quality in places.values()])
    axes.plot([x for x, _ in best], [sign * y for _, y in best], color=LINE, linewidth=5, solid_capstyle="round", zorder=1)
    for arm, (cost, quality) in places.items():
        bars = {"xerr": [[n] for n in cost.reach], "yerr": [[n] for n in quality.reach], "elinewidth": 0.9, "capsize": 2}
        back = 2 if kind(one(arms[arm])) == "fixed" else 3
        axes.errorbar(cost.value, quality.value, linestyle="none", zorder=back, **bars, **_mark(look[arm], arms[arm]))


def _legend(arms: Mapping[str, Mapping[str, Record]], look: Mapping[str, Look]) -> list[Line2D]:
    """Return one entry an arm; one for all fixed starts of a solver."""
    entries = {}
    for arm, of in arms.items():
        label = f"fixed starts, {solver(one(of))}" if kind(one(of)) == "fixed" else arm
        entries.setdefault(label, Line2D([], [], linestyle="none", label=label, **_mark(look[arm], of)))
    return [*entries.values(), Line2D([], [], color=LINE, linewidth=5, label="best for its cost")]


def _is_rated(record: Record, metrics: Sequence[Metric]) -> bool:
    return all(record.get(m.key) is not None for m in metrics) and "total" in (record.get("seconds") or {})


def _say_input(axes: Axes, metric: Metric, level: Mean) -> None:
    axes.set_title(f"input: {level.value:.{2 if metric.unit else 3}f} {metric.unit}", fontsize=9, color=SOFT)


def _rated(view: View) -> dict[str, dict[str, Record]]:
    """Return the records by arm that have all metrics and a time; arms without any are left out."""
    found = {arm: {i: r for i, r in of.items() if _is_rated(r, view.metrics)} for arm, of in view.arms.items()}
    return {arm: of for arm, of in found.items() if of}


def _cost_axes(left: Axes, right: Axes, most: float) -> None:
    """Scale the lowest axes: network evaluations, up to `most`, and seconds."""
    # Linear below 1, so that what takes no network evaluation has a place.
    left.set_xscale("symlog", linthresh=1, linscale=0.4)
    left.set_xlim(-0.35, most)
    log_ticks(left.xaxis, 1, most, more=(0,))
    left.set_xlabel("network evaluations per picture")
    right.set_xscale("log")
    log_ticks(right.xaxis, *right.get_xlim())
    right.set_xlabel("seconds per picture")


def _caption(records: Sequence[Record], count: int, condition: str | None, missing: Sequence[str]) -> str:
    devices = sorted({str(r["device"]) for r in records if r.get("device")})
    caption = (
        f"Means over the {pictures(count)} {sizes(records)} that all arms were run on, condition {condition}"
        f"{', with 95 % bootstrap intervals (of quality: within pictures)' if count > 1 else ''}."
    )
    caption += f" Not shown, for want of such pictures: {', '.join(missing)}." if missing else ""
    return caption + (f" Seconds on {', '.join(devices)}." if devices else "")


def quality_against_cost(view: View) -> Drawing | None:
    """Draw all arms: quality against network evaluations and against seconds, both on a logarithmic axis."""
    metrics = view.metrics
    shared, images = shared_images(_rated(view))
    if not metrics or not any(kind(one(of)) in ("flash", "full", "fixed") for of in shared.values()):
        return None
    # The input costs nothing and is far below: on the same axis it would flatten everything else.
    arms = {arm: of for arm, of in shared.items() if kind(one(of)) != "input"}
    look, records = looks(arms), [of[i] for of in arms.values() for i in images]
    figure = new_figure(1.2 + 2.9 * len(metrics) + 0.1 * len(arms))
    panels = figure.subplots(len(metrics), 2, squeeze=False, sharex="col", sharey="row")
    inputs = [of for arm, of in shared.items() if arm not in arms]
    for row, metric in zip(panels, metrics, strict=True):
        for axes, key in zip(row, ("evaluations", "seconds"), strict=True):
            _axis(axes, metric, arms, images, key, look)
        row[0].set_ylabel(metric.axis)
        for reference in inputs:
            _say_input(row[0], metric, some_mean(values(reference, metric.key, images)))
    _cost_axes(*panels[-1], most=2 * max([1, *(r.get("network_evaluations") or 0 for r in records)]))
    figure.legend(handles=_legend(arms, look), loc="outside lower center", ncols=4)
    missing = [arm for arm in view.arms if arm not in shared]
    caption = _caption(records, len(images), view.condition, missing)
    return Drawing(f"quality-against-cost.{slug(view.condition)}", "Quality against cost", caption, figure)
