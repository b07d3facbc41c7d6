"""Which files a run reads, and where it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.pictures.files import FORMATS, SUFFIXES, check_output


@dataclass(frozen=True)
class Job:
    """One picture to do."""

    source: Path
    below: Path
    """Path of the source below the folder that was given; just its name where a file was given."""
    target: Path | None = None

    def renamed(self, suffix: str) -> Job:
        """The same job with `suffix` before the ending of its target."""
        return replace(self, target=self.target.with_name(self.target.stem + suffix + self.target.suffix))


def find(inputs: Sequence[str | Path], recursive: bool = False) -> list[Job]:
    """The pictures that the given files and folders stand for, each once, in the order given and sorted in folders.

    A file that was named is taken whatever its ending; in folders only pictures' endings count.

    Raises:
        UsageError: nothing was given.
        FlashdiffError: a folder holds no picture.
    """
    if not inputs:
        raise UsageError("give at least one picture or folder")
    jobs, seen = [], set()
    for given in map(Path, inputs):
        if given.is_dir():
            walk = given.rglob("*") if recursive else given.glob("*")
            files = sorted(p for p in walk if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith("."))
            if not files:
                hint = "" if recursive else "; -r looks in its subfolders too"
                raise FlashdiffError(f"{given}: no pictures in this folder{hint}")
            found = [(path, path.relative_to(given)) for path in files]
        else:
            found = [(given, Path(given.name))]
        for path, below in found:
            key = path.absolute()
            if key not in seen:
                seen.add(key)
                jobs.append(Job(path, below))
    return jobs


def with_targets(
    jobs: Sequence[Job], output: str | Path | None, suffix: str = "-restored", ending: str | None = None
) -> list[Job]:
    """Where each picture's result goes.

    Without `output`: beside the source, with `suffix` before its ending. With a name that ends as a picture does, and
    one job: there. Otherwise `output` is a folder that mirrors the tree of the inputs. Formats that cannot be
    written become PNG. Names that collide get -2, -3, ... in the order of the jobs.

    Raises:
        UsageError: a name for many pictures, an unknown ending, or a target that is a source.
    """
    output = None if output is None else Path(output)
    single = output is not None and output.suffix.lower() in FORMATS and not output.is_dir()
    if single and len(jobs) > 1:
        raise UsageError(f"--output {output}: one file for {len(jobs)} pictures; give a folder")
    if output is not None and output.suffix and not single and len(jobs) == 1 and not output.is_dir() and not str(output).endswith("/"):
        check_output(output)
    if not 1 <= len(suffix) and output is None:
        raise UsageError("--suffix must not be empty without --output: it would overwrite the input")
    sources = {job.source.absolute() for job in jobs}
    taken: set[Path] = set()
    planned = []
    for job in jobs:
        kind = ending or (job.source.suffix if job.source.suffix.lower() in FORMATS else ".png")
        if single:
            target = output
        elif output is None:
            target = job.source.with_name(job.source.stem + suffix + kind)
        else:
            target = output / job.below.with_suffix(kind)
        number, free = 2, target
        while free.absolute() in taken:
            free, number = target.with_name(f"{target.stem}-{number}{target.suffix}"), number + 1
        if free.absolute() in sources:
            raise UsageError(f"{free}: the output would overwrite an input; choose another --output or --suffix")
        taken.add(free.absolute())
        planned.append(Job(job.source, job.below, free))
    return planned
