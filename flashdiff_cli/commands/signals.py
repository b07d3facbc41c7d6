"""Ctrl-C, SIGTERM and SIGHUP from the first moment on: the work in hand ends in order, and the exit code says which it was."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

HANDLED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(BaseException):
    """A signal asks to stop. It is no KeyboardInterrupt, which the command-line library would turn into another exit code."""

    def __init__(self, number: int):
        super().__init__(number)
        self.code = 128 + number


class Stop(threading.Event):
    """Set when a signal has asked to stop; then `code` is the exit code."""

    code = 130


@contextmanager
def handled(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Call `handler`, while this lasts, for every signal that asks to stop, but not for a hang-up that is ignored (nohup)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    here, before = os.getpid(), {}

    def handle(number: int, frame: object) -> None:
        if os.getpid() != here:  # a process that was forked off for part of the work
            os._exit(128 + number)
        handler(number, frame)

    for number in HANDLED:
        old = signal.getsignal(number)
        if number == signal.SIGINT or old is not signal.SIG_IGN:
            before[number] = old
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)


def leave(number: int, frame: object) -> None:
    """End the process with one line, before anything has begun and when all has ended."""
    with suppress(OSError):
        os.write(2, b"flashdiff: interrupted\n")
    abandon()
    os._exit(128 + number)


def abandon() -> None:
    """Remove the files that are being written, for the process is about to end; nothing is imported for it."""
    atomic = sys.modules.get("flashdiff_cli.pictures.atomic")
    remove = getattr(atomic, "abandon", None)  # it may be half imported
    if remove is not None:
        remove()


def interrupt(number: int, frame: object) -> None:
    """Raise Interrupted, so that files in hand are closed and temporary ones removed."""
    raise Interrupted(number)


def open_streams() -> None:
    """Give closed standard streams something to write to and read from, lest a file gets their number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


def close_output() -> bool:
    """Write out what standard output still holds; False if it cannot be written, and then it is left alone for good."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True
