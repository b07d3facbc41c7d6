"""Which files a run reads, and where it writes."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.pictures.formats import FORMATS, SUFFIXES, check_output
from flashdiff_cli.storage import listing
from flashdiff_cli.storage.upload import check_writable
from flashdiff_cli.storage.url import WEB, Url, archive, forget, location

if TYPE_CHECKING:
    from flashdiff_cli.pictures.picture import Picture


def place(path: Path | Url) -> Path | Url:
    """A file's name, the same through links and other spellings of its folder."""
    if isinstance(path, Url):
        return path
    return Path(os.path.realpath(path.parent)) / path.name


@dataclass(frozen=True)
class Job:
    """One picture to do."""

    source: Path | Url
    below: PurePath
    """Path of the source below the folder that was given; just its name where a file was given."""
    target: Path | Url | None = None
    named: bool = True
    """Whether the file itself was named, and not found in a folder or by a pattern."""
    data: bytes | None = None
    """The source's bytes, where it is no file but came by standard input."""

    def read(self) -> Picture:
        """The source's picture.

        Raises:
            FlashdiffError: it cannot be read.
        """
        from flashdiff_cli.pictures.files import picture_of, read_picture

        return read_picture(self.source) if self.data is None else picture_of(self.data, str(self.source))

    @property
    def in_place(self) -> bool:
        """Whether the output takes the input's place."""
        return self.target is not None and place(self.target) == place(self.source)

    @property
    def result(self) -> Path | Url:
        """The target of a job that has one; see `with_targets`."""
        if self.target is None:
            raise ValueError(f"{self.source}: no target was chosen")
        return self.target

    def renamed(self, suffix: str) -> Job:
        """The same job with `suffix` before the ending of its target."""
        return replace(self, target=self.result.with_name(self.result.stem + suffix + self.result.suffix))


def _listed(listed: Iterable[str | bytes]) -> list[tuple[Path | Url, bool]]:
    """The paths of a list, one a line; names are bytes, whatever they mean in the console's code."""
    names = (os.fsdecode(line).rstrip("\r\n") for line in listed)
    return [(location(name), True) for name in names if name.strip()]


def _matches(given: Path | Url, listed: Iterable[str | bytes], passed: Counter[str]) -> list[tuple[Path | Url, bool]]:
    """The paths that one argument names: itself, what a pattern matches, or the lines of a list; whether by name."""
    text = str(given)
    if text == "-":
        return _listed(listed)
    if isinstance(given, Url):
        # In an address of the web a question mark begins a query.
        if not any(c in text for c in ("*[" if given.protocol in WEB else "*?[")):
            return [(given, True)]
        return [(path, False) for path in listing.matching(given) if _no_name(PurePosixPath(path.name)) is None]
    if any(c in text for c in "*?[") and not os.path.lexists(given):
        found = sorted(glob.glob(text, recursive=True))
        if not found:
            raise FlashdiffError(f"{text}: nothing matches this pattern")
        kept = []
        for path in map(Path, found):
            # Only what the pattern's own wildcards have found can be somebody's thumbnails.
            odd = [part for part in path.parts if is_cache(part) and part not in given.parts]
            reason = "in folders of thumbnails" if odd else None if path.is_dir() else _no_picture(path)
            if reason is None:
                kept.append((path, False))
            else:
                passed[reason] += 1
        return kept
    return [(given, True)]


CACHES = frozenset({"@eadir", "__macosx", "#recycle", "$recycle.bin", "lost+found", "system volume information"})
"""Folders in which systems keep thumbnails and what was deleted, besides those whose names begin with a dot."""


def is_cache(name: str) -> bool:
    """Whether a folder of this name holds thumbnails or deleted files, and is not meant by who names the folder above it."""
    return (name.startswith(".") and name not in (".", "..")) or name.casefold() in CACHES


