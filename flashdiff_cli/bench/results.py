"""Bench folders as one page of Markdown, to be published with the figures beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from flashdiff_cli.bench.figures import FOLDER, read_index
from flashdiff_cli.bench.page import PROTOCOL, facts, read_protocol, title_of
from flashdiff_cli.errors import UsageError

TABLES = "summary.md"


def _link(path: Path, base: Path) -> str:
    return quote(Path(os.path.relpath(path.resolve(), base.resolve())).as_posix())


def _escape(text: str) -> str:
    """Return a text that Markdown leaves as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|])", r"\\\1", text)


def _tables(folder: Path, title: str) -> str:
    """Return summary.md below a heading of the second level: without the title in it, and its headings a level lower."""
    path = folder / TABLES
    if not path.is_file():
        return ""
    lines = path.read_text(encoding="utf-8").strip().splitlines()
    lines = [line for line in lines if not line.startswith("# ") and line != title]
    return "\n".join("#" + line if re.match(r"#+ ", line) else line for line in lines).strip()


def _section(folder: Path, base: Path) -> list[str]:
    found = read_protocol(folder)
    title = title_of(found, folder)
    parts = [f"## {_escape(title)}"]
    rows = [f"- {name}: {_escape(value)}" for name, value in facts(found)]
    parts += ["\n".join(rows)] if rows else []
    if found.get("command"):
        parts.append(f"```sh\n{found['command']}\n```")
    tables = _tables(folder, title)
    parts += [tables] if tables else []
    for entry in read_index(folder):
        image = _link(folder / FOLDER / f"{entry['name']}.png", base)
        vector = folder / FOLDER / f"{entry['name']}.svg"
        drawn = f" ([SVG]({_link(vector, base)}))" if vector.is_file() else ""
        parts += [f"### {_escape(entry['title'])}" + (f", {_escape(entry['condition'])}" if entry["condition"] else "")]
        parts += [f"![{_escape(entry['title'])}]({image})", _escape(entry["caption"]) + drawn]
    return parts


def results_markdown(folders: Path | str | Sequence[Path | str], base: Path | str | None = None) -> str:
    """Return the published page of one or several benches: facts, tables and figures of each, in the order given.

    The same folders give the same text.

    Args:
        folders: of benches, with `protocol.json`, `summary.md` and `figures/` as far as they are there.
        base: folder that the page will lie in, which links start from; None: the bench folder, of several the folder that
            holds them all.

    Returns:
        Markdown.

    Raises:
        UsageError: a folder holds nothing of a bench.
        FlashdiffError: `protocol.json` is damaged.
    """
    given = [Path(f) for f in ([folders] if isinstance(folders, (str, Path)) else folders)]
    for folder in given:
        if not any((folder / name).exists() for name in (PROTOCOL, TABLES, FOLDER)):
            raise UsageError(f"{folder}: no bench folder; give one that `flashdiff bench ... -o FOLDER` has written")
    base = Path(base) if base is not None else Path(os.path.commonpath([f.resolve() for f in given]))
    parts = ["# Results"]
    for folder in given:
        parts += _section(folder, base)
    return "\n\n".join(parts) + "\n"
