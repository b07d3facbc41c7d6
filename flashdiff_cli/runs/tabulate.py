"""Records as CSV: one row a picture, one column a field of the schema; what is no plain value is JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import fields

from flashdiff_cli.errors import one_line
from flashdiff_cli.runs.record import Record

FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet takes for the beginning of a formula, in narrow and wide letters."""


def cell(value: object) -> object:
    """A value as a cell: text without characters that act instead of being shown, and never taken for a formula."""
    if isinstance(value, (dict, list)):
        text = json.dumps(value, ensure_ascii=False)
        return text if text.isprintable() else json.dumps(value)
    if not isinstance(value, str):
        return value
    # In pieces, because `one_line` shortens what is too long for a line.
    text = "".join(one_line(value[i : i + 100]) for i in range(0, len(value), 100)).encode(errors="backslashreplace").decode()
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text


def to_csv(records: Sequence[Record]) -> str:
    """Records as CSV with a header line; empty where a value does not apply."""
    names = [field.name for field in fields(Record)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for record in records:
        values = json.loads(record.to_json())
        writer.writerow(cell(values[name]) for name in names)
    return out.getvalue()
