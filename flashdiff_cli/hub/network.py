"""Whether the network may be used, and single networks of the Hub."""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path

from huggingface_hub import snapshot_download

from flashdiff_cli.errors import FlashdiffError

_allowed: ContextVar[bool] = ContextVar("network_allowed", default=True)


def allow_network(allowed: bool) -> None:
    """Say, for all that this thread fetches from now on, whether it may use the network or what is on this machine alone."""
    _allowed.set(allowed)


def fetch_network(name: str, revision: str | None, option: str) -> Path:
    """Return the folder of a repository that holds one network, fetched if need be and allowed.

    Args:
        name: `owner/name`.
        revision: branch, tag or commit.
        option: the parameter that names it, for messages.

    Raises:
        FlashdiffError: it cannot be had.
    """
    offline = not _allowed.get()
    try:
        patterns = ["config.json", "*.safetensors"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=offline))
    except Exception as error:  # the client's errors share no base class across its versions
        if offline:
            raise FlashdiffError(f"`{option}` {name}: not on this machine; run once without `offline`, or give a folder") from error
        reason = " ".join(str(error).split())[:200]
        raise FlashdiffError(f"`{option}` {name}: no such folder, and the Hub does not give it ({reason})") from error
