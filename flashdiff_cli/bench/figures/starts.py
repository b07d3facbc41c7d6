"""Quality against the start step for classes of severity: is the matched start the best one (paper figure 2)?"""

from __future__ import annotations

from collections.abc import Mapping

from flashdiff_cli.bench.figures.data import (
    Mean,
    Metric,
    Record,
    View,
    blind,
    mean,
    paired,
    pictures,
    severity_classes,
    sizes,
    solver,
    values,
)
from flashdiff_cli.bench.figures.style import CLASSES, SOFT, Drawing, new_figure, slug

NAMES = {1: ("all",), 2: ("easy", "hard"), 3: ("easy", "middle", "hard")}


def families(view: View) -> dict[tuple[str, int], tuple[dict[int, dict[str, Record]], dict[str, Record]]]:
    """(Fixed starts by step, the matched start) for each solver and length of schedule that has both."""
    fixed: dict[tuple, dict[int, dict[str, Record]]] = {}
    matched: dict[tuple, dict[str, Record]] = {}
    for kinds, put in ((("fixed",), True), (("flash",), False)):
        for of in view.of_kind(*kinds).values():
            first = next(iter(of.values()))
            key = solver(first), first.get("schedule_steps")
            if put:
                fixed.setdefault(key, {})[int(first["start"])] = of
            elif not blind(first):
                matched.setdefault(key, of)
    return {key: (dict(sorted(fixed[key].items())), matched[key]) for key in fixed if key in matched and len(fixed[key]) > 1}


def best_start(fixed: Mapping[int, Mapping[str, Record]], images: list[str], metric: Metric) -> tuple[int, Mean]:
    """The fixed start step with the best mean over pictures, and that mean."""
    means = {start: mean(values(of, metric.key, images)) for start, of in fixed.items()}
    best = max(means, key=lambda start: metric.gain(means[start].value, 0.0))
    return best, means[best]


def start_search(view: View) -> list[Drawing]:
    """One figure a solver: mean quality against the fixed start step, a line a severity class; the matched start's
    quality at its mean step as a star, and its paired difference to the best fixed start in words."""
    drawings = []
    for (name, schedule), (fixed, matched) in families(view).items():
        metrics = view.metrics
        complete = [
            i for i, r in matched.items()
            if r.get("severity") is not None and all(i in of for of in fixed.values())
            and all(None not in [r.get(m.key), *(of[i].get(m.key) for of in fixed.values())] for m in metrics)
        ]  # fmt: skip
        if not complete or not metrics:
            continue
        classes = severity_classes({i: matched[i]["severity"] for i in complete})
        figure = new_figure(4.9)
        panels = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            lines = []
            for part, color, label in zip(classes, CLASSES[len(classes)], NAMES[len(classes)], strict=True):
                curve = [mean(values(of, metric.key, part)).value for of in fixed.values()]
                axes.plot(list(fixed), curve, color=color, marker=".", markersize=6)
                own = mean(values(matched, metric.key, part))
                at = sum(matched[i]["start_step"] for i in part) / len(part)
                best, best_mean = best_start(fixed, part, metric)
                star = {"s": 190, "color": color, "edgecolors": "white", "linewidths": 1.0, "zorder": 5}
                axes.scatter(at, own.value, marker="*", **star)
                axes.scatter(best, best_mean.value, s=110, facecolors="none", edgecolors=color, linewidths=1.6, zorder=4)
                differ = mean(list(paired({i: matched[i] for i in part}, fixed[best], metric).values()))
                lines.append((color, f"{label}: {differ.text(2 if metric.unit else 3, sign=True)}"))
            axes.set_xlabel(f"start step (of {schedule})")
            axes.set_ylabel(metric.axis)
            axes.margins(x=0.06, y=0.08)
            spread = max(fixed) / min((k for k in fixed if k), default=1)
            if spread > 40:
                axes.set_xscale("symlog", linthresh=min(k for k in fixed if k))
            head = f"matched \N{MINUS SIGN} best" if metric.higher else f"best \N{MINUS SIGN} matched"
            axes.text(0, 1.02 + 0.055 * len(lines), f"{head}{f', {metric.unit}' if metric.unit else ''}:",
                      transform=axes.transAxes, fontsize=9, color=SOFT, va="bottom")  # fmt: skip
            for index, (color, text) in enumerate(reversed(lines)):
                axes.text(0, 1.02 + 0.055 * index, text, transform=axes.transAxes, fontsize=9, color=color, va="bottom")
        ranges = [f"{matched[part[0]]['severity']:.3f} to {matched[part[-1]]['severity']:.3f}" for part in classes]
        handles = [
            *(axes.plot([], [], color=c, marker=".", label=f"{n}, severity {r} (n={len(p)})")[0]
              for p, c, n, r in zip(classes, CLASSES[len(classes)], NAMES[len(classes)], ranges, strict=True)),
            axes.scatter([], [], marker="*", s=150, color=SOFT, label="matched start, at its mean step"),
            axes.scatter([], [], s=90, facecolors="none", edgecolors=SOFT, linewidths=1.6, label="best fixed start"),
        ]  # fmt: skip
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
        chosen = [matched[i] for i in complete]
        caption = (
            f"Quality against the start step, solver {name}, {pictures(len(complete))} {sizes(chosen)} in {len(classes)} "
            f"{'class' if len(classes) == 1 else 'classes'} of severity, condition {view.condition}. Above the plots: mean paired difference "
            "between the matched and the best fixed start with its 95 % interval; the best is chosen on the same pictures, in its favour. "
            "A matched start takes its noise from the severity (paper eq. 9), a fixed one from its step."
        )
        title = f"Matched and fixed start steps, {name}"
        drawings.append(Drawing(f"start-search.{slug(view.condition)}.{slug(name)}-{schedule}", title, caption, figure))
    return drawings
