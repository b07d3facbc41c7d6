"""What arms gain over the input under each condition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from flashdiff_cli.bench.figures.data import Mean, Metric, View, mean, paired, pictures, sizes
from flashdiff_cli.bench.figures.style import INK, RED, SOFT, Drawing, Look, looks, new_figure
from flashdiff_cli.bench.records import Record, kind, one

SHOWN = ("classical", "decoded", "come-closer", "full", "flash")


def gains(view: View, metric: Metric) -> dict[tuple[str, str], Mean]:
    """Return the mean paired gain over the input by condition and arm, where both were measured on the same pictures."""
    found = {}
    for condition in view.conditions:
        part = view.only(condition)
        reference = next(iter(part.of_kind("input").values()), {})
        for arm, of in part.of_kind(*SHOWN).items():
            gain = mean(list(paired(of, reference, metric).values()))
            if gain is not None:
                found[condition, arm] = gain
    return found


def worst(view: View, found: Mapping[tuple[str, str], Mean]) -> tuple[str, str]:
    """Return the condition and arm with the least gain: among arms with a matched start if there are any."""
    flash = {r["arm"] for r in view.records if kind(r) == "flash"}
    cells = [cell for cell in found if cell[1] in flash] or list(found)
    return min(cells, key=lambda cell: found[cell].value)


def _arms(view: View, tables: Mapping[Metric, Mapping[tuple[str, str], Mean]]) -> dict[str, Mapping[str, Record]]:
    """Return the arms of some tables with records of theirs, by kind and then as the records have them."""
    wanted = {arm for found in tables.values() for _, arm in found}
    arms: dict[str, Mapping[str, Record]] = {}
    for condition in view.conditions:
        for arm, of in view.only(condition).of_kind(*SHOWN).items():
            if arm in wanted:
                arms.setdefault(arm, of)
    return dict(sorted(arms.items(), key=lambda item: SHOWN.index(kind(one(item[1])))))


def _several(tables: Mapping[Metric, Mapping[tuple[str, str], Mean]]) -> dict[Metric, dict[tuple[str, str], Mean]]:
    """Return tables without the arms of a single condition, which compare with nothing, and without what is then empty."""
    cells = {cell for found in tables.values() for cell in found}
    often = Counter(arm for _, arm in cells)
    kept = {metric: {cell: gain for cell, gain in found.items() if often[cell[1]] > 1} for metric, found in tables.items()}
    return {metric: found for metric, found in kept.items() if found}


OFFSET: dict[str, Any] = {"textcoords": "offset points", "va": "center"}


def _bars(axes: Axes, places: Sequence[float], found: Sequence[Mean], thick: float, look: Look, arm: str) -> None:
    """Draw the gains of one arm, with their intervals."""
    values = [gain.value for gain in found]
    paint = {"facecolor": look.color, "edgecolor": "white", "hatch": look.hatch, "linewidth": 0.5}
    axes.barh(places, values, thick, label=arm, **paint)
    reach = np.reshape([gain.reach for gain in found], (-1, 2)).T
    axes.errorbar(values, places, xerr=reach, fmt="none", ecolor=INK, elinewidth=0.9, capsize=1.5)


def _mark_worst(axes: Axes, gain: Mean, place: float) -> None:
    strong: dict[str, Any] = {"color": RED, "fontsize": 9, "weight": "bold"}
    if gain.value >= 0:
        end = (gain.value + gain.reach[1], place)
        axes.annotate("\N{BLACK LEFT-POINTING POINTER} worst", end, (4, 0), ha="left", **strong, **OFFSET)
    else:
        end = (gain.value - gain.reach[0], place)
        axes.annotate("worst \N{BLACK RIGHT-POINTING POINTER}", end, (-4, 0), ha="right", **strong, **OFFSET)


def _caption(view: View, tables: Mapping[Metric, Mapping[tuple[str, str], Mean]], arms: Mapping[str, Mapping[str, Record]]) -> str:
    metric, found = next(iter(tables.items()))
    counts = sorted({gain.count for gain in found.values()})
    many = pictures(counts[0]) if len(counts) == 1 else f"{counts[0]} to {pictures(counts[-1])}"
    least = worst(view, found)
    matched = " from a matched start" if kind(one(arms[least[1]])) == "flash" else ""
    return (
        f"Mean gain over the degraded input with paired 95 % bootstrap intervals; {many} {sizes(view.records)} for each "
        f"condition and arm. Right is better. Least {metric.label} gain{matched}: {least[1]} under {least[0]}, "
        f"{found[least].text(2 if metric.unit else 3, sign=True)}."
    )


def robustness(view: View) -> Drawing | None:
    """Draw bars of the gain with paired intervals, a group a condition, for arms of at least two; the worst cell is marked."""
    tables = _several({metric: gains(view, metric) for metric in view.metrics})
    if not tables:
        return None
    conditions = [c for c in view.conditions if any(c == cell[0] for found in tables.values() for cell in found)]
    arms = _arms(view, tables)
    look, thick = looks(arms), 0.8 / len(arms)
    middle = (len(arms) - 1) / 2
    place = {(c, arm): i + (j - middle) * thick for i, c in enumerate(conditions) for j, arm in enumerate(arms)}
    figure = new_figure(1.3 + len(conditions) * max(0.34, 0.17 * len(arms)) + 0.08 * len(arms))
    panels = figure.subplots(1, len(tables), squeeze=False, sharey=True)[0]
    for axes, (metric, found) in zip(panels, tables.items(), strict=True):
        for arm in arms:
            cells = [(c, arm) for c in conditions if (c, arm) in found]
            _bars(axes, [place[cell] for cell in cells], [found[cell] for cell in cells], thick, look[arm], arm)
        axes.axvline(0, color=INK, linewidth=1)
        for cell in place.keys() - found.keys():
            axes.annotate("not run", (0, place[cell]), (4, 0), color=SOFT, fontsize=8, **OFFSET)
        least = worst(view, found)
        _mark_worst(axes, found[least], place[least])
        axes.set_xlabel(f"{metric.label} gain over the input" + (f" ({metric.unit})" if metric.unit else ""))
        axes.margins(x=0.12)
        axes.grid(False, axis="y")
    panels[0].set_yticks(range(len(conditions)), conditions)
    panels[0].set_ylim(len(conditions) - 0.5, -0.5)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return Drawing("robustness", "Gain over the input under each condition", _caption(view, tables, arms), figure)
