"""A run as one page that needs no other file and no network: sliders, severity against steps, a table, failures."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from PIL import Image

from flashdiff_cli import __version__
from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.pictures.files import read_picture
from flashdiff_cli.pictures.whole import whole
from flashdiff_cli.runs.record import Record

SHOWN = 48
"""Pictures that are shown with a slider: of more, those spread evenly over severity."""
SIDE = 720
"""Longer side of a shown picture, in pixels."""
PAGE = Path(__file__).with_name("page")


def saved(record: Record) -> float:
    """Seconds that the full-length run would have taken more, by the time that each step took."""
    if record.status == "failed" or not record.steps or not record.schedule_steps:
        return 0.0
    return record.seconds.get("solve", 0.0) * (record.schedule_steps / record.steps - 1)


def _small(path: str | None) -> tuple[str, tuple[int, int]] | None:
    """A picture file as a data address, made small, and its shown size; None if it cannot be read any more."""
    if not path:
        return None
    try:
        picture = read_picture(path).to_rgb()
    except FlashdiffError:
        return None
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(), picture.size


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _name(record: Record) -> str:
    return html.escape(Path(record.input).name)


def _chosen(records: Sequence[Record]) -> list[Record]:
    done = [r for r in records if r.severity is not None and r.output]
    if len(done) <= SHOWN:
        return done
    ranked = sorted(done, key=lambda r: r.severity)
    return [ranked[i * (len(ranked) - 1) // (SHOWN - 1)] for i in range(SHOWN)]


def _card(record: Record) -> str:
    after = _small(record.output)
    if after is None:
        return ""
    # A picture that was restored in place has no "before" any more.
    before = _small(record.input) if Path(record.input).absolute() != Path(str(record.output)).absolute() else None
    width, height = after[1]
    images = f'<img src="{after[0]}" width="{width}" height="{height}" alt="{_name(record)}, restored">'
    if before is not None:
        images += f'<img class="before" src="{before[0]}" alt="{_name(record)}, before">'
        images += f'<input type="range" min="0" max="100" value="50" step="0.5" aria-label="before and after of {_name(record)}">'
        images += '<span class="tag left">before</span><span class="tag right">restored</span>'
    facts = f"severity {record.severity:.3f}, {record.steps} of {record.schedule_steps} steps"
    facts += "".join(f"<br>{html.escape(line)}" for line in (_degradation(record), *record.notes) if line)
    return f'<figure><div class="pair">{images}</div><figcaption><b>{_name(record)}</b><br><span class="soft">{facts}</span></figcaption></figure>'


def _degradation(record: Record) -> str:
    """What the picture was restored from, in a line: "found" in it, or "given"."""
    if not record.operator:
        return ""
    values = {k: v for k, v in record.operator.items() if k not in ("name", "estimated")}
    parts = [record.operator["name"], *(f"{k} {_number(v)}" for k, v in values.items())]
    parts += [] if record.noise_std is None else [f"noise {_number(record.noise_std)}"]
    if not record.operator.get("estimated"):
        return "given: " + ", ".join(parts)
    seen = record.degradation or {}
    sure = f" ({seen['kind']}, {seen['confidence']:.0%} sure)" if "confidence" in seen else ""
    return "found: " + ", ".join(parts) + sure


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _ticks(largest: float) -> list[float]:
    """Round numbers from 0 to the first that is no less than the largest, at most six of them."""
    power = 10.0 ** math.floor(math.log10(largest))
    step = next(s for s in (0.2 * power, 0.25 * power, 0.5 * power, power, 2 * power) if largest <= 5 * s)
    return [step * i for i in range(math.ceil(largest / step) + 1)]


def _plot(records: Sequence[Record]) -> str:
    """Severity against steps, as SVG."""
    points = [(r.severity, r.steps) for r in records if r.severity is not None and r.steps is not None]
    if not points:
        return ""
    across, up = (_ticks(max(values) or 1.0) for values in zip(*points, strict=True))
    right, top = across[-1], up[-1]
    dots = "".join(
        f'<circle cx="{60 + 540 * x / right:.1f}" cy="{250 - 220 * y / top:.1f}" r="4"><title>{x:.3f}: {y} steps</title></circle>'
        for x, y in points
    )
    marks = "".join(
        f'<line class="axis" x1="60" x2="600" y1="{250 - 220 * y / top:.1f}" y2="{250 - 220 * y / top:.1f}"/>'
        f'<text x="52" y="{254 - 220 * y / top:.1f}" text-anchor="end">{y:g}</text>'
        for y in up
    )
    marks += "".join(f'<text x="{60 + 540 * x / right:.1f}" y="268" text-anchor="middle">{x:.3g}</text>' for x in across)
    return (
        '<h2>Severity and steps</h2><svg viewBox="0 0 620 300" role="img" aria-label="steps against severity">'
        f'{marks}{dots}<text x="330" y="292" text-anchor="middle">severity</text>'
        '<text x="14" y="140" text-anchor="middle" transform="rotate(-90 14 140)">steps</text></svg>'
    )


COLUMNS = ("picture", "size", "severity", "start", "steps", "evaluations", "seconds", "saved", "status")


def _row(record: Record) -> str:
    size = "" if record.width is None else f"{record.width} x {record.height}"
    pixels = "" if record.width is None else record.width * record.height
    seconds = record.seconds.get("total")
    cells = [
        (_name(record), Path(record.input).name),
        (size, pixels),
        ("" if record.severity is None else f"{record.severity:.3f}", record.severity),
        ("" if record.start_step is None else f"{record.start_step} / {record.schedule_steps}", record.start_step),
        (record.steps, record.steps),
        (record.network_evaluations, record.network_evaluations),
        ("" if seconds is None else f"{seconds:.1f}", seconds),
        (_duration(saved(record)) if saved(record) else "", saved(record) or ""),
        (record.status, record.status),
    ]
    empty = {None: ""}
    inside = "".join(
        f'<td data-value="{html.escape(str(empty.get(value, value)))}">{empty.get(text, text)}</td>' for text, value in cells
    )
    return f'<tr class="{record.status}">{inside}</tr>'


def make_report(records: Sequence[Record], title: str = "flashdiff") -> str:
    """The page of a run.

    Args:
        records: of all its pictures; those that are done still have their files.
        title: of the page.

    Returns:
        HTML.
    """
    restored = [r for r in records if r.status != "failed"]
    failed = [r for r in records if r.status == "failed"]
    steps = [r.steps for r in restored if r.steps is not None]
    facts = [(len(restored), "restored")]
    if failed:
        facts.append((len(failed), "failed"))
    if steps:
        whole = max(r.schedule_steps for r in restored if r.schedule_steps)
        facts.append((f"{sum(steps) / len(steps):.0f} of {whole}", "steps, on average"))
        facts.append((_duration(sum(r.seconds.get("total", 0.0) for r in restored)), "in all"))
        facts.append((_duration(sum(map(saved, restored))), "saved against the full length (by the time of a step)"))
    chosen = _chosen(records)
    cards = "".join(map(_card, chosen))
    more = f'<p class="soft">{len(chosen)} of {len(restored)}, spread over severity.</p>' if len(chosen) < len(restored) else ""
    heads = "".join(f'<th scope="col"><button type="button">{name}</button></th>' for name in COLUMNS)
    models = ", ".join(sorted({str(r.model) for r in restored if r.model}))
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="soft">{datetime.now():%Y-%m-%d %H:%M}, flashdiff {__version__}, model {html.escape(models) or "none"}</p>',
        '<ul class="facts">' + "".join(f"<li><b>{n}</b>{what}</li>" for n, what in facts) + "</ul>",
        f'<h2>Before and after</h2>{more}<div class="cards">{cards}</div>' if cards else "",
        _plot(restored),
        f'<h2>All pictures</h2><div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(map(_row, records))}</tbody></table></div>',
    ]
    if failed:
        items = "".join(f'<li class="failed">{html.escape(r.error or r.input)}</li>' for r in failed)
        parts.append(f"<h2>Failures</h2><ul>{items}</ul>")
    css, js = ((PAGE / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    icon = '<link rel="icon" href="data:,">'
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}{icon}<title>{html.escape(title)}</title><style>{css}</style></head>\n<body>\n{body}\n<script>{js}</script>\n</body></html>\n'


def write_text(text: str, path: str | Path) -> None:
    """Write a text file, first under a temporary name.

    Raises:
        FlashdiffError: the disk or the folder refuses.
    """
    with whole(Path(path)) as file:
        file.write(text.encode())
