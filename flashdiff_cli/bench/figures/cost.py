"""What the arms cost: steps run, network evaluations and seconds against quality."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.lines import Line2D

from flashdiff_cli.bench.figures.data import Mean, Metric, Record, View, kind, mean, pictures, sizes, solver, values
from flashdiff_cli.bench.figures.style import LINE, SOFT, SOLVERS, Drawing, log_ticks, looks, new_figure, slug

BINS = 25
QUICK = 1e-3
"""Seconds; what is quicker is shown there, a logarithmic axis has no 0."""


def steps_histogram(view: View) -> Drawing | None:
    """How many reverse steps the pictures took, for every arm with a matched start."""
    arms = {arm: of for arm, of in view.of_kind("flash").items() if values(of, "steps")}
    if not arms:
        return None
    taken = {arm: values(of, "steps") for arm, of in arms.items()}
    look = looks(view.arms)
    # Arms on schedules of different length would crush each other's bars: one panel a length.
    lengths: dict[int, list[str]] = {}
    for arm, of in arms.items():
        lengths.setdefault(next(iter(of.values())).get("schedule_steps"), []).append(arm)
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
    """Arms and the pictures that all of them have; an arm without any in common with the largest is left out."""
    kept, images = {}, set()
    for arm in sorted(arms, key=lambda a: -len(arms[a])):
        common = images & set(arms[arm]) if kept else set(arms[arm])
        if common:
            kept[arm], images = arms[arm], common
    return {arm: of for arm, of in arms.items() if arm in kept}, sorted(images)


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (cost, quality) that no other beats in both, cheapest first; more quality is better."""
    best, kept = -np.inf, []
    for x, y in sorted(points, key=lambda p: (p[0], -p[1])):
        if y > best:
            kept.append((x, y))
            best = y
    return kept


def _axis(axes, metric: Metric, arms, images, key: str, look) -> None:
    """Every arm at its mean cost and mean quality, with both intervals, over the line of those that nothing beats.

    Pictures differ much more than arms do, so quality is taken against the picture's mean over the arms (the interval
    within subjects of Cousineau 2005); the mean stays what it is.
    """
    places: dict[str, tuple[Mean, Mean]] = {}
    # The input costs nothing and is far below: on the same axis it would flatten everything else.
    reference = next((of for arm, of in arms.items() if kind(next(iter(of.values()))) == "input"), None)
    arms = {arm: of for arm, of in arms.items() if of is not reference}
    usual = {i: sum(of[i][metric.key] for of in arms.values()) / len(arms) for i in images}
    level = sum(usual.values()) / len(usual)
    for arm, of in arms.items():
        cost = mean([(of[i].get("network_evaluations") or 0) if key == "evaluations" else max(of[i]["seconds"]["total"], QUICK) for i in images])
        quality = [of[i][metric.key] - usual[i] + level for i in images]
        places[arm] = cost, mean(quality)
    if reference is not None and key == "evaluations":
        level = mean(values(reference, metric.key, images)).value
        axes.set_title(f"input: {level:.{2 if metric.unit else 3}f} {metric.unit}", fontsize=9, color=SOFT)
    sign = 1 if metric.higher else -1
    best = [(x, sign * y) for x, y in front([(c.value, sign * q.value) for c, q in places.values()])]
    axes.plot(*zip(*best, strict=True), color=LINE, linewidth=5, solid_capstyle="round", zorder=1)
    for arm, (cost, quality) in places.items():
        fixed = kind(next(iter(arms[arm].values()))) == "fixed"
        color = look[arm].color
        bars = {"xerr": [[n] for n in cost.reach], "yerr": [[n] for n in quality.reach], "elinewidth": 0.7 if fixed else 1.1}
        face = color if look[arm].fill or fixed else "white"
        size = 5 if fixed else 7
        mark = {"fmt": "." if fixed else look[arm].marker, "markersize": size, "markerfacecolor": face, "markeredgewidth": 0 if fixed else 1.4}
        axes.errorbar(cost.value, quality.value, color=color, capsize=2, alpha=0.6 if fixed else 1, zorder=2 if fixed else 3, **bars, **mark)


def quality_against_cost(view: View) -> Drawing | None:
    """All arms: quality against network evaluations and against seconds, both on a logarithmic axis."""
    metrics = view.metrics
    rated = {
        arm: {i: r for i, r in of.items() if all(r.get(m.key) is not None for m in metrics) and "total" in (r.get("seconds") or {})}
        for arm, of in view.arms.items()
    }
    arms, images = shared_images({arm: of for arm, of in rated.items() if of})
    if not metrics or not any(kind(next(iter(of.values()))) in ("flash", "full", "fixed") for of in arms.values()):
        return None
    look = looks(arms)
    records = [of[i] for of in arms.values() for i in images]
    figure = new_figure(1.2 + 2.9 * len(metrics) + 0.1 * len(arms))
    panels = figure.subplots(len(metrics), 2, squeeze=False, sharex="col", sharey="row")
    for row, metric in zip(panels, metrics, strict=True):
        for axes, key in zip(row, ("evaluations", "seconds"), strict=True):
            _axis(axes, metric, arms, images, key, look)
        row[0].set_ylabel(metric.axis)
    most = max(r.get("network_evaluations") or 0 for r in records)
    # Linear below 1, so that what takes no network evaluation has a place.
    panels[-1, 0].set_xscale("symlog", linthresh=1, linscale=0.4)
    panels[-1, 0].set_xlim(-0.35, 2 * max(most, 1))
    log_ticks(panels[-1, 0].xaxis, 1, 2 * max(most, 1), more=(0,))
    panels[-1, 0].set_xlabel("network evaluations per picture")
    panels[-1, 1].set_xscale("log")
    low, high = panels[-1, 1].get_xlim()
    log_ticks(panels[-1, 1].xaxis, low, high)
    panels[-1, 1].set_xlabel("seconds per picture")
    handles = []
    for arm, of in arms.items():
        first = next(iter(of.values()))
        if kind(first) == "input":
            continue
        label, mark = arm, {"marker": look[arm].marker, "markersize": 7, "markerfacecolor": look[arm].color if look[arm].fill else "white"}
        if kind(first) == "fixed":
            label, mark = f"fixed starts, {solver(first)}", {"marker": ".", "markersize": 5, "alpha": 0.6}
            if label in [h.get_label() for h in handles]:
                continue
        color = SOLVERS.get(solver(first), SOFT) if kind(first) == "fixed" else look[arm].color
        handles.append(Line2D([], [], color=color, linestyle="none", label=label, **mark))
    handles.append(Line2D([], [], color=LINE, linewidth=5, label="best for its cost"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    missing = [arm for arm in view.arms if arm not in arms]
    caption = (
        f"Means over the {pictures(len(images))} {sizes(records)} that all arms were run on, condition {view.condition}"
        f"{', with 95 % bootstrap intervals (of quality: within pictures)' if len(images) > 1 else ''}."
    )
    caption += f" Not shown, for want of such pictures: {', '.join(missing)}." if missing else ""
    device = sorted({str(r.get("device")) for r in records if r.get("device")})
    caption += f" Seconds on {', '.join(device)}." if device else ""
    return Drawing(f"quality-against-cost.{slug(view.condition)}", "Quality against cost", caption, figure)


