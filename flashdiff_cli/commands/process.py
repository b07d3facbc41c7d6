"""Options that are about the whole process: threads, limits, and what is logged where. They act as soon as they are read."""

from __future__ import annotations

import logging
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from flashdiff_cli.errors import FlashdiffError, UsageError

LIMIT = "FLASHDIFF_MAX_MEGAPIXELS"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What numeric libraries read when they are imported."""
MOST_THREADS = 1024
FORMAT = "%(asctime)s %(levelname)s %(message)s"
IN_FILES = "%(asctime)s flashdiff %(levelname)s %(message)s"
BEGINNING = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} flashdiff [A-Z]+ ")
"""Of a log file: by it one is known, and nothing else is written to."""

log = logging.getLogger("flashdiff")


def set_threads(number: int | None) -> int | None:
    """Compute with so many threads; None: as torch likes."""
    if number is not None:
        if not 1 <= number <= MOST_THREADS:
            raise UsageError(f"--threads {number} is out of range; give a number from 1 to {MOST_THREADS}")
        for name in THREADS:
            os.environ[name] = str(number)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(number)
    return number


def set_limit(megapixels: float | None) -> float | None:
    """Take pictures of so many million pixels and no larger ones; None: as the environment says."""
    if megapixels is not None:
        os.environ[LIMIT] = f"{megapixels:g}"
        from flashdiff_cli.pictures.limits import max_pixels

        try:
            max_pixels()
        except UsageError:
            raise UsageError(f"--max-megapixels {megapixels:g} is out of range; give millions of pixels, above 0 and at most 4000") from None
    return megapixels


def set_verbose(asked: bool) -> bool:
    """Say on stderr what is done."""
    if asked:
        _to(logging.StreamHandler(sys.stderr), logging.INFO)
    return asked


def set_log_file(path: Path | None) -> Path | None:
    """Write what is done to a file, at its end; warnings go to stderr as they do without it.

    Raises:
        UsageError: the name is a picture's.
        FlashdiffError: it cannot be written, or there is something of that name that is no log of flashdiff's.
    """
    if path is not None:
        from flashdiff_cli.pictures.formats import FORMATS, SUFFIXES

        if path.suffix.lower() in (*FORMATS, *SUFFIXES):
            raise UsageError(f"--log-file {path}: this is a picture's name; end it in .log")
        try:
            handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            reason = "this is a link" if path.is_symlink() else f"cannot be written ({error.strerror})"
            raise FlashdiffError(f"--log-file {path}: {reason}; choose another place") from error
        _to(handler, logging.DEBUG, IN_FILES)
        if not any(type(one) is logging.StreamHandler for one in log.handlers):
            _to(logging.StreamHandler(sys.stderr), logging.WARNING, "%(message)s")
    return path


class _LogFile(logging.FileHandler):
    """Appends to a new file, or to one that is a log of flashdiff's; no link is followed, and no pipe waited for."""

    def _open(self) -> Any:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC"):
            flags |= getattr(os, name, 0)
        descriptor = os.open(self.baseFilename, flags, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FlashdiffError(f"--log-file {self.baseFilename}: this is no file; choose another name")
            head = os.read(descriptor, 64)
            if head and not BEGINNING.match(head):
                raise FlashdiffError(f"--log-file {self.baseFilename}: this file is no log of flashdiff's; choose another name")
            return os.fdopen(descriptor, "a", encoding=self.encoding, errors=self.errors)
        except BaseException:
            os.close(descriptor)
            raise


def _to(handler: logging.Handler, level: int, format: str = FORMAT) -> None:
    handler.setLevel(level)
    handler.setFormatter(logging.Formatter(format))
    log.addHandler(handler)
    log.setLevel(min(level, log.level or level))


@contextmanager
def of_this_run() -> Iterator[None]:
    """Put back what these options change when the run is over."""
    names = (LIMIT, *THREADS)
    before = {name: os.environ.get(name) for name in names}
    level, handlers = log.level, list(log.handlers)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for handler in [one for one in log.handlers if one not in handlers]:
            log.removeHandler(handler)
            with suppress(OSError):
                handler.close()
        log.setLevel(level)


Threads = Annotated[
    int | None, typer.Option("--threads", callback=set_threads, show_default=False, help="Processor threads to compute with (default: all cores).")
]
MaxMegapixels = Annotated[
    float | None,
    typer.Option("--max-megapixels", callback=set_limit, show_default=False, help="Refuse pictures of more million pixels (default: 178)."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", callback=set_verbose, help="Say on stderr what is done, as it is done.")]
LogFile = Annotated[
    Path | None, typer.Option("--log-file", callback=set_log_file, show_default=False, help="Write what is done, with times, to this file.")
]
