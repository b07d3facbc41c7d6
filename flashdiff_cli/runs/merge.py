"""What several runs have done, gathered from the journals of their folders and from the records that they printed."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.runs.content import absolute_name
from flashdiff_cli.runs.entries import NAME
from flashdiff_cli.runs.journal import Journal
from flashdiff_cli.runs.lines import LARGEST, LONGEST, whole_lines
from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.remote_entries import FOLDER
from flashdiff_cli.storage import listing
from flashdiff_cli.storage.url import Url, location


def journals_below(folder: Path | Url) -> Iterator[Path | Url]:
    """Yield the folders at and below `folder` that hold a journal, sorted; links are not followed."""
    if isinstance(folder, Url):
        waiting = [folder]
        while waiting:
            here = waiting.pop()
            inside = sorted(name for name, info in listing.entries(here) if info.get("type") == "directory" and listing.safe(name))
            if FOLDER in inside:
                yield here
            waiting += [here / name for name in reversed(inside) if name != FOLDER]
        return
    for at, folders, names in os.walk(folder):
        folders.sort()
        if NAME in names:
            yield Path(at)


def of_journal(folder: Path | Url, journal: Journal) -> Iterator[tuple[Record, str | None]]:
    """Yield the records of the restored pictures that stand in a folder as they were written, each with the SHA-256 of its source.

    Args:
        folder: where results are.
        journal: that reads its lines.

    Raises:
        FlashdiffError: the folder's journal cannot be used.
    """
    entries = journal.entries(folder)
    if entries.trouble:
        raise FlashdiffError(entries.trouble)
    for name in sorted(entries.names()):
        found = journal.made_as(folder / name)
        if found is None or found.record is None or found.of is not None:
            continue
        record = found.record
        # As the run was told, they are relative to wherever it ran.
        record.input, record.output = found.source, str(folder / name)
        record.others = [str(folder / Path(other).name) for other in record.others]
        yield record, found.source_digest


def of_lines(path: Path | Url) -> Iterator[Record]:
    """Yield the records of a file that holds what `--json` printed.

    Raises:
        FlashdiffError: it cannot be read, or a line of it is no record.
    """
    try:
        with io.BytesIO(path.read(LARGEST, "give the folder of results")) if isinstance(path, Url) else open(path, "rb") as file:
            for number, (_, _, line) in enumerate(whole_lines(file), 1):
                if line is not None and not line.strip():
                    continue
                try:
                    yield Record.of_stranger(json.loads(line or b"", parse_constant=lambda name: None))
                except (ValueError, TypeError, RecursionError):
                    reason = f"longer than {LONGEST} bytes" if line is None else "no record"
                    raise FlashdiffError(f"{path}: line {number} is {reason}; give a file that `json` has printed, or a folder of results") from None
    except OSError as error:
        raise FlashdiffError(f"{path}: cannot be read ({error.strerror}); give folders of results, or files that `json` has printed") from error


def _whole_name(name: str) -> str:
    return absolute_name(location(name))


def merged(places: Sequence[Path | Url], sources: dict[str, str | None] | None = None) -> list[Record]:
    """Return all pictures once: as done, if any run has done it; else as failed, as the last file says.

    Args:
        places: folders of results with all below them, and files of records.
        sources: for each output that stands in a folder as it was written, the SHA-256 of its source is added, if it is known.

    Raises:
        FlashdiffError: there is no journal at or below a folder, or a file cannot be used.
    """
    journal, done, failed = Journal(), {}, {}
    for place in places:
        found = False
        if place.is_dir():
            for folder in journals_below(place):
                found = True
                for record, digest in of_journal(folder, journal):
                    done[_whole_name(record.output or "")] = record
                    if sources is not None:
                        sources[str(record.output)] = digest
            if not found:
                raise FlashdiffError(f"{place}: no run has written into this folder; give folders of results, or files that `json` has printed")
            continue
        for record in of_lines(place):
            if record.status == "failed":
                failed[_whole_name(record.input)] = record
            else:
                # A folder's own journal says the same, and where the file is now.
                done.setdefault(_whole_name(record.output or record.input), record)
    inputs = {_whole_name(record.input) for record in done.values()}
    missed = [record for name, record in failed.items() if name not in inputs]
    return sorted([*done.values(), *missed], key=lambda record: record.input)
