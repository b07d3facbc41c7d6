"""Records of a bench that nobody ran, with pictures if wanted: plain arithmetic, so that tests know what must come out."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

PARTS = ("level", "start", "start_step", "schedule_steps", "steps", "network_evaluations", "severity", "variance", "error_variance")


def record(arm="input", image="a/0.png", condition="blur", **more) -> dict:
    """One line of records.jsonl; an arm of the name SOLVER:START has a solver."""
    base = {"protocol": "try", "condition": condition, "arm": arm, "image": image, "digest": image, "width": 16, "height": 16}
    base |= dict.fromkeys(PARTS) | {"noise_std": 0.05, "assumed": None, "seed": 1, "status": "done", "error": None, "solver": None}
    base |= dict.fromkeys(("psnr", "ssim", "ms_ssim", "gmsd", "haarpsi", "lpips_vgg", "lpips_alex", "gradient"))
    base |= {"operator": {"name": "gaussian-blur", "blur_std": 0.3 + 2.7 * (more.get("level") or 0.0)}, "seconds": {"total": 0.5}}
    base |= {"encoder": None, "fidelity": False, "settings": "x", "model": "photos", "device": "cpu", "dtype": "float32", "version": "0"}
    return base | more


def solved(arm, image, solver="ldps", start="flash", steps=20, schedule=250, **more) -> dict:
    """A record of an arm with a solver."""
    cost = {"start_step": steps, "schedule_steps": schedule, "steps": steps, "network_evaluations": steps}
    return record(arm, image, solver={"name": solver, "eta": 0.0}, start=start, **(cost | {"seconds": {"total": 0.1 * steps + 0.2}} | more))


def seen(level: float, hard: float = 0.0) -> dict:
    """What the severity encoder says at a level: severity rises with it, and with the content."""
    severity = 0.1 + 0.3 * level + hard
    return {"level": level, "severity": severity, "variance": severity**2, "error_variance": 1.1 * severity**2}


def bench(count=9, condition="blur", solvers=("ldps",), fixed=(), sweep=0, classical=("wiener",), drop=0.0) -> list[dict]:
    """All arms on `count` pictures at rising levels; `drop` is what the condition costs every arm, in dB."""
    found = []
    for i in range(count):
        name, level = f"set/{i:03d}.png", (i + 0.5) / count
        what = seen(level, 0.02 * math.sin(i))
        best = 20 + 30 * what["severity"]

        def quality(db, what=what):
            db -= 6 * what["level"]
            return {"psnr": db, "ssim": db / 40, "haarpsi": db / 45, "gmsd": 0.4 - db / 100}

        found.append(record("input", name, condition, level=level, **quality(24)))
        found += [record(arm, name, condition, level=level, **quality(26 - drop)) for arm in classical]
        found.append(record("decoded", name, condition, **what, **quality(28 - drop), network_evaluations=0, steps=0))
        for j, solver in enumerate(solvers):
            own = {"condition": condition, "solver": solver}
            steps = round(best)
            noise = {"start": "full", "steps": 1000, "schedule": 1000, "level": level}
            found.append(solved(f"full-{solver}", name, **noise, **own, **quality(29 + j / 4 - drop)))
            found.append(solved(f"flash-{solver}", name, steps=steps, **own, **what, **quality(29.5 + j / 4 - drop)))
            for k in fixed:
                found.append(solved(f"fixed-{k}", name, start=k, steps=k, **own, **what, **quality(29.5 - 0.001 * (k - best) ** 2 - drop)))
        for j in range(sweep):
            at = seen(j / (sweep - 1), 0.02 * math.sin(i))
            found.append(record("severity", name, condition, start_step=round(100 * at["severity"]), schedule_steps=250, **at))
    return found


def keep_images(records, folder: Path, side=16) -> None:
    """Write images/<condition>/<picture>/<arm>.png for all records but the sweep's, and the clean pictures."""
    for r in records:
        here = Path(folder) / "images" / r["condition"] / Path(r["image"]).with_suffix("")
        here.mkdir(parents=True, exist_ok=True)
        for arm in {r["arm"], "clean"} - {"severity"}:
            shade = np.full((side, side, 3), 40 + zlib.crc32(f"{r['image']} {arm}".encode()) % 160, np.uint8)
            shade[: side // 2] //= 2
            Image.fromarray(shade).save(here / f"{arm}.png")
