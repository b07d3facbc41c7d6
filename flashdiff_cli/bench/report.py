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
from flashdiff_cli.pictures.atomic import Opener, whole
from flashdiff_cli.runs.record import finite


def write_protocol(bench: Bench, arguments: Sequence[str], into: Opener = whole) -> None:
    """Write protocol.json: the resolved protocol, and where, when and with what it was run.

    Args:
        bench: what is run.
        arguments: of the command line, without the program's name.
        into: opens it; see `pictures.atomic`.
    """
    facts = describe(bench, "flashdiff " + shlex.join(arguments))
    write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", bench.folder / "protocol.json", into)


def write_pictures(bench: Bench, summary: dict[str, Any], into: Opener = whole) -> None:
    """Write figures/ of all records in the folder, and page.html, which holds tables, figures and pictures in one file."""
    from flashdiff_cli.bench.figures import draw_all
    from flashdiff_cli.bench.page import make_page

    records = [finite(asdict(record)) for record in bench.current()]
    draw_all(records, bench.folder)
    write_text(make_page(bench.folder, blocks(summary), records), bench.folder / "page.html", into)


def write_summary(bench: Bench, into: Opener = whole) -> dict[str, Any]:
    """Write summary.json, summary.md and summary.html of all records in the folder; return what is in the first."""
    records = bench.current()
    summary = summarise(records, bench.protocol, scores_of_folders(bench, records)) | {"missing": bench.measures.missing}
    write_text(json.dumps(finite(summary), indent=2, ensure_ascii=False) + "\n", bench.folder / "summary.json", into)
    write_text(to_markdown(summary), bench.folder / "summary.md", into)
    write_text(to_html(summary), bench.folder / "summary.html", into)
    return summary
