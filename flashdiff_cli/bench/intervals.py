"""Means over pictures with bootstrap intervals, for tables and figures alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
COVERAGE = 95.0


def mean_interval(values: Sequence[float], seed: int = 0) -> dict[str, float | int | None]:
    """Mean, its 95 % percentile bootstrap interval (2000 resamples of the pictures) and the number of values.

    Args:
        values: finite, one a picture; of one picture there is no interval. For a paired difference, the differences.
        seed: of the resampling.
    """
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        return {"n": 0, "mean": None, "low": None, "high": None}
    if len(x) == 1:
        return {"n": 1, "mean": float(x[0]), "low": None, "high": None}
    rows = np.random.default_rng(seed).integers(0, len(x), (RESAMPLES, len(x)))
    tail = (100 - COVERAGE) / 2
    low, high = np.percentile(x[rows].mean(1), [tail, 100 - tail])
    return {"n": len(x), "mean": float(x.mean()), "low": float(low), "high": float(high)}
