<<<<<<< HEAD
"""Where, when and with what a bench runs."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from flashdiff_cli import __version__
from flashdiff_cli.bench.arms import plan
from flashdiff_cli.bench.runner import Bench

PACKAGES = ("torch", "diffusers", "torchmetrics", "scikit-image", "numpy")


def describe(bench: Bench, command: str | None = None) -> dict[str, Any]:
    """The whole resolved protocol, and where, when and with what it runs: protocol.json.

    Args:
        bench: what is run.
        command: as typed.
    """
    protocol = asdict(bench.protocol)
    protocol["arm"] = [plan(arm, bench.protocol, bench.pipeline, bench.model).describe() for arm in bench.protocol.arm]
    device = bench.pipeline.unet.device
    machine = {"cpu": _cpu_name(), "cores": _cores(), "torch_threads": torch.get_num_threads(), "device": str(device)}
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
    return {
        "protocol": protocol,
        "arms_run": [p.arm.name for p in bench.plans],
        "conditions_run": [c.name for c in bench.selected.condition],
        "model": bench.model,
        "pictures": len(bench.items),
        "command": command,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": machine,
        "versions": {"flashdiff": __version__, "python": platform.python_version()} | _versions(),
        "measures": {"usable": list(bench.measures.usable), "missing": bench.measures.missing},
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _commit() -> str | None:
    """The commit of the checkout that this code is in, with + if it was changed; None outside of one."""
    here = Path(__file__)
    ask = {"cwd": here.parent, "capture_output": True, "text": True, "timeout": 10}
    try:
        # An environment may lie within a checkout of something else, which does not hold this file.
        if subprocess.run(["git", "ls-files", "--error-unmatch", here.name], **ask).returncode != 0:
            return None
        found = subprocess.run(["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"], **ask)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
=======
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
>>>>>>> figures
