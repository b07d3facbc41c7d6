"""What figures need of records: which belong together, means with intervals, classes of severity.

A record is a plain dictionary, one line of `records.jsonl`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from flashdiff_cli.bench.records import Record, blind, kind, one
from flashdiff_cli.stats import mean_interval, ordering_shares

SWEEP = "severity"
"""The arm of records that measure a picture at rising levels and restore nothing."""


@dataclass(frozen=True)
class Metric:
    """A measure of quality: its key in records, how it is written on an axis, and which way is better."""

    key: str
    label: str
    unit: str = ""
    higher: bool = True

    @property
    def axis(self) -> str:
        return self.label + (f" ({self.unit})" if self.unit else "") + ("" if self.higher else ", lower is better")

    def gain(self, value: float, reference: float) -> float:
        """Return by how much a value is better than another; above 0: better, whichever way the metric runs."""
        return value - reference if self.higher else reference - value


PSNR = Metric("psnr", "PSNR", "dB")
PERCEPTUAL = (
    Metric("lpips_vgg", "LPIPS (VGG)", higher=False),
    Metric("lpips_alex", "LPIPS (Alex)", higher=False),
    Metric("haarpsi", "HaarPSI"),
    Metric("gmsd", "GMSD", higher=False),
    Metric("ms_ssim", "MS-SSIM"),
    Metric("ssim", "SSIM"),
)
"""The nearest to what people see first; figures show the first that was measured."""


KINDS = ("input", "classical", "decoded", "come-closer", "fixed", "full", "flash")
"""Order of arms in figures: from what costs nothing to the method."""


@dataclass(frozen=True)
class View:
    """The records that one figure is about, and the files beside them.

    Attributes:
        records: all that are done, the latest of each measurement and arm.
        folder: the bench folder, with `images/` in it if pictures were kept.
        condition: the one that all records are of; None: several.
    """

    records: Sequence[Record]
    folder: Path
    condition: str | None = None

    @classmethod
    def of(cls, records: Iterable[Record], folder: Path) -> View:
        """Keep what is done; a later record of the same measurement and arm replaces an earlier one."""
        latest = {}
        for record in records:
            # What is not finite (the PSNR of a perfect copy) has no place on an axis.
            r = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
            latest[r["condition"], r["arm"], r["image"], r.get("level") if r["arm"] == SWEEP else None] = r
        return cls([r for r in latest.values() if r.get("status") == "done"], Path(folder))

    @cached_property
    def conditions(self) -> list[str]:
        """In the order of their first record."""
        return list(dict.fromkeys(r["condition"] for r in self.records))

    def only(self, condition: str) -> View:
        return View([r for r in self.records if r["condition"] == condition], self.folder, condition)

    @cached_property
    def arms(self) -> dict[str, dict[str, Record]]:
        """Records by arm and picture, of one condition, without the sweep; arms by KINDS, then as the records have them."""
        found: dict[str, dict[str, Record]] = {}
        for r in self.records:
            if r["arm"] != SWEEP:
                found.setdefault(r["arm"], {})[r["image"]] = r
        order = {arm: self._rank(one(of)) for arm, of in found.items()}
        return {arm: found[arm] for arm in sorted(found, key=order.__getitem__)}

    @staticmethod
    def _rank(record: Record) -> tuple:
        what = kind(record)
        rank = KINDS.index(what) if what in KINDS else len(KINDS)
        return rank, blind(record), int(record["start"]) if what == "fixed" else 0

    def of_kind(self, *kinds: str) -> dict[str, dict[str, Record]]:
        return {arm: of for arm, of in self.arms.items() if kind(one(of)) in kinds}

    @cached_property
    def sweep(self) -> dict[str, list[Record]]:
        """Records of the severity sweep by picture, level rising; only pictures that have all the levels."""
        found: dict[str, dict[float, Record]] = {}
        for r in self.records:
            if r["arm"] == SWEEP and r.get("severity") is not None and r.get("level") is not None:
                found.setdefault(r["image"], {})[r["level"]] = r
        whole = max((len(of) for of in found.values()), default=0)
        return {image: [of[t] for t in sorted(of)] for image, of in found.items() if len(of) == whole > 1}

    @cached_property
    def seen(self) -> list[Record]:
        """One record a picture that tells level and severity; all arms of a picture saw the same measurement."""
        found: dict[str, Record] = {}
        order = sorted(self.arms.values(), key=lambda of: (kind(one(of)) != "flash", blind(one(of))))
        for of in order:
            for image, r in of.items():
                if r.get("severity") is not None and r.get("level") is not None:
                    found.setdefault(image, r)
        return list(found.values())

    @cached_property
    def perceptual(self) -> Metric | None:
        """The first perceptual metric that every arm with a PSNR has."""
        rated = [r for r in self.records if r.get("psnr") is not None]
        arms = {r["arm"] for r in rated}
        for metric in PERCEPTUAL:
            if arms and {r["arm"] for r in rated if r.get(metric.key) is not None} == arms:
                return metric
        return None

    @property
    def metrics(self) -> list[Metric]:
        """PSNR and the perceptual metric, as far as they were measured."""
        found = [PSNR] if any(r.get("psnr") is not None for r in self.records) else []
        return found + ([self.perceptual] if self.perceptual else [])

    def image_path(self, image: str, arm: str) -> Path:
        """Return where the runner keeps the picture of an arm ("input" and "clean" as well)."""
        return self.folder / "images" / str(self.condition) / Path(image).with_suffix("") / f"{arm}.png"

    def kept(self, image: str, *arms: str) -> bool:
        """Return whether the files of a picture are there, for all of these arms."""
        return all(self.image_path(image, arm).is_file() for arm in arms)

    @property
    def parameters(self) -> str:
        """The operator's parameters that the level sets, with their ranges: "blur std 0.3 to 3"."""
        values: dict[str, list[tuple[float, float]]] = {}
        for r in self.records:
            for name, value in (r.get("operator") or {}).items():
                if isinstance(value, (int, float)) and not isinstance(value, bool) and r.get("level") is not None:
                    values.setdefault(name, []).append((r["level"], value))
        words = []
        for name, pairs in values.items():
            level, value = np.array(pairs, float).T
            # Others are drawn without it, as the place of a box; a protocol's ranges are linear in the level.
            if np.ptp(value) > 1e-6 and np.ptp(level) > 1e-6 and abs(np.corrcoef(level, value)[0, 1]) > 0.98:
                words.append(f"{name.replace('_', ' ')} {value.min():.3g} to {value.max():.3g}")
        return ", ".join(words)


