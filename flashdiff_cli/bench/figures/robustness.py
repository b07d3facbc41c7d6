"""What arms gain over the input under each condition."""

from __future__ import annotations

from collections import Counter

from flashdiff_cli.bench.figures.data import Mean, Metric, View, kind, mean, paired, sizes
from flashdiff_cli.bench.figures.style import INK, RED, SOFT, Drawing, looks, new_figure

SHOWN = ("classical", "decoded", "come-closer", "full", "flash")


def gains(view: View, metric: Metric) -> dict[tuple[str, str], Mean]:
    """Mean paired gain over the input by condition and arm, where both were measured on the same pictures."""
    found = {}
    for condition in view.conditions:
        part = view.only(condition)
        reference = next(iter(part.of_kind("input").values()), {})
        for arm, of in part.of_kind(*SHOWN).items():
            gain = mean(list(paired(of, reference, metric).values()))
            if gain is not None:
                found[condition, arm] = gain
    return found


def worst(view: View, found: dict[tuple[str, str], Mean]) -> tuple[str, str] | None:
    """The condition and arm with the least gain: among arms with a matched start if there are any."""
    flash = {r["arm"] for r in view.records if kind(r) == "flash"}
    cells = [cell for cell in found if cell[1] in flash] or list(found)
    return min(cells, key=lambda cell: found[cell].value, default=None)


def robustness(view: View) -> Drawing | None:
    """Bars of the gain with paired intervals, a group a condition, for arms of at least two; the worst cell is marked."""
    tables = {metric: gains(view, metric) for metric in view.metrics}
    # An arm of one condition compares with nothing here.
    often = Counter(arm for cell in {cell for found in tables.values() for cell in found} for arm in cell[1:])
    tables = {metric: {cell: gain for cell, gain in found.items() if often[cell[1]] > 1} for metric, found in tables.items()}
    tables = {metric: found for metric, found in tables.items() if found}
    if not tables:
        return None
    conditions = [c for c in view.conditions if any((c, a) in f for f in tables.values() for _, a in f)]
    named = {arm: of for c in reversed(conditions) for arm, of in view.only(c).arms.items()}
    order = [arm for c in conditions for arm in view.only(c).of_kind(*SHOWN)]
    arms = [arm for arm in named if arm in order and any((c, arm) in f for f in tables.values() for c in conditions)]
    arms.sort(key=lambda arm: (SHOWN.index(kind(next(iter(named[arm].values())))), order.index(arm)))
    look = looks({arm: named[arm] for arm in arms})
    thick = 0.8 / len(arms)
    figure = new_figure(1.3 + len(conditions) * max(0.34, 0.17 * len(arms)) + 0.08 * len(arms))
    panels = figure.subplots(1, len(tables), squeeze=False, sharey=True)[0]
    for axes, (metric, found) in zip(panels, tables.items(), strict=True):
        for j, arm in enumerate(arms):
            cells = [(i, found[c, arm]) for i, c in enumerate(conditions) if (c, arm) in found]
            places = [i + (j - (len(arms) - 1) / 2) * thick for i, _ in cells]
            values = [gain.value for _, gain in cells]
            reach = list(zip(*(gain.reach for _, gain in cells), strict=True)) if cells else [(), ()]
            paint = {"facecolor": look[arm].color, "edgecolor": "white", "hatch": look[arm].hatch, "linewidth": 0.5}
            axes.barh(places, values, thick, label=arm, **paint)
            axes.errorbar(values, places, xerr=reach, fmt="none", ecolor=INK, elinewidth=0.9, capsize=1.5)
        axes.axvline(0, color=INK, linewidth=1)
        for i, c in enumerate(conditions):
            for j, arm in enumerate(arms):
                if (c, arm) not in found:
                    axes.annotate("not run", (0, i + (j - (len(arms) - 1) / 2) * thick), (4, 0), textcoords="offset points",
                                  va="center", color=SOFT, fontsize=8)  # fmt: skip
        cell = worst(view, found)
        gain = found[cell]
        place = conditions.index(cell[0]) + (arms.index(cell[1]) - (len(arms) - 1) / 2) * thick
        axes.margins(x=0.12)
        end = gain.value + gain.reach[1] if gain.value >= 0 else gain.value - gain.reach[0]
        axes.annotate("\N{BLACK LEFT-POINTING POINTER} worst" if gain.value >= 0 else "worst \N{BLACK RIGHT-POINTING POINTER}", (end, place),
                      (4 if gain.value >= 0 else -4, 0), textcoords="offset points", va="center",
                      ha="left" if gain.value >= 0 else "right", color=RED, fontsize=9, weight="bold")  # fmt: skip
        axes.set_xlabel(f"{metric.label} gain over the input" + (f" ({metric.unit})" if metric.unit else ""))
        axes.grid(False, axis="y")
    panels[0].set_yticks(range(len(conditions)), conditions)
    panels[0].set_ylim(len(conditions) - 0.5, -0.5)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    metric, first = next(iter(tables.items()))
    counts = sorted({gain.count for gain in first.values()})
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    cell = worst(view, first)
    matched = " from a matched start" if any(r["arm"] == cell[1] and kind(r) == "flash" for r in view.records) else ""
    caption = (
        f"Mean gain over the degraded input with paired 95 % bootstrap intervals; {many} pictures {sizes(view.records)} for each "
        f"condition and arm. Right is better. Least {metric.label} gain{matched}: {cell[1]} under {cell[0]}, {first[cell].text(sign=True)}."
    )
    return Drawing("robustness", "Gain over the input under each condition", caption, figure)
