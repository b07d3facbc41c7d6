"""The folder of a bench: what lies there is replaced only where a bench has made it, unless the user asks for it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from flashdiff_cli.bench.records import Log
from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.runs.entries import NAME
from flashdiff_cli.runs.journal import Journal, Origin, fingerprint

TEXTS, PAGE = ("protocol.json", "summary.json", "summary.md", "summary.html"), "page.html"
IMAGES, FIGURES = "images", "figures"


class OutputFolder:
    """Opens the files of a bench for writing; each is known by its content, as those of `restore` are.

    Args:
        path: of the folder.
        figures: whether figures and the page are among them.
        overwrite: replace whatever stands in the way.

    Raises:
        FlashdiffError: something that no bench has made stands in the way, and may not be replaced.
    """

    def __init__(self, path: str | Path, figures: bool = True, overwrite: bool = False):
        self.path, self.journal, self.overwrite = Path(path), Journal(), overwrite
        # The same for every bench: a folder may be moved and gone on with.
        self.origin = Origin(fingerprint(written_by="bench"), ())
        known, begun = (self.path / NAME).exists(), bool(Log.read(self.path))
        if begun and not known:
            self.overwrite = True  # made by a version that kept no such journal
        for name in (IMAGES, *[FIGURES] * figures) if not (known or begun or overwrite) else ():
            if (self.path / name).is_dir() and any((self.path / name).iterdir()):
                raise FlashdiffError(f"{self.path / name}: exists already and is no bench's; choose another `output`, or pass `overwrite`")
        for name in (*TEXTS, *[PAGE] * figures):
            self.journal.check(self.path / name, self.origin, overwrite=self.overwrite)

    def into(self, path: Path) -> AbstractContextManager[BinaryIO]:
        """Open one of the files in the folder itself; see `pictures.atomic`."""
        return self.journal.file(path, self.origin, overwrite=self.overwrite)
