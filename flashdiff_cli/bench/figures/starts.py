"""Quality against the start step for classes of severity: is the matched start the best one (paper figure 2)?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from flashdiff_cli.bench.figures.data import Metric, View, paired, pictures, sizes, some_mean, values
from flashdiff_cli.bench.figures.style import CLASSES, SOFT, Drawing, log_ticks, new_figure, slug
from flashdiff_cli.bench.records import Record
from flashdiff_cli.bench.starts import NAMES, best_start, complete, families, severity_classes

WIDE = 40
"""Start steps that reach over more than this ratio stand on a logarithmic axis."""


def _panel(axes: Axes, metric: Metric, fixed: Mapping, matched: Mapping[str, Record], classes: Sequence[list[str]]) -> None:
    """Draw the lines of all classes, their marks, and above them the differences in words."""
    words = []
    for part, color, name in zip(classes, CLASSES[len(classes)], NAMES[len(classes)], strict=True):
        axes.plot(list(fixed), [some_mean(values(of, metric.key, part)).value for of in fixed.values()], color=color, marker=".", markersize=6)
        own, at = some_mean(values(matched, metric.key, part)), some_mean(values(matched, "start_step", part))
        best, best_mean = best_start(fixed, part, metric.key)
        axes.scatter(at.value, own.value, s=190, marker="*", color=color, edgecolors="white", linewidths=1.0, zorder=5)
        axes.scatter(best, best_mean, s=110, facecolors="none", edgecolors=color, linewidths=1.6, zorder=4)
        gain = some_mean(list(paired({i: matched[i] for i in part}, fixed[best], metric).values()))
        words.append((f"{name}: {gain.text(2 if metric.unit else 3, sign=True)}", color))
    head = "matched \N{MINUS SIGN} best" if metric.higher else "best \N{MINUS SIGN} matched"
    words.insert(0, (f"{head}{f', {metric.unit}' if metric.unit else ''}:", SOFT))
    for line, (text, color) in enumerate(reversed(words)):
        axes.text(0, 1.02 + 0.055 * line, text, transform=axes.transAxes, fontsize=9, color=color, va="bottom")
    axes.set_ylabel(metric.axis)
    axes.margins(x=0.06, y=0.08)
    least = min((k for k in fixed if k), default=1)
    if max(fixed) > WIDE * least:
        axes.set_xscale("symlog", linthresh=least)
        log_ticks(axes.xaxis, least, max(fixed), more=(0,))


def start_search(view: View) -> list[Drawing]:
    """Draw one figure a solver: mean quality against the fixed start step, a line a severity class; the matched start's
    quality at its mean step as a star, and its paired difference to the best fixed start in words."""
    drawings, metrics = [], view.metrics
    for (name, schedule), (fixed, matched) in families(view.arms).items():
        images = complete(fixed, matched, [m.key for m in metrics])
        if not images or not metrics:
            continue
        classes = severity_classes({i: matched[i]["severity"] for i in images})
        figure = new_figure(4.9)
        for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
            _panel(axes, metric, fixed, matched, classes)
            axes.set_xlabel(f"start step (of {schedule})")
        handles = []
        for part, color, of in zip(classes, CLASSES[len(classes)], NAMES[len(classes)], strict=True):
            reach = f"{matched[part[0]]['severity']:.3f} to {matched[part[-1]]['severity']:.3f}"
            handles.append(Line2D([], [], color=color, marker=".", label=f"{of}, severity {reach} (n={len(part)})"))
        mark: dict[str, Any] = {"color": SOFT, "linestyle": "none"}
        handles.append(Line2D([], [], marker="*", markersize=12, label="matched start, at its mean step", **mark))
        handles.append(Line2D([], [], marker="o", markersize=9, markerfacecolor="none", label="best fixed start", **mark))
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
        caption = (
            f"Quality against the start step, solver {name}, {pictures(len(images))} {sizes(matched[i] for i in images)} in "
            f"{len(classes)} {'class' if len(classes) == 1 else 'classes'} of severity, condition {view.condition}. Above the plots: "
            "mean paired difference between the matched and the best fixed start with its 95 % interval; the best is chosen on the "
            "same pictures, in its favour."
        )
        title = f"Matched and fixed start steps, {name}"
        drawings.append(Drawing(f"start-search.{slug(view.condition)}.{slug(name)}-{schedule}", title, caption, figure))
    return drawings
