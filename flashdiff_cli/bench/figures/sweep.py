"""Severity of the same pictures under a rising degradation level (paper figure 3)."""

from __future__ import annotations

import numpy as np

from flashdiff_cli.bench.figures.data import View, ordering, pictures, sizes, some_mean
from flashdiff_cli.bench.figures.level import level_label
from flashdiff_cli.bench.figures.style import BLUE, RED, SOFT, Drawing, new_figure, note, slug

SINGLE = 5
"""Pictures that are drawn as lines of their own, spread from the easiest to the hardest."""


def severity_sweep(view: View) -> Drawing | None:
    """Draw median, quartiles and single pictures over the level; the start step on an axis of its own."""
    sweep = view.sweep
    if not sweep:
        return None
    severities = np.array([[r["severity"] for r in of] for of in sweep.values()])
    levels = [r["level"] for r in next(iter(sweep.values()))]
    figure = new_figure(4.6)
    axes = figure.add_subplot()
    order = severities.mean(1).argsort()
    chosen = order[np.unique(np.linspace(0, len(order) - 1, min(SINGLE, len(order))).round().astype(int))]
    for index, row in enumerate(severities[chosen]):
        axes.plot(levels, row, color=SOFT, linewidth=0.9, alpha=0.8, label="single pictures" if index == 0 else None)
    if len(severities) > 1:
        low, middle, high = np.percentile(severities, [25, 50, 75], axis=0)
        axes.fill_between(levels, low, high, color=BLUE, alpha=0.22, linewidth=0, label="quartiles")
        axes.plot(levels, middle, color=BLUE, linewidth=2.4, label="median severity")
    axes.set_xlabel(level_label(view))
    axes.set_ylabel("severity (std of the latent error)", color=BLUE)
    axes.set_ylim(bottom=0, top=severities.max() * 1.25)
    lines, labels = axes.get_legend_handles_labels()
    whole = {r.get("schedule_steps") for of in sweep.values() for r in of}
    if all(r.get("start_step") is not None for of in sweep.values() for r in of):
        starts = np.median([[r["start_step"] for r in of] for of in sweep.values()], axis=0)
        twin = axes.twinx()
        twin.grid(False)
        twin.spines["right"].set_visible(True)
        twin.plot(levels, starts, color=RED, linestyle=(0, (5, 2)), marker="o", markersize=3.5, label="median start step")
        twin.set_ylim(bottom=0, top=max(starts.max() * 1.25, 1))
        twin.set_ylabel("matched start step" + (f" (of {whole.pop()})" if len(whole) == 1 else ""), color=RED)
        more = twin.get_legend_handles_labels()
        lines, labels = lines + more[0], labels + more[1]
    axes.legend(lines, labels, loc="lower right", ncols=2)
    share = some_mean(ordering(sweep))
    note(axes, f"ordering accuracy {share.text(3)}")
    caption = (
        f"Severity of the same {pictures(len(sweep))} {sizes(r for of in sweep.values() for r in of)} at {len(levels)} levels, "
        f"fresh noise at each, condition {view.condition}. Ordering accuracy: share of pairs of levels that severity puts in order"
        f"{', with its 95 % interval over pictures' if share.low is not None else ''}."
    )
    return Drawing(f"severity-sweep.{slug(view.condition)}", "Severity under rising degradation", caption, figure)
