"""Severity against the degradation level, and what else it is made of (paper figures 4 and 5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import HuberRegressor

from flashdiff_cli.bench.figures.data import View, pictures, sizes
from flashdiff_cli.bench.figures.style import BLUE, GREEN, INK, RED, SOFT, Drawing, new_figure, show, slug, thumbnail
from flashdiff_cli.bench.records import Record

LEAST = 5
"""Fewer pictures have no trend."""
SHOWN = 3
"""Outliers that are shown on each side, and pairs of equal severity."""
NEAR, FAR = 0.05, 0.2
"""Severities are called equal within this share of each other, and levels different above this distance."""


def level_label(view: View) -> str:
    return "degradation level" + (f"\n({view.parameters})" if view.parameters else "")


def trend(levels: Sequence[float], severities: Sequence[float]) -> HuberRegressor | None:
    """Fit a Huber regression of severity on level, quadratic where there are pictures enough; outliers hardly bend it.

    Returns:
        its `predict` takes `features(levels)`; None below LEAST pictures.
    """
    if len(levels) < LEAST:
        return None
    degree = 2 if len(levels) >= 3 * LEAST else 1
    x, y = features(levels, degree), np.asarray(severities)
    scale = y.std() or 1.0
    found = HuberRegressor(max_iter=1000, alpha=0.0).fit(x, (y - y.mean()) / scale)
    # Fitted in units of the spread: Huber's threshold and the stopping rule are not free of scale.
    found.coef_, found.intercept_ = found.coef_ * scale, found.intercept_ * scale + y.mean()
    return found


def features(levels: Sequence[float], degree: int) -> np.ndarray:
    """Return powers of the level, (N, degree)."""
    return np.asarray(levels, float)[:, None] ** np.arange(1, degree + 1)


def outliers(view: View) -> tuple[list[Record], list[Record]]:
    """Return the pictures farthest above the trend and farthest below it, the farthest first.

    If the files of some pictures were kept, only those are looked at, so that they can be shown.
    """
    seen = view.seen
    model = trend([r["level"] for r in seen], [r["severity"] for r in seen])
    if model is None:
        return [], []
    residual = {r["image"]: r["severity"] - model.predict(features([r["level"]], model.n_features_in_))[0] for r in seen}
    at_hand = [r for r in seen if view.kept(r["image"], "input")] or seen
    ranked = sorted(at_hand, key=lambda r: residual[r["image"]])
    count = min(SHOWN, len(at_hand) // LEAST)
    above = [r for r in reversed(ranked) if residual[r["image"]] > 0][:count]
    return above, [r for r in ranked if residual[r["image"]] < 0][:count]


def _caption(view: View, letters: bool, above: int, shown: bool) -> str:
    """Return what the figure shows, and what its letters mean: `above` of them stand above the trend."""
    seen = view.seen
    caption = f"Severity against degradation level, {pictures(len(seen))} {sizes(seen)}, condition {view.condition}."
    if letters:
        kept = sum(view.kept(r["image"], "input") for r in seen)
        among = f" among the {kept} whose files were kept" if 0 < kept < len(seen) else ""
        caption += f" Letters: farthest above (A-{chr(64 + above)}) and below the trend{among}"
        caption += "; under the plot the clean picture and its measurement." if shown else "."
    return caption


def severity_against_level(view: View) -> Drawing | None:
    """Draw paper figure 4: one point a picture, a robust trend, and the outliers of both sides as thumbnails."""
    seen = view.seen
    if len(seen) < 2 or not view.parameters:
        return None
    above, below = outliers(view)
    tiles = [(r, color) for of, color in ((above, RED), (below, GREEN)) for r in of]
    shown = any(view.kept(r["image"], "input") for r, _ in tiles)
    figure = new_figure(6.9 if shown else 4.6)
    if shown:
        grid = figure.add_gridspec(3, 2 * SHOWN, height_ratios=(3.9, 1.3, 1.3), hspace=0.02, wspace=0.02)
        axes = figure.add_subplot(grid[0, :])
    else:
        axes = figure.add_subplot()
    levels, severities = ([r[key] for r in seen] for key in ("level", "severity"))
    axes.scatter(levels, severities, s=26 if len(seen) < 200 else 12, color=BLUE, alpha=0.6, linewidths=0, label="a picture")
    model = trend(levels, severities)
    if model is not None:
        line = np.linspace(min(levels), max(levels), 100)
        axes.plot(line, model.predict(features(line, model.n_features_in_)), color=INK, label="robust trend")
        axes.legend(loc="best")
    for letter, (r, color) in zip("ABCDEFGH", tiles, strict=False):
        axes.scatter(r["level"], r["severity"], s=60, facecolors="none", edgecolors=color, linewidths=1.6, zorder=4)
        axes.annotate(
            letter, (r["level"], r["severity"]), (0, 7 if color == RED else -7), textcoords="offset points",
            ha="center", va="bottom" if color == RED else "top", color=color, weight="bold", zorder=5,
        )  # fmt: skip
    axes.set_xlabel(level_label(view))
    axes.set_ylabel("severity (std of the latent error)")
    axes.set_xlim(-0.03, 1.03)
    axes.margins(y=0.14)
    if shown:
        for column, (letter, (r, _)) in enumerate(zip("ABCDEFGH", tiles, strict=False)):
            name = f"{letter}: {'harder' if r in above else 'easier'}"
            show(figure.add_subplot(grid[1, column]), thumbnail(view, r["image"], "clean"), over=name)
            under = f"level {r['level']:.2f}\nseverity {r['severity']:.3f}"
            show(figure.add_subplot(grid[2, column]), thumbnail(view, r["image"], "input"), under=under)
    caption = _caption(view, bool(tiles), max(len(above), 1), shown)
    return Drawing(f"severity-against-level.{slug(view.condition)}", "Severity against degradation level", caption, figure)


def equal_pairs(seen: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Return pairs (less degraded, more degraded) of nearly equal severity, the widest apart in level first; each picture once."""
    candidates = []
    ranked = sorted(seen, key=lambda r: r["severity"])
    for i, a in enumerate(ranked):
        for b in ranked[i + 1 :]:
            if b["severity"] > a["severity"] * (1 + NEAR):
                break
            if abs(a["level"] - b["level"]) >= FAR:
                candidates.append(tuple(sorted((a, b), key=lambda r: r["level"])))
    chosen, used = [], set()
    for a, b in sorted(candidates, key=lambda p: p[0]["level"] - p[1]["level"]):
        if not used & {a["image"], b["image"]}:
            chosen.append((a, b))
            used |= {a["image"], b["image"]}
    return chosen[:SHOWN]


