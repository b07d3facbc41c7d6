"""What a server lets its visitors do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What visitors may ask of a server.

    Attributes:
        megabytes: of an uploaded file.
        seconds: of one picture, not counting the wait.
        waiting: pictures in the queue.
        batch: pictures that the page takes at once.
        workers: pictures that are restored at once.
    """

    megabytes: float = 50.0
    seconds: float = 600.0
    waiting: int = 32
    batch: int = 50
    workers: int = 1
