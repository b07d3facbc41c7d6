"""What a bench folder says of itself in protocol.json, as words for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashdiff_cli.errors import FlashdiffError

NAME = "protocol.json"
Rows = list[list[str]]


def read_protocol(folder: Path | str) -> dict[str, Any]:
    """protocol.json of a bench folder; empty if it has none.

    Raises:
        FlashdiffError: it is no JSON object.
    """
    path = Path(folder) / NAME
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FlashdiffError(f"{path}: cannot be read ({error}); run the bench again to write it") from error
    if not isinstance(found, dict):
        raise FlashdiffError(f"{path}: this is no JSON object; run the bench again to write it")
    return found


def title(found: Mapping[str, Any], folder: Path | str) -> str:
    """The protocol's title, or its name, or the folder's."""
    protocol = found.get("protocol") or {}
    return protocol.get("title") or protocol.get("name") or Path(folder).name


def words(value: Any) -> str:
    """A value of the file in words: tables as `name value` pairs, a range as `low to high`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {words(v)}" for key, v in value.items() if v is not None and v != {})
    if isinstance(value, (list, tuple)):
        if len(value) == 2 and all(isinstance(v, (int, float)) for v in value):
            return f"{value[0]:g} to {value[1]:g}"
        return ", ".join(map(words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else " ".join(str(value).split())


def facts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, value) of a run: what was run on what, when, at which commit and on which machine; only what is there."""
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
    return [(name, words(value)) for name, value in rows if value not in (None, "", [], {})]


def conditions(found: Mapping[str, Any]) -> tuple[list[str], Rows]:
    """Heading and rows of the conditions that were run."""
    chosen = found.get("conditions_run")
    rows = []
    for c in (found.get("protocol") or {}).get("condition") or []:
        if chosen is None or c["name"] in chosen:
            told = "the truth" if not c.get("assumed") else words(c["assumed"])
            rows.append([c["name"], str(c.get("operator")), words(c.get("options") or {}), words(c.get("noise_std")), told])
    return ["condition", "operator", "parameters", "noise", "the solver is told"], rows


def arms(found: Mapping[str, Any]) -> tuple[list[str], Rows]:
    """Heading and rows of the arms that were run, each with its settings."""
    chosen = found.get("arms_run")
    rows = []
    for arm in (found.get("protocol") or {}).get("arm") or []:
        if chosen is None or arm["name"] in chosen:
            own = ("name", "baseline", "solver", "start", "against")
            more = {k: v for k, v in arm.items() if k not in own and v is not None and v is not False and v != {}}
            rows.append([arm["name"], str(arm.get("baseline") or arm.get("solver")), str(arm.get("start") or ""), words(more)])
    return ["arm", "solver or baseline", "start", "settings"], rows
