"""Records as CSV: one row a picture, one column a field of the schema; what is no plain value is JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import fields

from flashdiff_cli.runs.record import Record


def to_csv(records: Sequence[Record]) -> str:
    """Records as CSV with a header line; empty where a value does not apply."""
    names = [field.name for field in fields(Record)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for record in records:
        values = json.loads(record.to_json())
        row = (values[name] for name in names)
        writer.writerow(json.dumps(v, ensure_ascii=False) if isinstance(v, (dict, list)) else v for v in row)
    return out.getvalue()
