"""How figures look: colours that colour-blind readers tell apart, sizes for a column of 800 pixels, thumbnails, saving."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from PIL import Image

from flashdiff_cli.bench.figures.data import View
from flashdiff_cli.bench.records import Record, kind, one, solver
from flashdiff_cli.pictures.atomic import whole
from flashdiff_cli.pictures.limits import open_image_file

WIDTH = 8.0
"""Inches; at 100 dots an inch a figure is 800 pixels wide. PNGs are finer: DPI, those with photographs PHOTO_DPI."""
DPI, PHOTO_DPI = 200, 130
THUMBNAIL = 256
"""Longest side of a picture in a figure, in pixels."""
INK, SOFT, LINE = "#1b1f24", "#5f6b76", "#d5d9de"
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#B8A800"
"""Okabe and Ito's, the yellow darker for a white ground."""
CLASSES = {1: (BLUE,), 2: (SKY, INK), 3: (SKY, BLUE, INK)}
"""Of severity, easy to hard, by their number."""
SOLVERS = {"ldps": BLUE, "gml-dps": ORANGE, "psld": GREEN, "resample": PURPLE, "proximal": RED, "unguided": YELLOW}
BASELINES = {"input": SOFT, "decoded": SKY}
RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "hatch.linewidth": 0.8,
    "figure.dpi": 100,
    "savefig.dpi": DPI,
    "svg.fonttype": "path",
    # The same records give the same bytes.
    "svg.hashsalt": "flashdiff",
}


@dataclass(frozen=True)
class Drawing:
    """A figure with its words: the file name without ending, a title, and a caption that tells the number of pictures."""

    name: str
    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Look:
    """How an arm is drawn: in points and in bars."""

    color: str
    marker: str
    hatch: str = ""
    fill: bool = True


def slug(text: str | None) -> str:
    """Return a text as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text or "").strip("-.") or "x"


def looks(arms: Mapping[str, Mapping[str, Record]]) -> dict[str, Look]:
    """Return a look for every arm: colour by solver, marker by kind; further arms of the same solver and kind are hollow or hatched."""
    others = iter((RED, YELLOW, PURPLE, GREEN, ORANGE, INK) * 4)
    chosen: dict[str, Look] = {}
    used: dict[tuple[str, str], int] = {}
    for arm, of in arms.items():
        record = one(of)
        what, name = str(kind(record)), solver(record)
        if name is None:
            chosen[arm] = Look(BASELINES[what] if what in BASELINES else next(others), {"input": "X", "decoded": "D"}.get(what, "P"))
            continue
        again = used[what, name] = used.get((what, name), -1) + 1
        marker = {"flash": "o^*hp"[again % 5], "full": "s", "come-closer": "v"}.get(what, ".")
        hatch = {"full": "///", "come-closer": "..."}.get(what, ("", "\\\\\\", "xxx")[again % 3])
        chosen[arm] = Look(SOLVERS.get(name, RED), marker, hatch, fill=what != "full" and again == 0)
    return chosen


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure of `width` x `height` inches, on a canvas of its own."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06)
    return figure


def thumbnail(view: View, image: str, arm: str) -> np.ndarray | None:
    """Return a kept picture as (H, W, 3) bytes, at most THUMBNAIL wide or high; None if it is not there."""
    path = view.image_path(image, arm)
    if not path.is_file():
        return None
    with open_image_file(path) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def show(axes: Axes, picture: np.ndarray | None, under: str = "", over: str = "") -> None:
    """Fill axes with a picture and the words under and over it; without a picture, with a grey field."""
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if picture is None:
        axes.set_facecolor("#f0f2f4")
        axes.set_box_aspect(1)
    else:
        # Rasterised, so that the SVG holds it as finely as the PNG.
        axes.imshow(picture, interpolation="antialiased", rasterized=True)
    axes.set_xlabel(under, fontsize=8, color=INK, labelpad=3)
    axes.set_title(over, fontsize=8.5, loc="center", pad=3)


def log_ticks(axis: Axis, low: float, high: float, more: Sequence[float] = ()) -> None:
    """Put plain numbers on a logarithmic axis from `low` to `high`, as many as the range bears, and `more` besides.

    The usual ticks leave a range of a decade or so with one number or none.
    """
    steps = (1, 2, 5) if high / low < 300 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [t for t in (m * 10.0**e for e in decades for m in steps) if low <= t <= high]
    axis.set_major_locator(FixedLocator([*more, *ticks]))
    axis.set_major_formatter("{x:.6g}")
    axis.set_minor_locator(NullLocator())


def note(axes: Axes, text: str, corner: str = "upper left") -> None:
    """Write a few words in a corner of the axes."""
    vertical, horizontal = corner.split()
    x, y = {"left": 0.02, "right": 0.98}[horizontal], {"upper": 0.97, "lower": 0.03}[vertical]
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2}
    align: dict[str, Any] = {"ha": horizontal, "va": {"upper": "top", "lower": "bottom"}[vertical]}
    axes.text(x, y, text, transform=axes.transAxes, fontsize=9, color=INK, bbox=box, zorder=9, **align)


def save(drawing: Drawing, folder: Path) -> list[Path]:
    """Write a figure as PNG and SVG; the same figure gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{drawing.name}.{ending}" for ending in ("png", "svg")]
    words = {"Title": drawing.title, "Description": drawing.caption}
    # Thumbnails are small: finer would only be larger.
    dpi = PHOTO_DPI if any(axes.images for axes in drawing.figure.axes) else DPI
    with whole(paths[0]) as file:
        drawing.figure.savefig(file, format="png", dpi=dpi, metadata=words | {"Software": "flashdiff"})
    # What was laid out stays where it is; to lay it out again takes as long as to draw it.
    drawing.figure.set_layout_engine("none")
    with whole(paths[1]) as file:
        drawing.figure.savefig(file, format="svg", metadata=words | {"Date": None, "Creator": "flashdiff"})
    return paths
