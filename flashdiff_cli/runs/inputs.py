"""Which files a run reads, and where it writes."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.pictures.files import check_output
from flashdiff_cli.pictures.formats import FORMATS, SUFFIXES


@dataclass(frozen=True)
class Job:
    """One picture to do."""

    source: Path
    below: Path
    """Path of the source below the folder that was given; just its name where a file was given."""
    target: Path | None = None
    named: bool = True
    """Whether the file itself was named, and not found in a folder or by a pattern."""

    @property
    def in_place(self) -> bool:
        """Whether the output takes the input's place."""
        return self.target is not None and self.target.absolute() == self.source.absolute()

    def renamed(self, suffix: str) -> Job:
        """The same job with `suffix` before the ending of its target."""
        return replace(self, target=self.target.with_name(self.target.stem + suffix + self.target.suffix))


def _matches(given: Path, listed: Iterable[str]) -> list[tuple[Path, bool]]:
    """The paths that one argument names: itself, what a pattern matches, or the lines of a list; whether by name."""
    text = str(given)
    if text == "-":
        return [(Path(line.rstrip("\r\n")), True) for line in listed if line.strip()]
    if any(c in text for c in "*?[") and not given.exists():
        found = sorted(glob.glob(text, recursive=True))
        if not found:
            raise FlashdiffError(f"{text}: nothing matches this pattern")
        return [(path, False) for path in map(Path, found) if path.is_dir() or path.suffix.lower() in SUFFIXES]
    return [(given, True)]


def _in_folder(folder: Path, recursive: bool) -> list[tuple[Path, Path]]:
    walk = folder.rglob("*") if recursive else folder.glob("*")
    files = sorted(p for p in walk if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith("."))
    return [(path, path.relative_to(folder)) for path in files]


def find(
    inputs: Sequence[str | Path], recursive: bool = False, limit: int | None = None, listed: Iterable[str] = ()
) -> list[Job]:
    """The pictures that the given names stand for, each once, in the order given and sorted in folders.

    A file that was named is taken whatever its ending; in folders and patterns only pictures' endings count, and names
    that begin with a dot do not.

    Args:
        inputs: files, folders, patterns (`*`, `?`, `[a-z]`, `**`), or `-` for `listed`.
        recursive: look in subfolders too.
        limit: take the first so many.
        listed: lines, each a path; asked for only where `-` is given.

    Raises:
        UsageError: nothing was given.
        FlashdiffError: a folder holds no picture, or a pattern matches nothing.
    """
    if not inputs:
        raise UsageError("give at least one picture or folder")
    jobs, seen = [], set()
    for given, named in (match for argument in inputs for match in _matches(Path(argument), listed)):
        if given.is_dir():
            named = False
            found = _in_folder(given, recursive)
            if not found:
                hint = "" if recursive else "; -r looks in its subfolders too"
                raise FlashdiffError(f"{given}: no pictures in this folder{hint}")
        else:
            found = [(given, Path(given.name))]
        for path, below in found:
            key = path.absolute()
            if key not in seen:
                seen.add(key)
                jobs.append(Job(path, below, named=named))
    return jobs[:limit]


def with_targets(
    jobs: Sequence[Job],
    output: str | Path | None,
    suffix: str = "-restored",
    ending: str | None = None,
    in_place: bool = False,
) -> list[Job]:
    """Where each picture's result goes.

    Without `output`: beside the source, with `suffix` before its ending. With a name that ends as a picture does, and
    one job: there. Otherwise `output` is a folder that mirrors the tree of the inputs. Formats that cannot be
    written become PNG. Names that collide get -2, -3, ... in the order of the jobs.

    With `in_place`, each result takes its source's place.

    Raises:
        UsageError: a name for many pictures, an unknown ending, or a target that is a source.
    """
    if in_place:
        return [_in_place(job, output, ending) for job in jobs]
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
        planned.append(replace(job, target=free))
    return planned


def _in_place(job: Job, output: str | Path | None, ending: str | None) -> Job:
    if output is not None or ending is not None:
        raise UsageError("--in-place writes over the inputs; leave out --output and --format")
    if job.source.suffix.lower() not in FORMATS:
        raise UsageError(f"{job.source}: --in-place cannot write {job.source.suffix or 'a name without an ending'}")
    return replace(job, target=job.source)