def _no_name(path: PurePath) -> str | None:
    """Why a file of this name is passed over in a folder; None if it is not."""
    suffix = path.suffix.lower()
    if path.name.startswith("."):
        return "hidden"
    if suffix not in SUFFIXES:
        return suffix if suffix and len(suffix) < 9 else "without a known ending"
    return None


def _no_picture(path: Path) -> str | None:
    """Why a file in a folder is passed over; None if it is not."""
    return _no_name(path) or (None if path.is_file() else "pipes, devices or broken links")


def _counted(path: PurePath) -> str | None:
    """As `_no_name`; "" for what is passed over and not counted: the journals of earlier runs and what systems leave everywhere."""
    reason = _no_name(path)
    return "" if reason == "hidden" and path.suffix.lower() not in SUFFIXES else reason


def _in_folder(folder: Path, recursive: bool, passed: Counter[str]) -> list[tuple[Path, Path]]:
    """The pictures in a folder, sorted, and their paths below it; what is passed over is counted by its reason."""
    files = []

    def unreadable(error: OSError) -> None:
        passed["in folders that cannot be read"] += 1

    for at, folders, names in os.walk(folder, onerror=unreadable):
        here = Path(at)
        caches = [name for name in folders if is_cache(name)]
        linked = [name for name in folders if not is_cache(name) and (here / name).is_symlink()]
        passed["hidden folders or folders of thumbnails"] += len(caches)
        passed["links to folders" if recursive else "subfolders (-r looks in them)"] += len(linked)
        inside = sorted(set(folders) - {*caches, *linked})
        passed["subfolders (-r looks in them)"] += 0 if recursive else len(inside)
        folders[:] = inside if recursive else []
        for name in names:
            path = here / name
            reason = _no_picture(path)
            if reason is None:
                files.append(path)
            # The journal of earlier runs and what systems leave everywhere are nobody's pictures.
            elif reason != "hidden" or path.suffix.lower() in SUFFIXES:
                passed[reason] += 1
    return [(path, path.relative_to(folder)) for path in sorted(files)]


def _folder(folder: Path | Url, recursive: bool, passed: Counter[str]) -> list[tuple[Path | Url, PurePath]]:
    if isinstance(folder, Url):
        return list(listing.in_folder(folder, recursive, passed, is_cache, _counted))
    return list(_in_folder(folder, recursive, passed))


def say_passed(passed: Counter[str]) -> str | None:
    """One line on what was passed over in folders; None if nothing was."""
    found = +passed
    if not found:
        return None
    parts = [f"{count} {reason}" for reason, count in found.most_common(6)]
    rest = found.total() - sum(count for _, count in found.most_common(6))
    return f"{found.total()} passed over in folders: {', '.join(parts)}{f', {rest} others' if rest else ''}"


def find(
    inputs: Sequence[str | Path | Url],
    recursive: bool = False,
    limit: int | None = None,
    listed: Iterable[str | bytes] = (),
    passed: Counter[str] | None = None,
) -> list[Job]:
    """The pictures that the given names stand for, each once, in the order given and sorted in folders.

    A file that was named is taken whatever its ending; in folders and patterns only pictures' endings count, and names
    that begin with a dot do not, nor do folders that hold thumbnails or deleted files.

    Args:
        inputs: files, folders, archives (.zip, .tar, .tar.gz, ...) and patterns (`*`, `?`, `[a-z]`, `**`), as paths or addresses; or `-`
            for `listed`.
        recursive: look in subfolders too.
        limit: take the first so many.
        listed: lines, each a path; asked for only where `-` is given.
        passed: what is passed over in folders is counted here, by its reason (see `say_passed`).

    Raises:
        UsageError: nothing was given.
        FlashdiffError: a folder holds no picture, or a pattern matches nothing.
    """
    if not inputs:
        raise UsageError("give at least one picture or folder")
    jobs, seen = [], set()
    passed = Counter() if passed is None else passed
    forget()
    for given, named in (match for argument in inputs for match in _matches(location(argument), listed, passed)):
        given = archive(given) or given
        if given.is_dir():
            named = False
            here: Counter[str] = Counter()
            found = _folder(given, recursive, here)
            passed.update(here)
            if not found:
                hint = "" if recursive else "; -r looks in its subfolders too"
                said = say_passed(here)
                raise FlashdiffError(f"{given}: no pictures in this folder{hint}{f' ({said})' if said else ''}")
        else:
            found = [(given, PurePath(given.name))]
        for path, below in found:
            key = path.absolute()
            if key not in seen:
                seen.add(key)
                jobs.append(Job(path, below, named=named))
    return jobs[:limit]


