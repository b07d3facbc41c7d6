"""What runs have written into a folder: `.flashdiff.jsonl` beside the outputs, one line each.

A line is on the disk before its file gets its name, and says by which content that file will be known. So whenever a run is
killed, the next one knows what it left: a file is what the line with its content says; one that no line knows is not flashdiff's.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.pictures.atomic import Finished, whole
from flashdiff_cli.runs.content import absolute_name, digest_of, other_names, same_file, stat_of, unchanged
from flashdiff_cli.runs.entries import NAME, Entries, Entry
from flashdiff_cli.runs.inputs import Job
from flashdiff_cli.runs.lines import append, appending
from flashdiff_cli.runs.record import Record, finite
from flashdiff_cli.runs.remote_entries import LookedUp, RemoteEntries
from flashdiff_cli.storage.upload import uploaded
from flashdiff_cli.storage.url import Url

NEW, DONE, STALE, OTHER, FOREIGN = "new", "done", "stale", "other", "foreign"
IN_THE_WAY = "exists already and is not flashdiff's; choose another --output or --suffix, or pass --overwrite"
OF_ANOTHER = "exists already, made from another picture; choose another --output or --suffix, or pass --overwrite"
HARD_LINKED = "has more names (hard links), which would keep the old content; choose an --output, or pass --overwrite"
CHANGED = "was changed while it was being restored, and is left as it is; run again"

LAST_SEEN = 1000
"""Sources whose state is remembered, for those that are being restored."""


def fingerprint(**settings: Any) -> str:
    """Return a short name for everything that an output depends on besides its source; equal settings give equal names."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Origin:
    """What a file is made from: a picture, or several."""

    name: str
    """The absolute path; of several, the fingerprint of all."""
    paths: Sequence[Path | Url]
    given: str = ""
    """The path as it was given, by which older versions knew it."""

    @classmethod
    def of(cls, *paths: Path | Url) -> Origin:
        """Make the origin of what comes of one picture, or of several."""
        names = [absolute_name(path) for path in paths]
        if len(names) == 1:
            return cls(names[0], tuple(paths), str(paths[0]))
        return cls(fingerprint(sources=names), tuple(paths))

    @classmethod
    def of_run(cls, inputs: Sequence[Path | Url], sources: Sequence[Path | Url]) -> Origin:
        """Make the origin of what a whole run writes: known by what was given, bounded in who may read it by every picture."""
        return cls(fingerprint(run=[absolute_name(path) for path in inputs]), sources)


def place_of(job: Job) -> Path | Url:
    """Return where a job's result goes: in place, into the file that a link means."""
    if isinstance(job.result, Url):
        return job.result.bare()
    return Path(os.path.realpath(job.result)) if job.in_place else job.result


