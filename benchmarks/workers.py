"""How much faster two workers are than one, and how many pictures a second one driver can hand out and hear of.

    python benchmarks/workers.py            needs the extra [ray]

The first is measured with one thread a worker, by turns, on pictures of noise with a known blur, from the moment that all workers have their model;
it can only be seen where the machine has a core for each. The second is with workers that read each picture and compute nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np
from PIL import Image

from flashdiff_cli.runs.cluster import Cluster, connected
from flashdiff_cli.runs.executor import OneByOne
from flashdiff_cli.runs.inputs import find, with_targets
from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.settings import Settings
from flashdiff_cli.runs.spread import restore_all
from flashdiff_cli.runs.task import Task


class Idle(Task):
    """Reads pictures and writes nothing."""

    def work(self, restorer, journal, shown):
        return OneByOne(lambda job, picture: (Record(str(job.source)), lambda record: None))


def rate(source: Path, output: Path, task: Task, workers: int) -> float:
    """Pictures a second, from when all workers are ready until the last picture."""
    jobs = with_targets(find([source]), output)
    ready: list[float] = []

    def said(text: str) -> None:
        if text.startswith(f"{workers} of"):
            ready.append(time.perf_counter())

    count = 0
    for record in restore_all(jobs, task, Cluster(workers=workers), said=said):
        assert record.status == "done", record.error
        count += bool(ready)
    return count / (time.perf_counter() - ready[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=40, help="for the first figure (default: 40)")
    parser.add_argument("--rounds", type=int, default=3, help="of each (default: 3)")
    parser.add_argument("--model", default="photos")
    given = parser.parse_args()
    settings = Settings(operator="gaussian-blur", operator_options={"blur_std": 2.0}, noise_std=0.05)
    with tempfile.TemporaryDirectory() as folder, connected(Cluster(workers=2)):
        (source := Path(folder) / "in").mkdir()
        for i in range(max(given.pictures, 2000)):
            values = np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(values).save((source if i < given.pictures else source.parent) / f"{i}.png")
        found: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(given.rounds):
            for workers, rates in found.items():
                task = Task(settings, given.model, "cpu", made_with=f"{turn}")
                rates.append(rate(source, Path(folder) / f"out-{turn}-{workers}", task, workers))
        ratios = [two / one for one, two in zip(found[1], found[2], strict=True)]
        print(f"one worker {statistics.median(found[1]):.2f} pictures/s, two {statistics.median(found[2]):.2f}; ", end="")
        print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {given.rounds} turns)")
        idle = rate(source.parent, Path(folder) / "none", Idle(settings, given.model, "cpu"), 2)
        print(f"workers that compute nothing: {idle:.0f} pictures/s through one driver")


if __name__ == "__main__":
    main()
