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

from flashdiff_cli.bench.arms import plan
from flashdiff_cli.bench.runner import Bench
from flashdiff_cli.version import __version__

PACKAGES = ("torch", "diffusers", "torchmetrics", "scikit-image", "numpy")


def describe(bench: Bench, command: str | None = None) -> dict[str, Any]:
    """Return the whole resolved protocol, and where, when and with what it runs: protocol.json.

    Args:
        bench: what is run.
        command: as typed.
    """
    protocol = asdict(bench.protocol)
    # Settings may be tuned to an operator: those in use where all conditions have the same one, the general ones otherwise.
    operators = {condition.assumption[0] for condition in bench.protocol.condition}
    operator = operators.pop() if len(operators) == 1 else None
    plans = [plan(arm, bench.protocol, bench.pipeline, bench.model, operator) for arm in bench.protocol.arm]
    protocol["arm"] = [p.describe() for p in plans]
    device = bench.pipeline.unet.device
    return {
        "protocol": protocol,
        "arms_run": [arm.name for arm in bench.selected.arm],
        "conditions_run": [c.name for c in bench.selected.condition],
        "model": bench.model,
        "pictures": len(bench.items),
        "command": command,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": machine(device),
        "versions": {"flashdiff": __version__, "python": platform.python_version()} | _versions(),
        "measures": {"usable": list(bench.measures.usable), "missing": bench.measures.missing},
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Return what results on a device were measured with."""
    found = {"cpu": _cpu_name(), "cores": _cores(), "torch_threads": torch.get_num_threads(), "device": str(device)}
    return found | ({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {})


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
    """Return the commit of the checkout that this code is in, with + if it was changed; None outside of one."""
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
