"""The estimated against the true variance of the latent error."""

from __future__ import annotations

import math

import numpy as np

from flashdiff_cli.bench.figures.data import View, pictures, sizes
from flashdiff_cli.bench.figures.style import INK, Drawing, log_ticks, new_figure, note, slug
from flashdiff_cli.stats import pearson, spearman

LEAST = 8
"""The axes reach over at least this ratio."""


def error_variance(view: View) -> Drawing | None:
    """Draw error against variance, log-log, a point a picture, coloured by level, with both correlations (of the logarithms for Pearson's)."""
    seen = [r for r in view.seen if (r.get("variance") or 0) > 0 and (r.get("error_variance") or 0) > 0]
    if not seen:
        return None
    true, guess = (np.array([r[key] for r in seen]) for key in ("error_variance", "variance"))
    figure = new_figure(5.2, 6.6)
    axes = figure.add_subplot()
    low, high = min(true.min(), guess.min()) * 0.8, max(true.max(), guess.max()) * 1.25
    room = max(1.0, math.sqrt(LEAST / (high / low)))
    low, high = low / room, high * room
    axes.plot([low, high], [low, high], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="equal")
    points = axes.scatter(true, guess, c=[r["level"] for r in seen], cmap="viridis", vmin=0, vmax=1, s=28, alpha=0.85, linewidths=0)
    figure.colorbar(points, ax=axes, label="degradation level", shrink=0.8, pad=0.02)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    log_ticks(axes.xaxis, low, high)
    log_ticks(axes.yaxis, low, high)
    axes.set_xlabel("true variance of the latent error")
    axes.set_ylabel("estimated variance")
    axes.legend(loc="lower right")
    numbers = ""
    if len(seen) > 2 and np.ptp(true) > 0 and np.ptp(guess) > 0:
        rank, straight = spearman(true, guess), pearson(np.log(true), np.log(guess))
        numbers = f"Spearman {rank:.3f}\nPearson {straight:.3f} (logarithms)".replace("-", "\N{MINUS SIGN}")
        note(axes, numbers)
    caption = f"Estimated against true error variance of the latent estimate, {pictures(len(seen))} {sizes(seen)}, condition {view.condition}."
    return Drawing(f"error-variance.{slug(view.condition)}", "Estimated against true error", caption, figure)
