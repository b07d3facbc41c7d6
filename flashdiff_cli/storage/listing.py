"""The pictures in folders, archives and patterns that are no files of this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from urllib.parse import unquote

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.storage.url import WEB, Url, stat_of_info

OUTSIDE = "with names that lead out of their folder"


def entries(folder: Url) -> Iterator[tuple[str, dict]]:
    """Yield what is directly in a folder: the raw name of each thing, and what the store says of it.

    Raises:
        FlashdiffError: it cannot be listed.
    """
    root = folder.storage[1].rstrip("/")
    try:
        found = folder.ask("listed", lambda fs, path: fs.ls(path, detail=True))
    except FileNotFoundError:
        return
    for info in found:
        path = info["name"].rstrip("/")
        rest = path[len(root) :].lstrip("/") if path.startswith(root) else ""
        # A store tells of a folder's own marker too, and a page's links may lead anywhere.
        if rest and "/" not in rest and (len(root) == 0 or path[len(root)] == "/"):
            yield rest, info


def safe(name: str) -> bool:
    """Return whether a part of a name is one that may be made below an output."""
    return name not in ("", ".", "..") and not any(c in name for c in "/\\\0")


def in_folder(
    folder: Url,
    recursive: bool,
    passed: Counter[str],
    is_cache: Callable[[str], bool],
    reason_of: Callable[[str], str | None],
) -> Iterator[tuple[Url, str]]:
    """Yield the pictures in a folder, and their paths below it; a folder at a time, each sorted.

    Args:
        folder: where to look.
        recursive: look in subfolders too.
        passed: what is passed over is counted here, by its reason.
        is_cache: whether a folder of this name is left alone.
        reason_of: why a name is passed over; None if it is not.
    """
    waiting = [(folder, "")]
    while waiting:
        here, below = waiting.pop()
        inside = []
        begin, end = here.around
        for raw, info in sorted(entries(here), key=lambda entry: (entry[1].get("type") != "directory", entry[0])):
            name = unquote(raw) if here.protocol in WEB else raw
            if not safe(name):
                passed[OUTSIDE] += 1
            elif info.get("type") == "directory":
                if is_cache(name):
                    passed["hidden folders or folders of thumbnails"] += 1
                elif not recursive:
                    passed["subfolders (-r looks in them)"] += 1
                else:
                    inside.append((Url(begin + raw + end), f"{below}{name}/"))
            else:
                reason = reason_of(name)
                if reason is None:
                    size, version = stat_of_info(info)
                    # What a listing does not tell is asked for when it is wanted.
                    yield Url(begin + raw + end, None if info.get("size") is None else (size, version)), below + name
                elif reason:
                    passed[reason] += 1
        waiting += reversed(inside)


def matching(pattern: Url) -> list[Url]:
    """Return what a pattern matches, sorted.

    Raises:
        FlashdiffError: nothing does.
    """
    found = pattern.ask("listed", lambda fs, path: fs.glob(path))
    if not found:
        raise FlashdiffError(f"{pattern}: nothing matches this pattern")
    fs, chain = pattern.storage[0], pattern.text.partition("::")
    if chain[1]:
        return sorted(Url(f"{pattern.protocol}://{name}::{chain[2]}") for name in found)
    return sorted(Url(name if pattern.protocol in WEB else fs.unstrip_protocol(name)) for name in found)
