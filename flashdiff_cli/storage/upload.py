"""Objects that are there whole or not at all, as files are by `pictures.atomic`."""

from __future__ import annotations

import hashlib
import io
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.storage.url import Url, content_token

STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf", "oss", "oci", "tos", "memory"})
"""Protocols under which an object is seen once all of it has been sent, and not before."""


def check_writable(place: Url) -> None:
    """Raise a UsageError if nothing can be written to an address, or its driver is not there."""
    if place.read_only:
        raise UsageError(f"{place}: {place.protocol}:// is only read; give --output a folder, or s3://, gs://, az:// or hf://")
    place.open_storage()


@contextmanager
def uploaded(place: Url, replace: bool = True, ready: Callable[[int, int, str], bool] | None = None) -> Iterator[BinaryIO]:
    """Open an object for writing; it is sent when all of it is known, and never seen in part.

    Args:
        place: its address.
        replace: whether an object of that name may be replaced.
        ready: called with its bytes, the number of its content (`stat`'s second) and its SHA-256 in hexadecimal, before it is
            sent; its answer stands instead of `replace`.

    Raises:
        UsageError: nothing can be written there.
        FlashdiffError: the store refuses, or there is an object that may not be replaced.
    """
    check_writable(place)
    buffer = io.BytesIO()
    try:
        yield buffer
    except ValueError as error:
        raise FlashdiffError(f"{place}: cannot be written as a file of this kind ({error}); choose another ending") from error
    data = buffer.getvalue()
    if ready is not None:
        replace = ready(len(data), content_token(data), hashlib.sha256(data).hexdigest())
    send(place, data, replace)


def send(place: Url, data: bytes, replace: bool = True) -> None:
    """Write an object in one step.

    Raises:
        FlashdiffError: as for `uploaded`.
    """
    try:
        place.ask("written", lambda fs, path: _send(fs, path, data, replace, place.protocol in STORES))
    except FileExistsError as error:
        raise FlashdiffError(f"{place}: exists already and is not flashdiff's; choose another name, or pass `overwrite`") from error
    except FileNotFoundError as error:
        raise FlashdiffError(f"{place}: cannot be written (there is no such bucket or folder); make it, or choose another `output`") from error


def _send(fs: Any, path: str, data: bytes, replace: bool, at_once: bool) -> None:
    if at_once:
        try:
            fs.pipe_file(path, data, mode="overwrite" if replace else "create")
        except NotImplementedError:  # a store that cannot be asked to replace nothing
            _check_free(fs, path)
            fs.pipe_file(path, data)
        return
    folder = path.rsplit("/", 1)[0] if "/" in path else ""
    with suppress(OSError, NotImplementedError):
        fs.makedirs(folder, exist_ok=True)
    temporary = f"{folder}/.flashdiff-{secrets.token_hex(8)}.part"
    try:
        fs.pipe_file(temporary, data)
        if not replace:
            _check_free(fs, path)
        fs.mv(temporary, path)
    except BaseException:
        with suppress(Exception):
            fs.rm_file(temporary)
        raise


def _check_free(fs: Any, path: str) -> None:
    if fs.exists(path):
        raise FileExistsError(path)
