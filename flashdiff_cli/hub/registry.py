"""The models that are known by name: `weights/registry.json`, read into plain descriptions."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.hub.paths import weights_folder


@dataclass(frozen=True)
class EncoderSource:
    """A severity encoder that belongs to a model but is not part of it."""

    degradation: str
    """What it was trained on: the name of an operator."""
    role: str
    """The component that it becomes: "severity" or "severity_inpainting"."""
    url: str
    """Its original checkpoint."""
    sha256: str | None = None
    """Of that checkpoint; None: nobody has published it, and the download needs `models pull --unverified`."""


@dataclass(frozen=True)
class KnownModel:
    """One entry of the registry; exactly one of `shipped`, `repo` and `url` says where it comes from."""

    name: str
    domain: str
    """What its pictures show."""
    resolution: int
    """Side in pixels that it was trained at."""
    megabytes: int
    """To be fetched, or on disk for a shipped one."""
    terms: str
    shipped: str | None = None
    """Folder below weights/."""
    repo: str | None = None
    """Hub repository."""
    revision: str | None = None
    """Commit of the repository."""
    url: str | None = None
    """Original download: a zip that holds one checkpoint."""
    sha256: str | None = None
    """Of the original download; None: nobody has published it, and the download needs `models pull --unverified`."""
    config: str | None = None
    """Configuration of the original, below weights/."""
    scheduler: dict[str, Any] = field(default_factory=dict)
    """Entries that its scheduler's configuration on the Hub lacks or has otherwise than the original code."""
    paper: str = ""
    severity: tuple[str, ...] = ()
    """Degradations that its own severity encoders know."""
    encoders: tuple[EncoderSource, ...] = field(default=())

    @property
    def source(self) -> str:
        """Where it comes from, in a few words."""
        if self.shipped:
            return "shipped"
        return f"{self.repo}@{(self.revision or 'main')[:8]}" if self.repo else str(self.url)

    def describe(self) -> dict[str, Any]:
        """Return all fields and `source`, for JSON."""
        return asdict(self) | {"source": self.source}


def parse(entries: dict[str, Any], where: str) -> dict[str, KnownModel]:
    """Return the descriptions by name.

    Raises:
        FlashdiffError: an entry lacks a field, has an unknown one, or does not say where its model comes from.
    """
    found = {}
    for name, values in entries.items():
        try:
            encoders = tuple(EncoderSource(**e) for e in values.get("encoders", ()))
            model = KnownModel(name, **(values | {"encoders": encoders, "severity": tuple(values.get("severity", ()))}))
        except (TypeError, AttributeError) as error:
            raise FlashdiffError(f"{where}: entry {name!r}: {error}; mend the registry") from error
        if sum(place is not None for place in (model.shipped, model.repo, model.url)) != 1:
            raise FlashdiffError(f"{where}: entry {name!r} needs exactly one of shipped, repo and url; mend the registry")
        for sha256 in (model.sha256, *(encoder.sha256 for encoder in encoders)):
            if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
                raise FlashdiffError(f"{where}: entry {name!r}: {sha256!r} is no SHA-256; mend the registry")
        found[name] = model
    return found


@cache
def known_models() -> dict[str, KnownModel]:
    """Return all models of the registry, by name."""
    path = weights_folder() / "registry.json"
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError) as error:
        raise FlashdiffError(f"{path}: cannot read the registry of models ({error}); install flashdiff again") from error


def shipped_folder(model: KnownModel) -> Path:
    """Return where a shipped model lies."""
    return weights_folder() / str(model.shipped)
