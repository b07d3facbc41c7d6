"""Which stored number is black and which is white, where a file's kind of number does not say it.

White is what the file says, where that holds; else it follows from where nearly all values lie, and never from the
largest one alone: a hot pixel or a highlight must not make the rest black. What lies outside is no fault of the file
and is kept (`Picture.excess`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

WHITES = (1.0, 255.0, 1023.0, 4095.0, 16383.0, 65535.0)
"""What programs take for white in floats, and in integers of more bits than are used."""
TAGS = {"low": (340, 280), "high": (341, 281)}
"""TIFF's SMinSampleValue and MinSampleValue; SMaxSampleValue and MaxSampleValue."""
SHARE, LEAST = 0.01, 4
"""Of the values this share, and at least so many, may lie above white."""
BELOW = 0.1
"""Of the pixels this share lies below 0 where black is not 0 but as far below it as white is above."""
MARGIN = 1.05
"""So far above white do sharpening and rounding reach."""
LOOKED_AT = 1_000_000
"""Pixels that are looked at, spread evenly."""


@dataclass(frozen=True)
class Scale:
    """How a file stores intensities."""

    dtype: str
    """Of its samples, as numpy names it ("uint16", "float32", ...)."""
    white: float
    black: float = 0.0
    opaque: float | None = None
    """What full opacity is stored as, where there is transparency."""

    def shares(self, values: np.ndarray) -> np.ndarray:
        """Return float32 intensities, 0 black and 1 white; what lies outside stays outside."""
        shares = values.astype(np.float32)
        # In place, here and below, so that a large picture is held once more and not four times.
        shares -= np.float32(self.black)
        shares /= np.float32(self.white - self.black)
        return shares

    def stored(self, shares: np.ndarray) -> np.ndarray:
        """Return what the file stores for intensities, rounded and held within its kind of number."""
        kind = np.dtype(self.dtype)
        work = np.float32 if kind.itemsize <= (4 if kind.kind == "f" else 2) else np.float64
        values = shares.astype(work)
        values *= work(self.white - self.black)
        values += work(self.black)
        limits = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
        if kind.kind != "f":
            np.rint(values, out=values)
        return np.clip(values, work(limits.min), work(limits.max), out=values).astype(kind)

    @property
    def plain(self) -> bool:
        """Whether it is the 16 bits that every program expects."""
        return (self.dtype, self.black, self.white) == ("uint16", 0.0, 65535.0)


def declared(tags: Mapping[int, object]) -> tuple[float | None, float | None]:
    """Return the black and the white that TIFF tags name; None where they name none, or nothing that is a number."""
    found = []
    for name in ("low", "high"):
        values = [_number(tags.get(tag)) for tag in TAGS[name]]
        found.append(next((value for value in values if value is not None), None))
    return found[0], found[1]


def _number(value: object) -> float | None:
    """Return a tag's number, of several the largest; None if there is none."""
    try:
        largest = float(np.max(np.asarray(value, dtype=np.float64))) if value is not None else None
    except (TypeError, ValueError, OverflowError):
        return None
    return largest if largest is not None and np.isfinite(largest) else None


def find_scale(values: np.ndarray, tags: Mapping[int, object] | None = None, bits: int | None = None) -> tuple[Scale, str | None]:
    """Find black and white.

    Args:
        values: (H, W, C) of any number type, colours only; what is not finite is passed over.
        tags: of a TIFF file, by number.
        bits: that each sample has in the file, where they are fewer than its type's.

    Returns:
        the scale; a note for people, if it was assumed and not what the kind of number says.
    """
    dtype = values.dtype.newbyteorder("=").name
    floats = values.dtype.kind == "f"
    full = 1.0 if floats else float(np.iinfo(dtype).max)
    seen = _sample(values)
    largest = float(np.max(values, where=np.isfinite(values), initial=seen.max(initial=0.0)))
    if not len(seen):
        return Scale(dtype, full), None
    if bits is not None and not floats and bits < np.iinfo(dtype).bits:
        return Scale(dtype, 2.0**bits - 1), None
    low, high = declared(tags or {})
    if high is not None and _believed(seen, low or 0.0, high, full, largest):
        black = low if low is not None and _plausible_black(low, high) else 0.0
        return Scale(dtype, high, black), None if (high, black) == (
            full,
            0.0,
        ) else f"white is {high:g}, as the file says"
    if floats or dtype not in ("uint8", "uint16"):
        return _evident(seen, _sample(values, darkest=True), dtype, full, largest)
    return _fewer_bits(seen, dtype, full, largest)


