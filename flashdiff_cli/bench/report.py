"""What a bench leaves in its folder besides records and images."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from flashdiff_cli.bench.provenance import describe
from flashdiff_cli.bench.runner import Bench
from flashdiff_cli.bench.tables import blocks, scores_of_folders, summarise, to_html, to_markdown
from flashdiff_cli.pages import write_text
from flashdiff_cli.runs.record import finite


def write_protocol(bench: Bench, arguments: Sequence[str]) -> None:
    """protocol.json: the resolved protocol, and where, when and with what it was run.

    Args:
        bench: what is run.
        arguments: of the command line, without the program's name.
    """
    facts = describe(bench, "flashdiff " + shlex.join(arguments))
    write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", bench.folder / "protocol.json")


def write_pictures(bench: Bench, summary: dict[str, Any]) -> None:
    """figures/ of all records in the folder, and page.html, which holds tables, figures and pictures in one file."""
    from flashdiff_cli.bench.figures import draw_all
    from flashdiff_cli.bench.page import make_page

    records = [finite(asdict(record)) for record in bench.current()]
    draw_all(records, bench.folder)
    write_text(make_page(bench.folder, blocks(summary), records), bench.folder / "page.html")


def write_summary(bench: Bench) -> dict[str, Any]:
    """summary.json, summary.md and summary.html of all records in the folder; returns what is in the first."""
    records = bench.current()
    summary = summarise(records, bench.protocol, scores_of_folders(bench, records)) | {"missing": bench.measures.missing}
    write_text(json.dumps(finite(summary), indent=2, ensure_ascii=False) + "\n", bench.folder / "summary.json")
    write_text(to_markdown(summary), bench.folder / "summary.md")
    write_text(to_html(summary), bench.folder / "summary.html")
    return summary
