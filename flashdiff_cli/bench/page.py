"""A bench as one page that needs no other file and no network: tables, figures, pictures, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from flashdiff_cli.bench.figures import CONDITIONS, FOLDER, read_index
from flashdiff_cli.bench.figures.data import SWEEP, View
from flashdiff_cli.bench.figures.grid import choose
from flashdiff_cli.bench.figures.style import DPI, WIDTH
from flashdiff_cli.bench.records import Record, kind, one
from flashdiff_cli.bench.tables import Block
from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.pages import Shown, data_address, render, show_picture
from flashdiff_cli.pictures.limits import open_image_file

PROTOCOL = "protocol.json"
SIDE, LARGE = 320, 300_000
"""Longer side of a shown picture in pixels; bytes of an SVG that is too large for the page."""


def read_protocol(folder: Path | str) -> dict[str, Any]:
    """Return what protocol.json of a bench folder holds; nothing if there is none.

    Raises:
        FlashdiffError: it is no JSON object.
    """
    path = Path(folder) / PROTOCOL
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FlashdiffError(f"{path}: cannot be read ({error}); run the bench again to write it") from error
    if not isinstance(found, dict):
        raise FlashdiffError(f"{path}: this is no JSON object; run the bench again to write it")
    return found


def title_of(found: Mapping[str, Any], folder: Path | str) -> str:
    """Return the protocol's title, or its name, or the folder's."""
    protocol = found.get("protocol") or {}
    return protocol.get("title") or protocol.get("name") or Path(folder).name


def describe(value: Any) -> str:
    """Return a value of protocol.json as text for people: tables as `name value` pairs, a range as `low to high`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {describe(v)}" for key, v in value.items() if v is not None and v != {})
    if isinstance(value, (list, tuple)):
        if len(value) == 2 and all(isinstance(v, (int, float)) for v in value):
            return f"{value[0]:g} to {value[1]:g}"
        return ", ".join(map(describe, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else " ".join(str(value).split())


def facts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (what, value) of a run: what was run on what, when, at which commit and on which machine; only what is there."""
    protocol = found.get("protocol") or {}
    rows = [
        ("protocol", protocol.get("name")),
        ("model", found.get("model")),
        ("pictures", found.get("pictures")),
        ("cut to", f"{protocol['size']} x {protocol['size']} pixels at most" if protocol.get("size") else None),
        ("seed", protocol.get("seed")),
        ("data", (protocol.get("dataset") or {}).get("rule")),
        ("date", found.get("date")),
        ("commit", found.get("commit")),
        ("machine", found.get("machine")),
        ("versions", found.get("versions")),
        ("not measured", (found.get("measures") or {}).get("missing")),
    ]
    return [(name, describe(value)) for name, value in rows if value not in (None, "", [], {})]


def condition_table(found: Mapping[str, Any]) -> pd.DataFrame:
    """Return the conditions that were run, a row each."""
    chosen = found.get("conditions_run")
    rows = []
    for c in (found.get("protocol") or {}).get("condition") or []:
        if chosen is None or c["name"] in chosen:
            assumed = "the truth" if not c.get("assumed") else describe(c["assumed"])
            rows.append([c["name"], str(c.get("operator")), describe(c.get("options") or {}), describe(c.get("noise_std")), assumed])
    return pd.DataFrame(rows, columns=["condition", "operator", "parameters", "noise", "the solver is told"])


def arm_table(found: Mapping[str, Any]) -> pd.DataFrame:
    """Return the arms that were run, a row each, with their settings."""
    chosen = found.get("arms_run")
    rows = []
    for arm in (found.get("protocol") or {}).get("arm") or []:
        if chosen is None or arm["name"] in chosen:
            own = ("name", "baseline", "solver", "start", "against")
            more = {k: v for k, v in arm.items() if k not in own and v is not None and v is not False and v != {}}
            rows.append([arm["name"], str(arm.get("baseline") or arm.get("solver")), str(arm.get("start") or ""), describe(more)])
    return pd.DataFrame(rows, columns=["arm", "solver or baseline", "start", "settings"])


class Figure(NamedTuple):
    """A figure of the page, with its caption."""

    title: str
    caption: str
    shown: Shown
    narrow: bool


def _picture(path: Path, side: int) -> Shown:
    with open_image_file(path) as opened:
        return show_picture(opened.convert("RGB"), side)


def _figure(folder: Path, entry: Mapping[str, Any]) -> Figure:
    """Return a figure as SVG, or as JPEG where photographs make that large. As images, so that no names inside meet."""
    png, svg = (folder / FOLDER / f"{entry['name']}.{ending}" for ending in ("png", "svg"))
    with open_image_file(png) as opened:
        (width, height), dots = opened.size, opened.info.get("dpi", (DPI,))[0]
    drawn = svg.read_bytes()
    large = len(drawn) > LARGE
    shown = _picture(png, max(width, height)) if large else Shown(data_address("image/svg+xml", drawn), width, height)
    return Figure(entry["title"], entry["caption"], shown, width / dots < 0.9 * WIDTH)


def _cells(view: View, image: str, arms: Sequence[str]) -> list[dict[str, Any]]:
    cells = []
    for arm in ("input", *arms, "clean"):
        path, record = view.image_path(image, arm), view.arms.get(arm, {}).get(image, {})
        if path.is_file():
            cells.append({"arm": arm, "shown": _picture(path, SIDE), "psnr": record.get("psnr")})
    return cells


def _pictures(view: View) -> list[dict[str, Any]]:
    """Return pictures of one condition, each with all its arms but fixed starts, least degraded first."""
    arms = [arm for arm, of in view.arms.items() if kind(one(of)) not in ("input", "fixed")]
    return [{"image": image, "level": level, "cells": _cells(view, image, arms)} for image, level in choose(view, arms)]


def _numbers(records: Sequence[Record]) -> list[tuple[int, str]]:
    done = [r for r in records if r.get("status") == "done"]
    counts = [
        (len({(r["image"], r.get("digest")) for r in done}), "pictures"),
        (len({r["condition"] for r in done}), "conditions"),
        (len({r["arm"] for r in done} - {SWEEP}), "arms"),
        (sum(r.get("network_evaluations") or 0 for r in done), "network evaluations"),
        (sum(r.get("status") == "failed" for r in records), "failed"),
    ]
    return [(count, name.removesuffix("s") if count == 1 else name) for count, name in counts if count]


def _failures(records: Sequence[Record]) -> list[str]:
    failed = [r for r in records if r.get("status") == "failed"]
    return [f"{r['image']}, {r['condition']}, {r['arm']}: {r.get('error') or 'failed'}" for r in failed]


def _made(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how the numbers came about: conditions, arms, date, commit, machine and command."""
    if not found:
        return None
    return {
        "facts": facts(found),
        "command": found.get("command"),
        "conditions": condition_table(found),
        "arms": arm_table(found),
    }


def make_page(folder: Path | str, blocks: Iterable[Block], records: Sequence[Record]) -> str:
    """Return the page of a bench, as HTML.

    Args:
        folder: of the bench: `protocol.json`, `figures/` (`figures.draw_all`) and `images/` are taken from it, as far as
            they are there.
        blocks: tables and sentences by condition.
        records: of the bench, as read from `records.jsonl`.

    Raises:
        FlashdiffError: `protocol.json` is damaged.
    """
    folder, of = Path(folder), {block.name: block for block in blocks}
    found, index, view = read_protocol(folder), read_index(folder), View.of(records, folder)
    figures: dict[str | None, list[Figure]] = {}
    for entry in index:
        # The same pictures stand on the page themselves.
        if not entry["name"].startswith("before-after."):
            figures.setdefault(entry["condition"], []).append(_figure(folder, entry))
    names = list(dict.fromkeys([*of, *view.conditions]))
    sections = [
        of.get(name, Block(name, [], []))._asdict() | {"figures": figures.get(name, []), "pictures": _pictures(view.only(name))} for name in names
    ]
    return render(
        "bench.html",
        title=title_of(found, folder),
        about=", ".join(filter(None, (found.get("date"), f"model {found['model']}" if found.get("model") else None))),
        numbers=_numbers(records),
        limit=CONDITIONS if index and len(names) > CONDITIONS else None,
        figures=figures.get(None, []),
        sections=sections,
        failures=_failures(records),
        made=_made(found),
    )
