"""One picture of a run: where it is and where its result goes. A run has millions of these."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from flashdiff_cli.storage.url import Url

if TYPE_CHECKING:
    from flashdiff_cli.pictures.picture import Picture


@lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def place(path: Path | Url | str) -> str:
    """Text that is the same for all names of a file: through links and other spellings of its folder.

    Args:
        path: an address, or a file of this machine, which may be text.
    """
    if isinstance(path, Url):
        return path.text
    folder, name = os.path.split(path)
    return os.path.join(_real(os.path.abspath(folder)), name)


def _kept(path: Path | PurePath | Url | str) -> Url | str:
    return path if isinstance(path, (Url, str)) else str(path)


def _given(kept: Url | str) -> Path | Url:
    return kept if isinstance(kept, Url) else Path(kept)


class Job:
    """One picture to do. Files are kept as text: the objects that paths are take many times as much memory.

    Args:
        source: the picture.
        below: its path below the folder that was given; just its name where a file was given.
        target: where the result goes; None: as yet it is not known.
        named: whether the file itself was named, and not found in a folder or by a pattern.
        data: the source's bytes, where it is no file but came by standard input.
    """

    __slots__ = ("_below", "_in_place", "_source", "_target", "data", "named")

    def __init__(
        self, source: Path | Url | str, below: PurePath | str, target: Path | Url | str | None = None, named: bool = True, data: bytes | None = None
    ):
        self._source, self._target = _kept(source), None if target is None else _kept(target)
        end, whole = str(below), self.source_name
        # Mostly the end of the source's name, of which its length tells all.
        self._below: int | str = len(end) if whole.endswith(end) else end
        self.named, self.data = named, data
        self._in_place: bool | None = None

    def _values(self) -> tuple[object, ...]:
        return self._source, self.below_name, self._target, self.named, self.data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((self._source, self._target))

    def __repr__(self) -> str:
        return f"Job({self.source!r}, {self.below!r}, {self.target!r})"

    @property
    def source(self) -> Path | Url:
        """The picture."""
        return _given(self._source)

    @property
    def source_name(self) -> str:
        """The picture's path or address as text."""
        return str(self._source)

    @property
    def below(self) -> PurePath:
        """Path of the source below the folder that was given."""
        return PurePath(self.below_name)

    @property
    def below_name(self) -> str:
        """As `below`, as text."""
        return self.source_name[-self._below :] if isinstance(self._below, int) else self._below

    @property
    def target(self) -> Path | Url | None:
        """Where the result goes, if that is known."""
        return None if self._target is None else _given(self._target)

    @property
    def result(self) -> Path | Url:
        """The target of a job that has one; see `inputs.with_targets`."""
        if self._target is None:
            raise ValueError(f"{self._source}: no target was chosen")
        return _given(self._target)

    @property
    def in_place(self) -> bool:
        """Whether the output takes the input's place."""
        if self._in_place is None:
            self._in_place = self._target is not None and (self._target == self._source or self._same_place(self._source, self._target))
        return self._in_place

    @staticmethod
    def _same_place(source: Url | str, target: Url | str) -> bool:
        if isinstance(source, Url) or isinstance(target, Url) or os.path.basename(target) != os.path.basename(source):
            return False
        return place(target) == place(source)

    @property
    def relative(self) -> bool:
        """Whether a name of it begins from the present folder."""
        return any(isinstance(kept, str) and not os.path.isabs(kept) for kept in (self._source, self._target))

    def to(self, target: Path | Url | str) -> Job:
        """Return the same job with another target."""
        return Job(self._source, self.below_name, target, self.named, self.data)

    def renamed(self, suffix: str) -> Job:
        """Return the same job with `suffix` before the ending of its target."""
        return self.to(self.result.with_name(self.result.stem + suffix + self.result.suffix))

    def read(self) -> Picture:
        """Return the source's picture.

        Raises:
            FlashdiffError: it cannot be read.
        """
        from flashdiff_cli.pictures.files import picture_of, read_picture

        return read_picture(self.source) if self.data is None else picture_of(self.data, str(self.source))
