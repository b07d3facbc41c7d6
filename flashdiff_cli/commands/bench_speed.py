"""flashdiff bench speed"""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from pathlib import Path

from flashdiff_cli import lean

SPEED = Path("speed")
"""Instead of pictures: time the model's parts. A folder of this name is given as ./speed."""


def run_speed(model: str, device: str, dtype: str, offline: bool, side: int | None, pictures: int | None, as_json: bool) -> None:
    """Time a model's parts on this machine, and print what each takes.

    Args:
        model, device, dtype, offline: see `Restorer`.
        side: of the pictures, in pixels; None: 256.
        pictures: restored one by one and together; None: 8.
        as_json: print one object, with the machine.
    """
    with lean.start():
        from flashdiff_cli.bench import provenance
        from flashdiff_cli.bench.speed import measure
        from flashdiff_cli.runs.restorer import Restorer

    restorer = Restorer(model, device, dtype, offline=offline)
    rows = measure(restorer.pipeline, side or 256, pictures=pictures or 8)
    machine = provenance.machine(restorer.pipeline.unet.device)
    if as_json:
        print(
            jsonlib.dumps(
                {"model": restorer.model, "dtype": restorer.dtype, "side": side or 256, "machine": machine, "rows": [r.to_dict() for r in rows]}
            )
        )
        return
    print("\t".join(("what", "seconds", "processor_seconds", "relative", "of")))
    for row in rows:
        print("\t".join((row.what, _number(row.seconds), _number(row.processor), _number(row.relative), row.note)))
    print("\t".join(("machine", "", "", "", ", ".join(f"{k} {v}" for k, v in machine.items()))))


def _number(value: float | None) -> str:
    return "" if not value else f"{value:.4g}"


def asks_for_speed(images: Sequence[Path] | None) -> bool:
    """Return whether "speed" was given in the place of pictures."""
    return list(images or ()) == [SPEED]
