"""From what a person calls a model to a folder on this machine."""

from __future__ import annotations

from pathlib import Path

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.hub.checksums import SUMS
from flashdiff_cli.hub.download import Report
from flashdiff_cli.hub.names import hub_id
from flashdiff_cli.hub.paths import converted_folder
from flashdiff_cli.hub.pull import pull_from_hub
from flashdiff_cli.hub.registry import KnownModel, known_models, shipped_folder
from flashdiff_cli.models.originals import add_encoders, pull_original


def resolve_model(
    spec: str,
    revision: str | None = None,
    offline: bool = False,
    cache_dir: str | Path | None = None,
    report: Report | None = None,
    complete: bool = False,
    unverified: bool = False,
    variant: str | None = None,
) -> Path:
    """Return a model's folder; one that is not on this machine is fetched first.

    Args:
        spec: a folder (one that has a registered name only if it holds a model), a name of the registry, or
            `owner/name[@revision]` on the Hugging Face Hub.
        revision: branch, tag or commit on the Hub.
        offline: use what is on this machine.
        cache_dir: instead of the Hub's standard cache.
        report: of downloads that are not the Hub's, which shows its own progress.
        complete: of a model of the registry, fetch severity encoders that an earlier try has missed.
        unverified: fetch original downloads whose checksum nobody has published.
        variant: of weights on the Hub, e.g. "fp16", where the repository has it.

    Raises:
        UsageError: nothing goes by this name.
        FlashdiffError: it cannot be fetched, or is not here and the network is not to be used.
    """
    folder, known = Path(spec), known_models().get(spec)
    # A folder of pictures may be called what a known model is.
    if folder.is_dir() and (known is None or (folder / "model_index.json").exists()):
        return folder
    if known is not None:
        return _resolve_known(known, offline, cache_dir, report, complete, unverified)
    name, revision = hub_id(spec, revision, known=f"no known model (these are: {', '.join(known_models())}) ")
    return pull_from_hub(name, revision, offline, cache_dir, variant=variant)


def _resolve_known(model: KnownModel, offline: bool, cache_dir: str | Path | None, report: Report | None, complete: bool, unverified: bool) -> Path:
    if model.shipped is not None:
        return shipped_folder(model)
    target = converted_folder(model.name)
    fresh = model.url is not None and not (target / SUMS).exists()
    if fresh and offline:
        raise FlashdiffError(f"{model.name}: not on this machine; with a network, run: flashdiff models pull {model.name}")
    if model.url is not None:
        folder = pull_original(model, report, unverified)
    else:
        kept = find_model(model.name)
        fresh = kept is None
        folder = kept or pull_from_hub(str(model.repo), model.revision, offline, cache_dir, own=model)
    if (fresh or complete) and not offline:
        add_encoders(model, folder, report, unverified)
    return folder


def find_model(spec: str) -> Path | None:
    """Return where a model lies on this machine; None if it is not here. Asks no network.

    Args:
        spec: as for `resolve_model`.

    Raises:
        UsageError: nothing goes by this name.
    """
    known = known_models().get(spec)
    if known is not None and known.repo is not None:
        target = converted_folder(f"{known.repo}/{known.revision}")
        return target if (target / SUMS).exists() else None
    try:
        return resolve_model(spec, offline=True)
    except UsageError:
        raise
    except FlashdiffError:
        return None
