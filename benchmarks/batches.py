"""How much faster pictures of a folder are restored together than one by one, by what they differ, and the memory that either takes.

    python benchmarks/batches.py FOLDER [--pictures 64] [--side 128] [--kinds blur noise jpeg] [--told] [--solver NAME] [--fast]
                                 [--batch 8] [--threads 2] [--rounds 3] [--memory 16 64] [--model photos] [--json FILE]

Faces, or whatever is in the folder, are cropped to a square, degraded from hardly to badly, each with its own seed, and stored as PNG files;
fewer files than pictures are taken again with another degradation. What is timed is all that `flashdiff restore FOLDER` does once its model is
loaded: reading, looking, steps, writing. Blind by default; `--told` blurs all by 1.5 pixels and says so, with noise that differs. The two ways take
turns, so that whatever else a machine does harms both; ratios are of each turn's pair. Results are compared value by value. Peak memory is of
a process of its own for each number of pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from PIL import Image

from flashdiff_cli.operators import GaussianBlur, Jpeg
from flashdiff_cli.pictures.files import from_pil
from flashdiff_cli.runs.executor import each
from flashdiff_cli.runs.inputs import find, with_targets
from flashdiff_cli.runs.journal import Journal
from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.restorer import Restorer
from flashdiff_cli.runs.settings import Settings
from flashdiff_cli.runs.task import Shown, Task

TOLD = {"operator": "gaussian-blur", "operator_options": {"blur_std": 1.5}}
WATCHED = """
import os, resource, sys
from flashdiff_cli.commands.app import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    if end.code:
        raise
if os.path.exists("/proc/self/status"):
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(int(line.split()[1]) / 1e3)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""
"""Linux gives a new process the highest `ru_maxrss` of the one that began it, which is larger here; what /proc says is its own."""


def degraded(clean: torch.Tensor, kind: str, share: float, generator: torch.Generator) -> torch.Tensor:
    """Return a picture (1, 3, H, W) as badly degraded as `share`, from 0 to 1, says."""
    if kind == "jpeg":
        return Jpeg(70 - 60 * share).on_signed(clean)
    if kind == "noise":
        return clean + 2 * (0.02 + 0.1 * share) * torch.randn(clean.shape, generator=generator)
    width, noise = (1.5, 0.005 + 0.05 * share) if kind == "told" else (0.7 + 2.3 * share, 0.01)
    return GaussianBlur(width).on_signed(clean) + 2 * noise * torch.randn(clean.shape, generator=generator)


