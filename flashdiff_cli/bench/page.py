"""A bench as one page that needs no other file and no network: tables, figures, pictures, and how it was made."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from flashdiff_cli.bench import words
from flashdiff_cli.bench.figures import CONDITIONS, FOLDER, read_index
from flashdiff_cli.bench.figures.data import SWEEP, View
from flashdiff_cli.bench.figures.grid import choose
from flashdiff_cli.bench.figures.style import DPI, WIDTH
from flashdiff_cli.bench.records import Record, kind, one

CSS = Path(__file__).with_name("page.css")
SIDE, LARGE = 320, 300_000
"""Longer side of a shown picture in pixels; bytes of an SVG that is too large for the page."""
Table = tuple[Sequence[str], Sequence[Sequence[Any]]]
"""Heading and rows; None is an empty cell."""
Block = tuple[str, Sequence[Table], Sequence[str]]
"""Name of a condition, its tables, and sentences under them."""

text = html.escape


def _address(form: str, data: bytes) -> str:
    return f"data:image/{form};base64,{base64.b64encode(data).decode()}"


def _jpeg(path: Path, side: int, quality: int = 88) -> tuple[str, tuple[int, int]]:
    """A picture file, made small, as a data address, and its size (width, height)."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=0)
    return _address("jpeg", buffer.getvalue()), picture.size


def _figure(folder: Path, entry: Mapping[str, Any]) -> str:
    """A figure with its caption: as SVG, or as JPEG where photographs make that large. As images, so that no names inside meet."""
    png, svg = (folder / FOLDER / f"{entry['name']}.{ending}" for ending in ("png", "svg"))
    with Image.open(png) as opened:
        (width, height), dots = opened.size, opened.info.get("dpi", (DPI,))[0]
    drawn = svg.read_bytes()
    address = _jpeg(png, max(width, height))[0] if len(drawn) > LARGE else _address("svg+xml", drawn)
    narrow = ' class="narrow"' if width / dots < 0.9 * WIDTH else ""
    shown = f'<img src="{address}" width="{width}" height="{height}" alt="{text(entry["title"])}">'
    return (
        f'<figure{narrow}><div class="wide" tabindex="0">{shown}</div>'
        f"<figcaption><b>{text(entry['title'])}</b>{text(entry['caption'])}</figcaption></figure>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], words: bool = False) -> str:
    if not rows:
        return ""
    top = "".join(f'<th scope="col">{text(str(cell))}</th>' for cell in head)
    lines = ("".join(f"<td>{'' if cell is None else text(str(cell))}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    style = ' class="words"' if words else ""
    return f'<div class="wide" tabindex="0"><table{style}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _picture(view: View, image: str, arm: str, record: Record | None) -> str:
    path = view.image_path(image, arm)
    if not path.is_file():
        return ""
    address, (width, height) = _jpeg(path, SIDE)
    decibels = None if record is None else record.get("psnr")
    under = text(arm) + ("" if decibels is None else f"<br>{decibels:.2f} dB")
    name = text(f"{image}, {arm}")
    return f'<figure><img src="{address}" width="{width}" height="{height}" alt="{name}"><figcaption>{under}</figcaption></figure>'


def _pictures(view: View) -> str:
    """Pictures of one condition, each with all its arms but fixed starts, least degraded first."""
    arms = [arm for arm, of in view.arms.items() if kind(one(of)) not in ("input", "fixed")]
    rows = []
    for image, level in choose(view, arms):
        cells = (_picture(view, image, arm, view.arms.get(arm, {}).get(image)) for arm in ("input", *arms, "clean"))
        rows.append(f'<p class="soft">{text(image)}, level {level:.2f}</p><div class="row">{"".join(cells)}</div>')
    return "<h3>Pictures</h3>" + "".join(rows) if rows else ""


def _numbers(records: Sequence[Record]) -> str:
    done = [r for r in records if r.get("status") == "done"]
    shown = [
        (len({(r["image"], r.get("digest")) for r in done}), "pictures"),
        (len({r["condition"] for r in done}), "conditions"),
        (len({r["arm"] for r in done} - {SWEEP}), "arms"),
        (sum(r.get("network_evaluations") or 0 for r in done), "network evaluations"),
        (sum(r.get("status") == "failed" for r in records), "failed"),
    ]
    items = "".join(f"<li><b>{count:,}</b>{name.removesuffix('s') if count == 1 else name}</li>" for count, name in shown if count)
    return f'<ul class="numbers">{items}</ul>'


def _failures(records: Sequence[Record]) -> str:
    failed = [r for r in records if r.get("status") == "failed"]
    lines = "".join(
        f'<li class="failed">{text(r["image"])}, {text(r["condition"])}, {text(r["arm"])}: {text(r.get("error") or "failed")}</li>'
        for r in failed
    )
    return f'<h2 id="failures">Failures</h2><ul>{lines}</ul>' if failed else ""


def _made(found: Mapping[str, Any]) -> str:
    """How the numbers came about: conditions, arms, date, commit, machine and command."""
    if not found:
        return ""
    rows = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in words.facts(found))
    command = f"<pre><code>{text(found['command'])}</code></pre>" if found.get("command") else ""
    tables = _table(*words.conditions(found), words=True) + _table(*words.arms(found), words=True)
    return f'<h2 id="made">How this was made</h2><dl>{rows}</dl>{command}{tables}'


def make_page(folder: Path | str, blocks: Iterable[Block], records: Sequence[Record]) -> str:
    """The page of a bench.

    Args:
        folder: of the bench: `protocol.json`, `figures/` (`figures.draw_all`) and `images/` are taken from it, as far as
            they are there.
        blocks: tables and sentences by condition.
        records: of the bench, as read from `records.jsonl`.

    Returns:
        HTML.

    Raises:
        FlashdiffError: `protocol.json` is damaged.
    """
    folder, blocks = Path(folder), list(blocks)
    found, index, view = words.read_protocol(folder), read_index(folder), View.of(records, folder)
    title = words.title(found, folder)
    of_condition: dict[str | None, list[str]] = {}
    for entry in index:
        # The same pictures stand on the page themselves.
        if not entry["name"].startswith("before-after."):
            of_condition.setdefault(entry["condition"], []).append(_figure(folder, entry))
    names = list(dict.fromkeys([*(name for name, _, _ in blocks), *view.conditions]))
    about = ", ".join(filter(None, (found.get("date"), f"model {found['model']}" if found.get("model") else None)))
    parts = [f"<h1>{text(title)}</h1>", f'<p class="soft">{text(about)}</p>' if about else "", _numbers(records)]
    links = "".join(f'<li><a href="#condition-{i}">{text(name)}</a></li>' for i, name in enumerate(names))
    parts.append(f'<nav aria-label="conditions"><ul>{links}</ul></nav>' if len(names) > 1 else "")
    if index and len(names) > CONDITIONS:
        parts.append(f'<p class="soft">The first {CONDITIONS} of {len(names)} conditions have figures of their own.</p>')
    parts += of_condition.get(None, [])
    for i, name in enumerate(names):
        parts.append(f'<h2 id="condition-{i}">{text(name)}</h2>')
        for _, tables, sentences in (block for block in blocks if block[0] == name):
            parts += [_table(head, rows) for head, rows in tables] + [f"<p>{text(sentence)}</p>" for sentence in sentences]
        parts += [*of_condition.get(name, []), _pictures(view.only(name))]
    parts += [_failures(records), _made(found)]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
    style = CSS.read_text(encoding="utf-8")
    body = "\n".join(filter(None, parts))
    head += f"<title>{text(title)}</title><style>{style}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'
