"""How many names a run can plan, how fast, and in how much memory: listed, given a place to go, and looked up in the journal there.

    python benchmarks/listing.py                      a store of 10,000, 100,000 and 1,000,000 names
    python benchmarks/listing.py --local FOLDER       the same with empty files, made below FOLDER and removed again

The store is one of fsspec's kind that makes its names up, so that what is measured is flashdiff's own. Every size is a process of its own; seconds
are those of its processor, and memory is its peak over what the program has before the first name.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import fsspec

SIZES = (10_000, 100_000, 1_000_000)
IN_ONE = 1000
"""Names in one folder."""


class MadeUp(fsspec.AbstractFileSystem):
    """`made://in` holds folders of `IN_ONE` pictures each, as many as are asked for; elsewhere nothing is."""

    protocol = "made"
    names = 0

    def ls(self, path, detail=True, **_):
        parts = [part for part in path.split("/") if part]
        if parts == ["in"]:
            return [{"name": f"in/scans-{i:05}", "type": "directory", "size": 0} for i in range(-(-self.names // IN_ONE))]
        if len(parts) == 2 and parts[0] == "in":
            first = int(parts[1][6:]) * IN_ONE
            names = (f"{path}/IMG_{i:08}.jpg" for i in range(first, min(first + IN_ONE, self.names)))
            return [{"name": name, "type": "file", "size": 2_000_000, "ETag": f'"{hash(name) & (2**128 - 1):032x}"'} for name in names]
        raise FileNotFoundError(path)

    def info(self, path, **_):
        if path.strip("/") in ("in", "out"):
            return {"name": path, "type": "directory", "size": 0}
        raise FileNotFoundError(path)


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def plan(source: str, output: str, count: int) -> dict[str, float]:
    """Plan a run; processor seconds of each part, and bytes a name."""
    from flashdiff_cli.errors import FlashdiffError
    from flashdiff_cli.runs.inputs import find, with_targets
    from flashdiff_cli.runs.journal import Journal
    from flashdiff_cli.runs.resume import DO, decide, sweep_outputs, without_outputs

    # What is imported when the first name is looked at is no name's.
    with suppress(FlashdiffError):
        find(["memory://none/"])
    journal, before, told = Journal(), peak(), {}
    begin = last = time.process_time()

    def lap(name: str) -> None:
        nonlocal last
        now = time.process_time()
        told[name], last = now - last, now

    jobs = without_outputs(find([source], recursive=True), journal)
    lap("list")
    jobs = with_targets(jobs, output, of_another=journal.is_of_another)
    lap("place")
    decisions = decide(jobs, journal, "settings")
    lap("decide")
    sweep_outputs(decisions)
    lap("sweep")
    assert sum(d.action == DO for d in decisions) == count
    return told | {"seconds": time.process_time() - begin, "bytes": (peak() - before) / count}


def fill(folder: Path, count: int) -> None:
    """Make empty files."""
    for i in range(count):
        if i % IN_ONE == 0:
            below = folder / f"scans-{i // IN_ONE:05}"
            below.mkdir()
        (below / f"IMG_{i:08}.jpg").touch()


def one(count: int, local: str | None) -> dict[str, float]:
    """Measure in this process."""
    if local is None:
        fsspec.register_implementation("made", MadeUp)
        MadeUp.names = count
        return plan("made://in", "made://out", count)
    with tempfile.TemporaryDirectory(dir=local) as folder:
        (source := Path(folder) / "in").mkdir()
        fill(source, count)
        return plan(str(source), str(Path(folder) / "out"), count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--local", metavar="FOLDER", help="make files below this folder instead")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one, given.local)))
        return
    print("names        names/s    list   place  decide   sweep  bytes a name")
    for count in given.sizes:
        command = [sys.executable, __file__, "--one", str(count), *(["--local", given.local] if given.local else [])]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        parts = "".join(f"{found[name]:7.1f}s" for name in ("list", "place", "decide", "sweep"))
        print(f"{count:<10,} {count / found['seconds']:9,.0f} {parts} {found['bytes']:12,.0f}", flush=True)


if __name__ == "__main__":
    main()