def _sample(values: np.ndarray, darkest: bool = False) -> np.ndarray:
    """Return (N,) float64: the brightest (or darkest) channel of pixels spread evenly, what is not finite left out."""
    step = max(1, int(np.sqrt(values.shape[0] * values.shape[1] / LOOKED_AT)))
    some = values[::step, ::step].astype(np.float64)
    nowhere = np.inf if darkest else -np.inf
    some = np.where(np.isfinite(some), some, nowhere)
    found = (some.min(-1, initial=nowhere) if darkest else some.max(-1, initial=nowhere)).ravel()
    return found[np.isfinite(found)]


def _upper(seen: np.ndarray) -> float:
    """Return the value that nearly all lie below, whatever a few do."""
    over = max(int(SHARE * len(seen)), min(LEAST, len(seen) // 8))
    return float(np.partition(seen, len(seen) - 1 - over)[len(seen) - 1 - over])


def _plausible_black(low: float, high: float) -> bool:
    """Return whether a named minimum is a scale's end and not just the darkest pixel of this picture."""
    return low == 0 or low == -high or low == -high - 1


def _believed(seen: np.ndarray, low: float, high: float, full: float, largest: float) -> bool:
    """Return whether a named maximum is white: the end of some scale, or at least not just the largest value there is."""
    if high <= low or (high > full and full > 1) or (_upper(seen) > high * MARGIN and np.median(seen) > high):
        return False
    usual = high in WHITES or ((high + 1) > 2 and float(np.log2(high + 1)).is_integer())
    return usual or not np.isclose(high, largest, rtol=1e-3)


def _evident(seen: np.ndarray, dark: np.ndarray, dtype: str, full: float, largest: float) -> tuple[Scale, str | None]:
    """Return the scale of floats and of wide or signed integers, by where nearly all values lie."""
    upper = _upper(seen)
    usual = [white for white in WHITES if white > 1 and (full == 1 or white < full)]
    if full > 1 and upper > usual[-1] * MARGIN:
        return Scale(dtype, full), None
    white = _evident_white(seen, upper, usual, full)
    lowest = np.partition(dark, len(dark) // 100)[len(dark) // 100] if (dark < -0.02 * white).mean() > BELOW else None
    if lowest is not None and full > 1 and lowest < -white * MARGIN:
        # Signed numbers around 0: white is as far from it as black.
        white = next((one for one in [*usual, full] if -lowest <= one * MARGIN), full)
    black = -white if lowest is not None and lowest >= -white * MARGIN else 0.0
    scale = Scale(dtype, white, black)
    if (white, black) == (full, 0.0):
        return scale, f"white is 1; what lies above it, up to {largest:g}, is kept as it is" if largest > 1 else None
    below = "" if not black else f", black {black:g}"
    return scale, f"the file does not say what is white; {white:g} was taken{below}, as nearly all values lie below it"


def _evident_white(seen: np.ndarray, upper: float, usual: list[float], full: float) -> float:
    """Return the white above which hardly a value lies: 1 or the end of a usual range, or, where none fits, the upper end of the values."""
    lit = seen[seen > 0]
    whole = bool(len(lit)) and lit.max() > 1 and bool((lit == lit.round()).mean() > 0.99)
    if full == 1 and not whole:
        if not len(lit) or np.median(lit) <= 1:
            return 1.0
        if upper < 255 / 16:
            # So little of 255 would be black: what is white here has no usual name.
            return upper
    return next((white for white in usual if upper <= white * MARGIN), upper)


def _fewer_bits(seen: np.ndarray, dtype: str, full: float, largest: float) -> tuple[Scale, str | None]:
    """Return the scale of unsigned integers: their whole range, unless all values are those of a sensor of fewer bits."""
    upper = _upper(seen)
    for white in (1023.0, 4095.0, 16383.0):
        if dtype != "uint16" or largest > white:
            continue
        # Many of exactly its largest value: saturated. Of 16 bits, 10 or 12 would be next to black.
        saturated = largest == white and (seen == white).sum() >= max(LEAST, 1e-4 * len(seen))
        if saturated or (white < 16383 and upper > white / 4):
            note = f"white is {white:g}, not 65535: all values are those of {int(np.log2(white + 1))} bits"
            return Scale(dtype, white), note
        break
    return Scale(dtype, full), None
