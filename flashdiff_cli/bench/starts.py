"""The matched start against the best fixed one, found by search, for classes of severity (paper figure 2).

Arms are given by name, each as records by picture: plain dictionaries, lines of `records.jsonl` that are done.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from flashdiff_cli.bench.metrics import LOWER_IS_BETTER
from flashdiff_cli.bench.records import Record, blind, kind, one, solver
from flashdiff_cli.stats import mean_interval

Arm = Mapping[str, Record]
"""Records by picture."""
NAMES = {1: ("all",), 2: ("easy", "hard"), 3: ("easy", "middle", "hard")}
"""Of the classes of severity, by their number."""
SEARCHED = ("psnr", "ssim", "gmsd", "haarpsi", "lpips_vgg", "lpips_alex")
"""Measures that a best start is looked for in; all but the first are perceptual."""


def families(arms: Mapping[str, Arm]) -> dict[tuple[str, int], tuple[dict[int, Arm], Arm]]:
    """Return (fixed starts by rising step, the matched start) for each solver and length of schedule that has two of those and this.

    Of several matched ones the first counts. Arms that estimate the degradation are left out.
    """
    fixed: dict[tuple, dict[int, Arm]] = {}
    matched: dict[tuple, Arm] = {}
    for of in filter(None, arms.values()):
        first = one(of)
        what, key = kind(first), (solver(first), first.get("schedule_steps"))
        if what not in ("fixed", "flash") or blind(first):
            continue
        if what == "fixed":
            fixed.setdefault(key, {})[int(first["start"])] = of
        else:
            matched.setdefault(key, of)
    return {key: (dict(sorted(fixed[key].items())), matched[key]) for key in fixed if key in matched and len(fixed[key]) > 1}


def _has(record: Record, measure: str) -> bool:
    found = record.get(measure)
    return found is not None and math.isfinite(found)


def complete(fixed: Mapping[int, Arm], matched: Arm, measures: Sequence[str]) -> list[str]:
    """Return the pictures that have a severity, all starts and all measures."""
    arms = [matched, *fixed.values()]
    has = {i: all(i in of and all(_has(of[i], m) for m in measures) for of in arms) for i in matched}
    return [i for i, r in matched.items() if has[i] and r.get("severity") is not None]


def severity_classes(severities: Mapping[str, float], least: int = 3) -> list[list[str]]:
    """Return pictures split at the terciles of severity, easy first; into fewer classes where some would hold less than `least`."""
    ranked = sorted(severities, key=lambda image: (severities[image], image))
    count = max(1, min(3, len(ranked) // least))
    size, more = divmod(len(ranked), count)
    ends = [i * size + min(i, more) for i in range(count + 1)]
    return [ranked[a:b] for a, b in pairwise(ends)] if ranked else []


def _mean(of: Arm, measure: str, images: Sequence[str]) -> float:
    return math.fsum(of[i][measure] for i in images) / len(images)


def best_start(fixed: Mapping[int, Arm], images: Sequence[str], measure: str) -> tuple[int, float]:
    """Return the fixed start step with the best mean of a measure over pictures that all have it, and that mean; of equals the lowest step."""
    means = {start: _mean(of, measure, images) for start, of in fixed.items()}
    best = (min if measure in LOWER_IS_BETTER else max)(sorted(means), key=means.__getitem__)
    return best, means[best]


def _against_best(fixed: Mapping[int, Arm], matched: Arm, images: Sequence[str], measure: str) -> dict[str, Any]:
    best, best_mean = best_start(fixed, images, measure)
    difference = mean_interval([matched[i][measure] - fixed[best][i][measure] for i in images])
    percent = None if measure == "psnr" or not best_mean else 100 * difference["mean"] / best_mean
    own = _mean(matched, measure, images)
    return {"best_start": best, "best_mean": best_mean, "matched_mean": own, "difference": difference, "percent": percent}


def start_search(arms: Mapping[str, Arm], measures: Sequence[str]) -> list[dict[str, Any]]:
    """Return for each solver and length of schedule with fixed starts and a matched one, how near the matched one comes to the best.

    The best is chosen for each class and measure on the same pictures, in its favour.

    Args:
        arms: of one condition.
        measures: of the protocol. One that an arm lacks is left out; pictures that lack one of the others are, too.

    Returns:
        A dictionary each, with the matched `arm`, `solver`, `schedule_steps`, the `fixed` steps, and `classes`, easy first: `name`, `n`,
        `severity` (lowest, highest), `start_step` (mean matched one) and by measure `best_start`, `best_mean`, `matched_mean`,
        `difference` (matched minus best, paired: mean, low, high, n), and of perceptual measures its `percent` of the best's mean.
    """
    found = []
    for (name, schedule), (fixed, matched) in families(arms).items():
        every = (matched, *fixed.values())
        shown = [m for m in SEARCHED if m in measures and all(any(_has(r, m) for r in of.values()) for of in every)]
        images = complete(fixed, matched, shown) if shown else []
        if not images:
            continue
        parts = severity_classes({i: matched[i]["severity"] for i in images})
        classes = [
            {
                "name": of,
                "n": len(part),
                "severity": [matched[part[0]]["severity"], matched[part[-1]]["severity"]],
                "start_step": _mean(matched, "start_step", part),
                "measures": {m: _against_best(fixed, matched, part, m) for m in shown},
            }
            for part, of in zip(parts, NAMES[len(parts)], strict=True)
        ]
        arm = one(matched)["arm"]
        found.append({"arm": arm, "solver": name, "schedule_steps": schedule, "fixed": list(fixed), "classes": classes})
    return found