def store(sources: list[Path], folder: Path, count: int, side: int, kinds: list[str]) -> None:
    """Write `count` degraded pictures, of which neighbours differ in kind and severity."""
    folder.mkdir()
    for i in range(count):
        picture = Image.open(sources[i % len(sources)]).convert("RGB")
        length = min(side, *picture.size)
        left, top = ((extent - length) // 2 for extent in picture.size)
        clean = from_pil(picture.crop((left, top, left + length, top + length))).image
        generator = torch.Generator().manual_seed(i)
        found = degraded(clean, kinds[i % len(kinds)], torch.rand((), generator=generator).item(), generator)
        pixels = ((found[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{i:03}.png")


def run(restorer: Restorer, settings: Settings, source: Path, output: Path, batch: int) -> tuple[float, float, list[Record]]:
    """Restore a folder; returns seconds of the clock and of the processor, and the records."""
    restorer.batch = batch
    task, journal = Task(settings, restorer.model, batch=batch, made_with=output.name), Journal()
    jobs = with_targets(find([source]), output)
    wall, processor = time.perf_counter(), time.process_time()
    records = list(each(jobs, task.work(restorer, journal, Shown())))
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    failed = [record.error for record in records if record.status != "done"]
    if failed:
        sys.exit(f"{len(failed)} failed: {failed[0]}")
    return wall, processor, records


def apart(one: Path, other: Path) -> tuple[float, int]:
    """Return the share of values that differ between two folders of results, and by how many of 255 levels at the most."""
    differences = []
    for path in sorted(one.glob("*.png")):
        pair = (np.asarray(Image.open(folder / path.name), np.int16) for folder in (one, other))
        differences.append(np.abs(np.subtract(*pair)).ravel())
    found = np.concatenate(differences)
    return float((found > 0).mean()), int(found.max())


def peak(source: Path, output: Path, given: argparse.Namespace, batch: int, count: int) -> float:
    """Return the most memory, in megabytes, that `flashdiff restore` takes for the first `count` pictures."""
    options = ["--limit", count, "-o", output, "--batch", batch, "--model", given.model, "-q", "--json"]
    options += ["--threads", given.threads] if given.threads else []
    options += ["--solver", given.solver] if given.solver else []
    options += ["--operator", TOLD["operator"], "--blur-std", TOLD["operator_options"]["blur_std"]] if given.told else []
    options += ["--fast"] if given.fast else []
    done = subprocess.run([sys.executable, "-c", WATCHED, "restore", str(source), *map(str, options)], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=64, help="default: 64")
    parser.add_argument("--side", type=int, default=128, help="in pixels (default: 128)")
    parser.add_argument("--kinds", nargs="+", default=["blur"], choices=["blur", "noise", "jpeg"], help="in turns (default: blur)")
    parser.add_argument("--told", action="store_true", help="one blur, which is told")
    parser.add_argument("--solver")
    parser.add_argument("--fast", action="store_true", help="no steps")
    parser.add_argument("--batch", type=int, default=8, help="default: 8")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--memory", type=int, nargs="*", default=[16, 64], help="pictures whose peak memory is taken (default: 16 64)")
    parser.add_argument("--model", default="photos")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    given = parse()
    sources = sorted(path for path in given.folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not sources:
        sys.exit(f"{given.folder}: no pictures")
    if given.threads:
        torch.set_num_threads(given.threads)
    settings = Settings(solver=given.solver, start_step=0 if given.fast else None, **(TOLD if given.told else {}))
    restorer = Restorer(given.model)
    with tempfile.TemporaryDirectory() as work:
        source = Path(work) / "in"
        store(sources, source, given.pictures, given.side, ["told"] if given.told else given.kinds)
        found = measure(lambda name, batch: run(restorer, settings, source, Path(work) / name, batch), given)
        found["different"], found["levels"] = apart(Path(work) / "one-0", Path(work) / "together-0")
        found["memory"] = [
            {"batch": batch, "pictures": count, "megabytes": peak(source, Path(work) / f"memory-{batch}-{count}", given, batch, count)}
            for count in given.memory
            if count <= given.pictures
            for batch in (1, given.batch)
        ]
    show(found, given)
    if given.json:
        given.json.write_text(json.dumps({"threads": torch.get_num_threads(), **vars(given), **found}, default=str))


def measure(go: Callable[[str, int], tuple[float, float, list[Record]]], given: argparse.Namespace) -> dict:
    """Return the figures of both ways, by turns."""
    figures = {name: {"wall": [], "processor": [], "evaluations": 0} for name in ("one", "together")}
    for turn in range(given.rounds):
        for name, batch in (("one", 1), ("together", given.batch)) if turn % 2 == 0 else (("together", given.batch), ("one", 1)):
            wall, processor, records = go(f"{name}-{turn}", batch)
            figures[name]["wall"].append(wall)
            figures[name]["processor"].append(processor)
            figures[name]["evaluations"] = sum(record.network_evaluations or 0 for record in records)
            figures[name]["start_steps"] = [record.start_step for record in records]
    ratios = {
        kind: [one / together for one, together in zip(*(figures[name][kind] for name in ("one", "together")), strict=True)]
        for kind in ("wall", "processor")
    }
    return {**figures, "ratios": ratios}


def show(found: dict, given: argparse.Namespace) -> None:
    steps = found["one"]["start_steps"]
    how = "told" if given.told else "blind, " + ", ".join(given.kinds)
    print(f"{given.pictures} pictures of {given.side} pixels, {how}; start steps {min(steps)} to {max(steps)}; {torch.get_num_threads()} threads")
    print("\t".join(("", "seconds", "processor_seconds", "pictures_a_minute", "evaluations")))
    for name, label in (("one", "one by one"), ("together", f"together, {given.batch}")):
        wall, processor = (statistics.median(found[name][kind]) for kind in ("wall", "processor"))
        print("\t".join((label, f"{wall:.1f}", f"{processor:.1f}", f"{60 * given.pictures / wall:.1f}", str(found[name]["evaluations"]))))
    for kind, ratios in found["ratios"].items():
        print(f"one by one over together, {kind}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} turns)")
    print(f"values that differ: {100 * found['different']:.3f} %, by at most {found['levels']} of 255 levels")
    for row in found["memory"]:
        print(f"peak memory, {row['pictures']} pictures, {row['batch']} at a time: {row['megabytes']:.0f} MB")


if __name__ == "__main__":
    main()
