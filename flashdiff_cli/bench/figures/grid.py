"""Before and after: pictures in rows, arms in columns."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from flashdiff_cli.bench.figures.data import View, pictures, sizes
from flashdiff_cli.bench.figures.style import WIDTH, Drawing, new_figure, show, slug, thumbnail
from flashdiff_cli.bench.records import one

ROWS, CONDITIONS = 6, 12


def columns(view: View) -> list[str]:
    """Return arms to show, in this order: input, a classical one, decoded, pure noise and matched start of one solver; then clean.

    Of several solvers, the first is shown whose matched start is there; otherwise the first with pure noise.
    """
    classical, full, flash = (list(view.of_kind(k)) for k in ("classical", "full", "flash"))
    pick = [a for a in classical if any(view.kept(i, a) for i in view.arms[a])][:1]
    flash = [a for a in flash if any(view.kept(i, a) for i in view.arms[a])][:1]
    full = [a for a in full if any(view.kept(i, a) for i in view.arms[a])]
    if flash:
        name = _solver(view, flash[0])
        full = [a for a in full if _solver(view, a) == name]
    decoded = [a for a in view.of_kind("decoded") if any(view.kept(i, a) for i in view.arms[a])][:1]
    return ["input", *pick, *decoded, *full[:1], *flash, "clean"]


def _solver(view: View, arm: str) -> str:
    return one(view.arms[arm])["solver"]["name"]


def spread(items: Sequence, count: int) -> list:
    """Return at most `count` of a sequence, evenly apart, both ends among them."""
    if len(items) <= count:
        return list(items)
    return [items[i * (len(items) - 1) // (count - 1)] for i in range(count)]


def choose(view: View, arms: Sequence[str]) -> list[tuple[str, float]]:
    """Return at most ROWS (picture, level) of one condition whose input and clean picture were kept, spread over the level.

    While a bench is running, some pictures lack some arms: those that have the most of `arms` are chosen from.
    """
    level = {image: r.get("level") or 0.0 for of in view.arms.values() for image, r in of.items()}
    count = {i: sum(view.kept(i, arm) for arm in arms) for i in level if view.kept(i, "input", "clean")}
    kept = [(i, level[i]) for i in count if count[i] == max(count.values())]
    return spread(sorted(kept, key=lambda k: (k[1], k[0])), ROWS)


def _draw(rows: Sequence[tuple[View, str, str | None]], shown: Sequence[str]) -> Figure:
    """Return rows of (view, picture, words at its left)."""
    tall = max(picture.shape[0] / picture.shape[1] for view, image, _ in rows if (picture := thumbnail(view, image, "clean")) is not None)
    figure = new_figure(0.25 + len(rows) * (tall * (WIDTH - 0.4) / len(shown) + 0.12))
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03)
    grid = figure.subplots(len(rows), len(shown), squeeze=False)
    for index, (line, (view, image, words)) in enumerate(zip(grid, rows, strict=True)):
        for axes, arm in zip(line, shown, strict=True):
            record = view.arms.get(arm, {}).get(image)
            decibels = None if record is None else record.get("psnr")
            under = "" if arm == "clean" else "not run" if record is None and not view.kept(image, arm) else ""
            under = f"{decibels:.2f} dB" if decibels is not None else under
            show(axes, thumbnail(view, image, arm), under, over="" if index else arm)
        line[0].set_ylabel(words, fontsize=8)
    return figure


def before_after(view: View) -> Drawing | None:
    """Draw rows spread over the degradation level, PSNR under each picture."""
    shown = columns(view)
    rows = [(view, image, f"level {level:.2f}") for image, level in choose(view, shown)]
    if not rows:
        return None
    caption = f"{pictures(len(rows))} {sizes(view.records)}, condition {view.condition}, least degraded first, with PSNR."
    return Drawing(f"before-after.{slug(view.condition)}", "Before and after", caption, _draw(rows, shown))


def one_picture_everywhere(view: View) -> Drawing | None:
    """Draw the same picture under every condition, for benches of several."""
    each = [view.only(condition) for condition in view.conditions]
    images: dict[str, int] = {}
    for part in each:
        for image in {image for of in part.arms.values() for image in of}:
            if part.kept(image, "input", "clean"):
                images[image] = images.get(image, 0) + 1
    best = max(images, key=lambda i: (images[i], [-ord(c) for c in i]), default=None)
    if best is None or images[best] < 2:
        return None
    there = [part for part in each if part.kept(best, "input", "clean")][:CONDITIONS]
    shown = max((columns(part) for part in there), key=len)
    rows = [(part, best, part.condition) for part in there]
    caption = f"The same picture under {len(rows)} of {len(each)} conditions, with PSNR."
    return Drawing("before-after-conditions", "One picture, every condition", caption, _draw(rows, shown))