class Journal:
    """The files that flashdiff made, in all folders that a run writes into; each folder's journal is read when it is first asked for.

    Args:
        sparse: of a store's folder, ask for names one by one, and do not list it: for one of many workers.
    """

    def __init__(self, sparse: bool = False):
        self._remote = LookedUp if sparse else RemoteEntries
        self._folders: dict[Path | Url, Entries] = {}
        self._seen: dict[Path | Url, list[int] | None] = {}
        self._lock = threading.Lock()

    def entries(self, folder: Path | Url, anew: bool = False, name: str | None = None) -> Entries:
        """Return the journal of a folder; `anew`: with what other runs have added since, of all files or of `name`."""
        folder = folder.absolute()
        with self._lock:
            known = folder in self._folders
            if not known:
                self._folders[folder] = self._remote(folder) if isinstance(folder, Url) else Entries(folder)
            entries = self._folders[folder]
        if known and anew:
            entries.refresh(name)
        return entries

    def state(self, job: Job, settings: str, anew: bool = False) -> str:
        """Return how a job's target stands, by name and content.

        Args:
            job: with a target.
            settings: the `fingerprint` of this run.
            anew: look at what other runs have added since.

        Returns:
            "new": nothing there, or in place a picture that is not restored yet. "done": made from this source, as it still is,
            with these settings. "stale": made from this source, when it was another or with other settings. "other": made from
            another source. "foreign": not made by flashdiff, or changed since.

        Raises:
            FlashdiffError: the folder's journal cannot be used.
        """
        source, place = job.source, place_of(job)
        self._seen.pop(source, None)
        self._seen[source] = stat_of(source)
        if len(self._seen) > LAST_SEEN:
            self._seen.pop(next(iter(self._seen)))
        entries = self.entries(place.parent, anew, place.name)
        if entries.trouble:
            raise FlashdiffError(entries.trouble)
        if job.in_place:
            return self._in_place(place, settings)
        return self._standing(place, Origin.of(source), settings) if entries.has(place.name) else NEW

    def made_as(self, place: Path | Url) -> Entry | None:
        """Return the line that made a file what it is; None: none did."""
        # Of a file that another run has made since the journal was read, the line is there before the file has its name.
        return self._known(place, anew=False) or self._known(place, anew=True)

    def _known(self, place: Path | Url, anew: bool) -> Entry | None:
        now, digest = self.entries(place.parent).stat(place.name), None
        if now is None:
            return None
        for entry, seen in self.entries(place.parent, anew, place.name).of(place.name):
            if entry.target_stat[0] != now[0]:
                continue
            if now == seen or (entry.target_digest is None and now[:2] == entry.target_stat[:2]):
                return entry
            if entry.target_digest is not None:
                digest = digest or digest_of(place, follow=False)
                if digest == entry.target_digest:
                    return entry
        return None

    def _begun(self, place: Path | Url, origin: Origin) -> bool:
        """Return whether a file is the empty one with which a killed run took a name, where a file system lets nothing better."""
        now = self.entries(place.parent).stat(place.name)
        last = next(self.entries(place.parent).of(place.name), None)
        return now is not None and now[0] == 0 and last is not None and last[0].source in (origin.name, origin.given)

    def _in_place(self, place: Path | Url, settings: str) -> str:
        found = self.made_as(place)
        if found is None:
            return NEW
        return DONE if found.settings == settings else STALE

    def _standing(self, place: Path | Url, origin: Origin, settings: str = "", of: str | None = None) -> str:
        if not self.entries(place.parent).has(place.name):
            return NEW
        found = self.made_as(place)
        if found is None:
            return STALE if self._begun(place, origin) else FOREIGN
        alone = origin.given != ""
        alike = alone and unchanged(origin.paths[0], stat_of(origin.paths[0]), found.source_stat, found.source_digest)
        if found.of != of or found.in_place or not (alike or found.source in (origin.name, origin.given)):
            return OTHER
        return DONE if found.settings == settings and (alike or not alone) else STALE

    def is_of_another(self, job: Job) -> bool:
        """Return whether a job's target is the result of another source, so that this one's should get another name."""
        with suppress(FlashdiffError):
            return not job.in_place and self.state(job, "") == OTHER
        return False

    def check(self, path: Path | Url, origin: Origin, of: str | None = None, overwrite: bool = False) -> None:
        """Raise a FlashdiffError if a file may not be written there: something is in the way, or a source itself.

        Args:
            path: of the file.
            origin: what it would be made from.
            of: name of the picture that it goes with.
            overwrite: whatever is in the way may be replaced.
        """
        entries = self.entries(path.parent)
        if entries.trouble:
            raise FlashdiffError(entries.trouble)
        if any(same_file(path, source) for source in origin.paths):
            raise FlashdiffError(f"{path}: the output would overwrite an input; choose another --output or --suffix")
        state = self._standing(path, origin, of=of)
        if state in (OTHER, FOREIGN) and not overwrite:
            raise FlashdiffError(f"{path}: {OF_ANOTHER if state == OTHER else IN_THE_WAY}")

    def made(self, path: Path | Url) -> bool:
        """Return whether a file is what an earlier run has written, and not a picture that was restored in place."""
        if isinstance(path, Url) and path.read_only:
            return False
        with suppress(FlashdiffError):
            entries = self.entries(path.parent)
            found = next(entries.of(path.name), None)
            return not found[0].in_place if found is not None else entries.is_other(path.name)
        return False

    def record(self, job: Job) -> Record:
        """Return the record of a finished job, marked as skipped."""
        found = self.made_as(place_of(job))
        record = found.record if found is not None and found.record is not None else Record("")
        record.input, record.output, record.status = str(job.source), str(job.target), "skipped"
        return record

    def notes(self) -> list[str]:
        """Return a line for each journal that holds what flashdiff did not write."""
        found = [entries for entries in self._folders.values() if entries.passed and not entries.trouble]
        return [f"{entries.path}: lines that are not flashdiff's were passed over ({entries.passed})" for entries in found]

    @contextmanager
    def result(self, job: Job, settings: str, digest: str, record: Record, overwrite: bool = False) -> Iterator[BinaryIO]:
        """Open a job's target for writing, see `file`; in place, it is replaced only if it is what was read.

        Args:
            job: whose `state` was asked for before its source was read.
            settings: the `fingerprint` of this run.
            digest: SHA-256 of the source as it was read, in hexadecimal.
            record: of what was done.
            overwrite: replace whatever is in the way.
        """
        place = place_of(job)
        if not job.in_place:
            with self.file(place, Origin.of(job.source), settings, digest, record, overwrite=overwrite) as file:
                yield file
            return

        def allowed() -> str:
            if not unchanged(place, stat_of(place), self._seen.get(job.source), digest):
                raise FlashdiffError(f"{job.source}: {CHANGED}")
            if other_names(place) and not overwrite:
                raise FlashdiffError(f"{job.source}: {HARD_LINKED}")
            if self._in_place(place, settings) != NEW and not overwrite:
                raise FlashdiffError(f"{job.source}: another run has restored it in place meanwhile; left as it is")
            return STALE

        values = {"source": absolute_name(job.source), "in_place": True, "settings": settings, "source_digest": digest}
        values |= {"source_stat": self._seen.get(job.source)}
        with self._write(place, values, record, allowed, keep=True) as file:
            yield file

    @contextmanager
    def file(
        self,
        path: Path | Url,
        origin: Origin,
        settings: str = "",
        digest: str | None = None,
        record: Record | None = None,
        of: str | None = None,
        overwrite: bool = False,
    ) -> Iterator[BinaryIO]:
        """Open a file for writing that gets its name when it is whole and the journal knows it, see `pictures.atomic`.

        Args:
            path: of the file.
            origin: what it is made from; nobody may read the file who may not read that.
            settings: fingerprint of all else that it depends on.
            digest: SHA-256 of the source as it was read, in hexadecimal.
            record: of what was done.
            of: name of the picture that it goes with.
            overwrite: replace whatever is in the way.

        Raises:
            FlashdiffError: as for `check`, or the disk refuses.
        """

        def allowed() -> str:
            self.check(path, origin, of, overwrite)
            return self._standing(path, origin, settings, of)

        stat = None
        if origin.given:
            stat = self._seen.get(origin.paths[0]) or stat_of(origin.paths[0])
        values = {"of": of, "source": origin.name, "in_place": False, "settings": settings, "source_digest": digest}
        values |= {"source_stat": stat}
        with self._write(path, values, record, allowed, like=origin.paths) as file:
            yield file

    @contextmanager
    def _write(
        self,
        place: Path | Url,
        values: dict[str, Any],
        record: Record | None,
        allowed: Callable[[], str],
        keep: bool = False,
        like: Sequence[Path | Url] = (),
    ) -> Iterator[BinaryIO]:
        if isinstance(place, Url):
            with self._upload(place, values, record, allowed) as file:
                yield file
            return
        path = place.parent / NAME
        with ExitStack() as held:
            opened: list[int] = []

            def ready(done: Finished) -> bool:
                # No other run adds a line before this file has got its name.
                opened.append(held.enter_context(appending(path)))
                self.entries(place.parent, anew=True)
                replace = allowed() != NEW
                append(opened[0], path, _line(place, [done.size, done.time], done.digest, values, record), sync=True)
                return replace

            local = [source for source in like if isinstance(source, Path)]
            with whole(place, like=local, keep=keep, ready=ready) as file:
                yield file
            seen = stat_of(place, follow=False)
            with suppress(FlashdiffError):  # it saves reading the file next time, no more
                append(opened[0], path, json.dumps({"output": place.name, "seen": seen}), sync=False)

    @contextmanager
    def _upload(self, place: Url, values: dict[str, Any], record: Record | None, allowed: Callable[[], str]) -> Iterator[BinaryIO]:
        """Write as `_write` does, into a store."""
        entries, stats = self.entries(place.parent), []
        assert isinstance(entries, RemoteEntries)

        def ready(size: int, version: int, digest: str) -> bool:
            entries.refresh(place.name)
            replace = allowed() != NEW
            stats.append([size, version])
            entries.add(_line(place, stats[0], digest, values, record))
            return replace

        with uploaded(place, ready=ready) as file:
            yield file
        entries.written(place.name, stats[0])

    def unite(self) -> list[str]:
        """Make the journals of stores small at the end of a run; what could not be done, for people."""
        errors = []
        for entries in self._folders.values():
            if isinstance(entries, RemoteEntries):
                try:
                    entries.unite()
                except FlashdiffError as error:
                    errors.append(str(error))
        return errors


def _line(place: Path | Url, stat: list[int], digest: str, values: dict[str, Any], record: Record | None) -> str:
    line = {"output": place.name, "target_stat": stat, "target_digest": digest}
    # Only now, for writing may have added notes.
    return json.dumps(line | values | {"record": record and finite(asdict(record))})
