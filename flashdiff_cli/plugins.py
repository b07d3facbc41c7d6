"""Classes that other installed packages offer through entry points; one that fails is named once and left out."""

from __future__ import annotations

import logging
import os
import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from flashdiff_cli.errors import one_line

if TYPE_CHECKING:
    from flashdiff_cli.registry import Registry

log = logging.getLogger("flashdiff")
RESERVED = {"size", "seed", "generator"}
"""Names that no option can have: what `Operator.from_options` takes besides."""
_seen: dict[tuple[str, str, str], type | None] = {}
"""Class by (group, name, value) of the entry points that were tried; None: left out."""


def load_plugins(group: str, registry: Registry, base: type) -> None:
    """Add what installed packages offer in an entry point group to a registry, each entry point once in a process.

    A package that cannot be imported, leaves the program, offers something else than a subclass, or takes a name that is in use costs one warning
    in the log "flashdiff", which Python writes to stderr, and is left out: whoever does not ask for it need not care. Asking for it is an
    error that names the cause.

    Args:
        group: of entry points; their names become the classes' names.
        registry: receives the classes.
        base: what they must be subclasses of.
    """
    for entry in _offered(group, tuple(map(_state, sys.path))):
        key = (group, entry.name, entry.value)
        if key in _seen and (_seen[key] is None or any(_seen[key] is registry[name] for name in registry)):
            continue
        _seen[key] = None
        try:
            cls = _load(entry, base)
            # A package may have registered its class itself, on import.
            if entry.name in registry and registry[entry.name] is not cls:
                raise ValueError(f"the name is in use for a {registry.kind} of {registry[entry.name].__module__}")
            if not entry.name or not entry.name.isprintable() or set(entry.name) & set("+,/ "):
                raise ValueError("this is no name")
            if entry.name not in registry:
                cls.name = entry.name
                registry.add(cls)
            _seen[key] = cls
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: an import may end as it likes
            reason = " ".join(str(error).split())[:200]
            cause = f"{type(error).__name__}{f': {reason}' if reason else ''}"
            if entry.name not in registry:
                registry.broken[entry.name] = f"the plug-in {entry.name!r} ({entry.value}) does not load ({cause}); repair or uninstall its package"
            log.warning(one_line(f"{registry.kind} plug-in {entry.name!r} ({entry.value}) is left out: {cause}; repair or uninstall its package"))


def _state(place: str) -> tuple[str, int]:
    try:
        return place, os.stat(place or ".").st_mtime_ns
    except OSError:
        return place, 0


@lru_cache(maxsize=4)
def _offered(group: str, places: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group, sought again where a place for packages has changed: each picture's plan asks for them."""
    return tuple(entry_points(group=group))


def _load(entry: EntryPoint, base: type) -> type:
    cls = entry.load()
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise TypeError(f"no subclass of {base.__module__}.{base.__name__}")
    if taken := RESERVED & {option.name for option in getattr(cls, "options", ())}:
        raise ValueError(f"its option {min(taken)} has a name that operators are built with; rename it")
    return cls
