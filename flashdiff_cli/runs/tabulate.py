"""Records as CSV: one row a picture, one column a field of the schema, where what is no plain value is JSON, and plain columns after them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import fields

from flashdiff_cli.errors import one_line
from flashdiff_cli.runs.record import Record, finite

FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet takes for the beginning of a formula, in narrow and wide letters."""


def cell(value: object) -> object:
    """Return a value as a cell: text without characters that act instead of being shown, and never taken for a formula."""
    if isinstance(value, (dict, list)):
        text = json.dumps(value, ensure_ascii=False)
        return text if text.isprintable() else json.dumps(value)
    if not isinstance(value, str):
        return value
    # In pieces, because `one_line` shortens what is too long for a line.
    text = "".join(one_line(value[i : i + 100]) for i in range(0, len(value), 100)).encode(errors="backslashreplace").decode()
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text


def flat(record: Record) -> dict[str, object]:
    """Return what a person asks of a picture, each under a name of its own: no value is an object or a list.

    Times are in seconds, sizes and blur widths in pixels, noise on intensities in [0, 1]; None where a value does not apply.
    """
    operator, found = record.operator or {}, record.degradation or {}
    width = operator.get("blur_std", operator.get("blur_length"))
    return {
        "input": record.input,
        "output": record.output,
        "status": record.status,
        "width": record.width,
        "height": record.height,
        "kind": found.get("kind", operator.get("name")),
        "confidence": found.get("confidence"),
        "blur_width": width if isinstance(width, (int, float)) else None,
        "noise": record.noise_std,
        "severity": record.severity,
        "start": record.start_step,
        "steps": record.steps,
        "evaluations": record.network_evaluations,
        "total_seconds": record.seconds.get("total"),
        "error": record.error,
    }


ADDED = ("kind", "confidence", "blur_width", "noise", "total_seconds")
"""Columns of `flat` that a CSV has after the fields of the schema, in which they are parts of objects or have another name."""


def to_csv(records: Sequence[Record]) -> str:
    """Return records as CSV with a header line; empty where a value does not apply."""
    names = [field.name for field in fields(Record)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, *ADDED])
    for record in records:
        values, own = json.loads(record.to_json()), flat(record)
        writer.writerow([*(cell(values[name]) for name in names), *(cell(finite(own[name])) for name in ADDED)])
    return out.getvalue()