def contributors(view: View) -> Drawing | None:
    """Draw paper figure 5: pictures of equal severity, one for its degradation, the other for its content."""
    kept = [r for r in view.seen if view.kept(r["image"], "clean", "input")]
    pairs = equal_pairs(kept) if view.parameters else []
    if not pairs:
        return None
    figure = new_figure(0.35 + 2.05 * len(pairs))
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.04)
    grid = figure.add_gridspec(len(pairs), 5, width_ratios=(1, 1, 0.12, 1, 1))
    for row, pair in enumerate(pairs):
        for column, r in zip((0, 3), pair, strict=True):
            facts = f"level {r['level']:.2f}, severity {r['severity']:.3f}"
            head = ("hard content, little degradation", "easy content, much degradation")[column // 3]
            left, right = figure.add_subplot(grid[row, column]), figure.add_subplot(grid[row, column + 1])
            show(left, thumbnail(view, r["image"], "clean"), under="clean")
            show(right, thumbnail(view, r["image"], "input"), under=facts)
            if row == 0:
                left.set_title(head, fontsize=9.5, loc="left", color=SOFT)
    caption = (
        f"Pairs of nearly equal severity (within {NEAR:.0%}) and different degradation level, of {pictures(len(kept))} "
        f"whose files were kept, condition {view.condition}: clean picture and its measurement."
    )
    return Drawing(f"equal-severity.{slug(view.condition)}", "What makes a picture hard", caption, figure)
