"""Which files a run reads, and where it writes."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.pictures.formats import FORMATS, SUFFIXES, check_output
from flashdiff_cli.runs.job import Job, place
from flashdiff_cli.storage import listing
from flashdiff_cli.storage.upload import check_writable
from flashdiff_cli.storage.url import WEB, Url, archive, forget, location, suffix_of

__all__ = ["Job", "find", "is_cache", "place", "say_passed", "with_targets"]


def _listed(listed: Iterable[str | bytes]) -> Iterator[tuple[Path | Url, bool]]:
    """Return the paths of a list, one a line; names are bytes, whatever they mean in the console's code."""
    names = (os.fsdecode(line).rstrip("\r\n") for line in listed)
    return ((location(name), True) for name in names if name.strip())


def _matches(given: Path | Url, listed: Iterable[str | bytes], passed: Counter[str]) -> Iterable[tuple[Path | Url, bool]]:
    """Return the paths that one argument names: itself, what a pattern matches, or the lines of a list; whether by name."""
    text = str(given)
    if text == "-":
        return _listed(listed)
    if isinstance(given, Url):
        # In an address of the web a question mark begins a query.
        if not any(c in text for c in ("*[" if given.protocol in WEB else "*?[")):
            return [(given, True)]
        return [(path, False) for path in listing.matching(given) if _no_name(path.name) is None]
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


NO_FILE, DEEPER = "pipes, devices or broken links", "subfolders (-r looks in them)"
CACHES = frozenset({"@eadir", "__macosx", "#recycle", "$recycle.bin", "lost+found", "system volume information"})
"""Folders in which systems keep thumbnails and what was deleted, besides those whose names begin with a dot."""


def is_cache(name: str) -> bool:
    """Return whether a folder of this name holds thumbnails or deleted files, and is not meant by who names the folder above it."""
    return (name.startswith(".") and name not in (".", "..")) or name.casefold() in CACHES


def _no_name(name: str) -> str | None:
    """Return why a file of this name is passed over in a folder; None if it is not."""
    suffix = suffix_of(name).lower()
    if name.startswith("."):
        return "hidden"
    if suffix not in SUFFIXES:
        return suffix if suffix and len(suffix) < 9 else "without a known ending"
    return None


def _no_picture(path: Path) -> str | None:
    """Return why a file that a pattern matches is passed over; None if it is not."""
    return _no_name(path.name) or (None if path.is_file() else NO_FILE)


def _counted(name: str) -> str | None:
    """Return what `_no_name` does; "" for what is passed over and not counted: the journals of earlier runs and what systems leave everywhere."""
    reason = _no_name(name)
    return "" if reason == "hidden" and suffix_of(name).lower() not in SUFFIXES else reason


def _in_folder(folder: Path, recursive: bool, passed: Counter[str]) -> Iterator[tuple[str, str]]:
    """Yield the pictures in a folder, in the order of their paths' parts, and their paths below it; what is passed over is counted by its reason."""
    begin = str(folder / "x")[:-1]
    waiting = [iter(_entries(begin, recursive, passed))]
    while waiting:
        entry = next(waiting[-1], None)
        if entry is None:
            waiting.pop()
        elif entry.endswith(os.sep):
            waiting.append(iter(_entries(entry, recursive, passed)))
        else:
            yield entry, entry[len(begin) :]


def _entries(folder: str, recursive: bool, passed: Counter[str]) -> list[str]:
    """Return the pictures in one folder, and the folders in it that are to be looked into, which end in a stroke; sorted by name."""
    found: list[str] = []
    try:
        with os.scandir(folder or ".") as entries:
            for entry in sorted(entries, key=lambda entry: (not entry.is_dir(), entry.name)):
                name, inside = entry.name, entry.is_dir()
                if inside:
                    reason = _no_folder(entry, recursive)
                else:
                    reason = _counted(name)
                    if reason is None and not entry.is_file():
                        reason = NO_FILE
                if reason is None:
                    found.append(name + os.sep if inside else name)
                elif reason:
                    passed[reason] += 1
    except OSError:
        passed["in folders that cannot be read"] += 1
        return []
    return [folder + name for name in sorted(found, key=lambda name: name.removesuffix(os.sep))]


