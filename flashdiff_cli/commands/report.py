"""flashdiff report"""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any

import typer

from flashdiff_cli.commands import options
from flashdiff_cli.storage.url import WEB, Url, location


def report(
    places: Annotated[
        list[Any],
        typer.Argument(
            metavar="RESULTS...",
            help="Folders that runs have written into, and files of what --json has printed.",
            show_default=False,
            parser=location,
        ),
    ],
    json: options.Json = False,
    csv: Annotated[Any, typer.Option("--csv", metavar="PATH", help="Write all records there as CSV.", parser=location)] = None,
    page: Annotated[
        Any,
        typer.Option("--report", "-o", metavar="PATH", help="Write a page with before/after sliders, plot and table there (.html).", parser=location),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that stand in the way.")] = False,
) -> None:
    """Gather what several runs have done into one table, page or CSV: the parts of a job array, or all runs into a folder.

    Failed pictures are known from what `restore --json` has printed; those that another run has done since are not counted.

    Examples:

    flashdiff report restored/ -o restored.html

    flashdiff report restored/ part-*.jsonl --csv all.csv
    """
    from flashdiff_cli.commands.show import say_error, say_json
    from flashdiff_cli.commands.table import closing
    from flashdiff_cli.commands.table import report as show
    from flashdiff_cli.runs.inputs import Job
    from flashdiff_cli.runs.journal import Journal
    from flashdiff_cli.runs.merge import merged
    from flashdiff_cli.runs.report import Gathered
    from flashdiff_cli.runs.tables import Tables

    sources: dict[str, str | None] = {}
    records = merged(places, sources)
    jobs = [Job(location(r.input), PurePath(location(r.input).name), location(r.output) if r.output else None) for r in records]
    tables = Tables(Journal(), places, jobs, csv, page, overwrite)
    if json:
        for record in records:
            say_json(record.to_json())
    stores = {place.protocol for place in places if isinstance(place, Url) and place.protocol not in WEB}
    errors = tables.write(records, Gathered(sources, frozenset(stores)))
    for error in errors:
        say_error(error)
    show(records, json)
    failed = sum(record.status == "failed" for record in records)
    say_error(closing(records, files={"report": page, "table": csv}))
    raise typer.Exit(int(bool(failed or errors)))
