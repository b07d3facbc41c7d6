"""Statistics of tables, figures and training: bootstrap intervals, rank correlation and the order of levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

RESAMPLES = 2000
COVERAGE = 0.95


def mean_interval(values: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """Return the mean, its 95 % percentile bootstrap interval (2000 resamples of the pictures) and the number of values.

    Args:
        values: finite, one a picture; of one picture there is no interval. For a paired difference, the differences.
        seed: of the resampling.

    Returns:
        `n`, `mean`, `low` and `high`; None for what so few values do not have.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return {"n": len(x), "mean": float(x[0]) if len(x) else None, "low": None, "high": None}
    found = stats.bootstrap(
        (x,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=COVERAGE,
        method="percentile",
        random_state=np.random.default_rng(seed),  # pyright: ignore[reportCallIssue]  # older releases know no `rng`
    ).confidence_interval
    return {"n": len(x), "mean": float(x.mean()), "low": float(found.low), "high": float(found.high)}


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Return the rank correlation of two (N,) samples; equal values share a rank. NaN where one of them is constant."""
    return _correlation(stats.spearmanr, a, b)


def pearson(a: ArrayLike, b: ArrayLike) -> float:
    """Return the linear correlation of two (N,) samples. NaN where one of them is constant."""
    return _correlation(stats.pearsonr, a, b)


def _correlation(rule: Callable[..., Any], a: ArrayLike, b: ArrayLike) -> float:
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if len(x) < 2 or not np.ptp(x) or not np.ptp(y):
        return math.nan
    return float(rule(x, y).statistic)


def ordering_shares(variances: ArrayLike) -> np.ndarray:
    """Return, for each image, the share of the pairs of levels i < j with variance_i <= variance_j (paper Definition 1).

    Args:
        variances: (images, levels), levels rising.

    Returns:
        (images,).
    """
    v = np.asarray(variances, dtype=np.float64)
    first, second = np.triu_indices(v.shape[1], 1)
    return (v[:, first] <= v[:, second]).mean(axis=1)


def ordering_accuracy(variances: ArrayLike) -> float:
    """Return the share of the pairs of degradation levels in the right order, over all images (`ordering_shares`)."""
    return float(ordering_shares(variances).mean())