def _no_folder(entry: os.DirEntry[str], recursive: bool) -> str | None:
    """Return why a folder is not looked into; None if it is."""
    if is_cache(entry.name):
        return "hidden folders or folders of thumbnails"
    if entry.is_symlink():
        return "links to folders" if recursive else DEEPER
    return None if recursive else DEEPER


def _folder(folder: Path | Url, recursive: bool, passed: Counter[str]) -> Iterator[tuple[Url | str, str]]:
    if isinstance(folder, Url):
        return listing.in_folder(folder, recursive, passed, is_cache, _counted)
    return _in_folder(folder, recursive, passed)


def say_passed(passed: Counter[str]) -> str | None:
    """Return one line on what was passed over in folders; None if nothing was."""
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
    """Return the pictures that the given names stand for, each once, in the order given and sorted in folders.

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
    jobs: list[Job] = []
    seen: set[str] = set()
    passed = Counter() if passed is None else passed
    forget()
    for given, named in (match for argument in inputs for match in _matches(location(argument), listed, passed)):
        given = archive(given) or given
        if not given.is_dir():
            _add(jobs, seen, given, given.name, named)
            continue
        here, before = Counter[str](), len(jobs)
        for path, below in _folder(given, recursive, here):
            _add(jobs, seen, path, below, False)
            before = -1
        passed.update(here)
        if before >= 0:
            hint = "" if recursive else "; -r looks in its subfolders too"
            said = say_passed(here)
            raise FlashdiffError(f"{given}: no pictures in this folder{hint}{f' ({said})' if said else ''}")
    return jobs[:limit]


def _add(jobs: list[Job], seen: set[str], path: Path | Url | str, below: str, named: bool) -> None:
    """Add a picture, if it is not there yet."""
    job = Job(path, below, named=named)
    key = path.text if isinstance(path, Url) else os.path.join(os.getcwd(), job.source_name)
    if key not in seen:
        seen.add(key)
        jobs.append(job)


def with_targets(
    jobs: Sequence[Job],
    output: str | Path | Url | None,
    suffix: str = "-restored",
    ending: str | None = None,
    in_place: bool = False,
    of_another: Callable[[Job], bool] = lambda job: False,
    refused: Callable[[Job, UsageError], None] | None = None,
) -> list[Job]:
    """Return where each picture's result goes.

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
    taken: set[str] = set()
    planned = []

    def is_taken(job: Job, target: Path | Url | str, at: str) -> bool:
        return at in taken or (at not in sources and not single and of_another(job.to(target)))

    for job in jobs:
        target = output if output is not None and single else _target(job, output, suffix, ending)
        number, free, at = 2, target, place(target)
        while is_taken(job, free, at):
            whole = Path(target) if isinstance(target, str) else target
            free, number = whole.with_name(f"{whole.stem}-{number}{whole.suffix}"), number + 1
            at = place(free)
        if at in sources:
            error = UsageError(f"{free}: the output would overwrite an input; choose another --output or --suffix")
            if refused is None:
                raise error
            refused(job.to(free), error)
            continue
        taken.add(at)
        planned.append(job.to(free))
    return planned


def _is_file(output: Path | Url, jobs: int) -> bool:
    """Return whether an output is the name of a picture, not of a folder.

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


def _target(job: Job, output: Path | Url | None, suffix: str, ending: str | None) -> Url | str:
    """Return the name of a result beside its source, or in a folder."""
    name, source = job.source_name, job.source
    own = suffix_of(os.path.basename(name)) if isinstance(source, Path) else source.suffix
    kind = ending or (own if own.lower() in FORMATS else ".png")
    if output is None:
        if isinstance(source, Url):
            check_writable(source)
            return source.with_name(source.stem + suffix + kind)
        return name.removesuffix(own) + suffix + kind
    below = job.below_name
    below = below.removesuffix(suffix_of(os.path.basename(below))) + kind
    if isinstance(output, Url):
        begin, end = output.around
        return Url(begin + below + end)
    return os.path.join(output, below)


def _in_place(job: Job, output: str | Path | Url | None, ending: str | None) -> Job:
    if output is not None or ending is not None:
        raise UsageError("--in-place writes over the inputs; leave out --output and --format")
    if job.source.suffix.lower() not in FORMATS:
        raise UsageError(f"{job.source}: --in-place cannot write {job.source.suffix or 'a name without an ending'}")
    if isinstance(job.source, Url):
        check_writable(job.source)
    return job.to(job.source)
