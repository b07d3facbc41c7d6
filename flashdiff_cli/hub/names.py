"""Names of models on the Hub, their revisions and files: they become parts of addresses and of paths."""

from __future__ import annotations

import re

from flashdiff_cli.errors import UsageError

PICKLED, SAFE = "diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors"
"""Weights in a component's folder, pickled and safe."""
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
LONGEST = 96


def _good(text: str, parts: range) -> bool:
    pieces = text.split("/")
    return len(text) <= LONGEST and len(pieces) in parts and all(PART.fullmatch(piece) and ".." not in piece for piece in pieces)


def hub_id(spec: str, revision: str | None = None, flag: str = "`model`", known: str = "") -> tuple[str, str | None]:
    """Return (`owner/name`, revision or None) of `owner/name[@revision]`.

    Args:
        spec: as given.
        revision: branch, tag or commit that was given beside it, which counts first.
        flag: the option that gives it, for messages.
        known: what else could have been meant, for messages.

    Raises:
        UsageError: it is no Hub id, or the revision cannot be one: each is letters, digits and `_ . -` between slashes.
    """
    name, _, tag = spec.partition("@")
    if not _good(name, range(2, 3)):
        raise UsageError(f"{flag} {spec[:200]}: no such folder, {known}and no Hub id (owner/name or owner/name@revision)")
    revision = revision or tag or None
    if revision is not None and not _good(revision, range(1, 6)):
        raise UsageError(f"{flag} {spec[:200]}: {revision[:200]!r} cannot be a revision; give a branch, tag or commit")
    return name, revision


def pickled_weights(files: list[str]) -> list[str]:
    """Return the pickled weights, among a repository's files, that have no safe twin."""
    return [f for f in files if f.endswith("/" + PICKLED) and f.removesuffix(PICKLED) + SAFE not in files]