@dataclass(frozen=True)
class Mean:
    """A mean over pictures with its 95 % bootstrap interval; low and high are None for a single picture."""

    value: float
    low: float | None
    high: float | None
    count: int

    @property
    def reach(self) -> tuple[float, float]:
        """Lengths of the interval below and above the mean; 0 where there is none."""
        return (0.0, 0.0) if self.low is None or self.high is None else (max(self.value - self.low, 0.0), max(self.high - self.value, 0.0))

    def text(self, digits: int = 2, sign: bool = False) -> str:
        """Return `+0.12 [+0.05, +0.19]`."""
        form = f"{{:{'+' if sign else ''}.{digits}f}}"
        inside = "" if self.low is None else f" [{form.format(self.low)}, {form.format(self.high)}]"
        return (form.format(self.value) + inside).replace("-", "\N{MINUS SIGN}")


def mean(values: Sequence[float], seed: int = 0) -> Mean | None:
    """Return mean and 95 % bootstrap interval (`mean_interval`); None of no values.

    Args:
        values: one a picture. For a paired difference, the differences.
        seed: of the resampling.
    """
    found = mean_interval(values, seed)
    return Mean(found["mean"], found["low"], found["high"], found["n"]) if found["n"] else None


def some_mean(values: Sequence[float], seed: int = 0) -> Mean:
    """Return the `mean` of values of which there are some.

    Raises:
        ValueError: there are none.
    """
    found = mean(values, seed)
    if found is None:
        raise ValueError("a mean of no values")
    return found


def values(of: Mapping[str, Record], key: str, images: Iterable[str] | None = None) -> list[float]:
    """Return a key's values over pictures, those without one left out."""
    return [of[i][key] for i in (of if images is None else images) if i in of and of[i].get(key) is not None]


def paired(of: Mapping[str, Record], reference: Mapping[str, Record], metric: Metric) -> dict[str, float]:
    """Return by picture the gain of an arm over another; only pictures that have the metric in both."""
    both = [i for i in of if i in reference and None not in (of[i].get(metric.key), reference[i].get(metric.key))]
    return {i: metric.gain(of[i][metric.key], reference[i][metric.key]) for i in both}


def ordering(sweep: Mapping[str, Sequence[Record]]) -> list[float]:
    """Return for each picture the share of pairs of levels that severity puts in the right order (paper Definition 1)."""
    return [float(ordering_shares([[r["severity"] for r in of]])[0]) for of in sweep.values()]


def sizes(records: Iterable[Record]) -> str:
    """Return "128 x 128", or "different sizes"."""
    found = {(r["width"], r["height"]) for r in records if r.get("width")}
    return "" if not found else f"of {min(found)[0]} x {min(found)[1]} pixels" if len(found) == 1 else "of different sizes"


def pictures(count: int) -> str:
    return f"{count} picture" + ("" if count == 1 else "s")
