"""What `restore` makes of its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from flashdiff_cli.errors import UsageError, choose_from

if TYPE_CHECKING:
    from flashdiff_cli.runs.settings import Settings


def ending_named(format: str | None) -> str | None:
    """Return the ending of the format that --format names; None where it is not given.

    Raises:
        UsageError: it cannot be written.
    """
    from flashdiff_cli.pictures.formats import FORMATS

    if format is None:
        return None
    ending = "." + format.lower().lstrip(".")
    if ending not in FORMATS:
        raise UsageError(f"--format {format!r} cannot be written; {choose_from(format, [name[1:] for name in FORMATS])}")
    return ending


def check_choices(fast_and_start: bool, overwrite_and_resume: bool) -> None:
    """Raise a UsageError if two options were given of which each means the opposite of the other."""
    if fast_and_start:
        raise UsageError("--fast and --start-step exclude each other: --fast is --start-step 0")
    if overwrite_and_resume:
        raise UsageError("--overwrite and --resume exclude each other: the one does all again, the other keeps all that is there")


def settings_among(given: Mapping[str, Any], **changed: Any) -> Settings:
    """Return the settings among a command's arguments, which have the names of their fields; `changed` go before them."""
    from flashdiff_cli.runs.settings import Settings

    return Settings(**({field.name: given[field.name] for field in fields(Settings) if field.name in given} | changed))