def with_targets(
    jobs: Sequence[Job],
    output: str | Path | Url | None,
    suffix: str = "-restored",
    ending: str | None = None,
    in_place: bool = False,
    of_another: Callable[[Job], bool] = lambda job: False,
    refused: Callable[[Job, UsageError], None] | None = None,
) -> list[Job]:
    """Where each picture's result goes.

    Without `output`: beside the source, with `suffix` before its ending. With a name that ends as a picture does, and
    one job: there. Otherwise `output` is a folder that mirrors the tree of the inputs. Formats that cannot be
    written become PNG. Names that collide get -2, -3, ... in the order of the jobs, and so do names at which `of_another` says that
    an earlier run has left the result of another source.

    With `in_place`, each result takes its source's place. With `refused`, that is told of a job whose target is a source, and the job left out.

    Raises:
        UsageError: a name for many pictures, an unknown ending, or a target that is a source.
    """
    if in_place:
        return [_in_place(job, output, ending) for job in jobs]
    named = output is not None and not str(output).endswith("/")
    output = None if output is None else location(output)
    if isinstance(output, Url):
        check_writable(output)
    single = output is not None and named and _is_file(output, len(jobs))
    if not suffix and output is None:
        raise UsageError("--suffix must not be empty without --output: it would overwrite the input")
    sources = {place(job.source) for job in jobs}
    taken: set[Path | Url] = set()
    planned = []
    for job in jobs:
        target = output if output is not None and single else _target(job, output, suffix, ending)
        number, free = 2, target
        while place(free) in taken or (place(free) not in sources and not single and of_another(replace(job, target=free))):
            free, number = target.with_name(f"{target.stem}-{number}{target.suffix}"), number + 1
        if place(free) in sources:
            error = UsageError(f"{free}: the output would overwrite an input; choose another --output or --suffix")
            if refused is None:
                raise error
            refused(replace(job, target=free), error)
            continue
        taken.add(place(free))
        planned.append(replace(job, target=free))
    return planned


def _is_file(output: Path | Url, jobs: int) -> bool:
    """Whether an output is the name of a picture, not of a folder.

    Raises:
        UsageError: it is, for many pictures; or it has an ending of no format that is written.
    """
    if output.is_dir():
        return False
    if output.suffix.lower() in FORMATS:
        if jobs > 1:
            raise UsageError(f"--output {output}: one file for {jobs} pictures; give a folder")
        return True
    if output.suffix and jobs == 1:
        check_output(output)
    return False


def _target(job: Job, output: Path | Url | None, suffix: str, ending: str | None) -> Path | Url:
    """The name of a result beside its source, or in a folder."""
    kind = ending or (job.source.suffix if job.source.suffix.lower() in FORMATS else ".png")
    if output is None:
        if isinstance(job.source, Url):
            check_writable(job.source)
        return job.source.with_name(job.source.stem + suffix + kind)
    return output / job.below.with_suffix(kind)


def _in_place(job: Job, output: str | Path | Url | None, ending: str | None) -> Job:
    if output is not None or ending is not None:
        raise UsageError("--in-place writes over the inputs; leave out --output and --format")
    if job.source.suffix.lower() not in FORMATS:
        raise UsageError(f"{job.source}: --in-place cannot write {job.source.suffix or 'a name without an ending'}")
    if isinstance(job.source, Url):
        check_writable(job.source)
    return replace(job, target=job.source)
