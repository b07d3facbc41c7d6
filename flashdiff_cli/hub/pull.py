"""Fetch a model from the Hub into its standard cache."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.hub.checksums import SUMS, check_folder, write_sums
from flashdiff_cli.hub.configs import read_config
from flashdiff_cli.hub.files import wanted_files
from flashdiff_cli.hub.names import pickled_weights
from flashdiff_cli.hub.paths import converted_folder, new_folder
from flashdiff_cli.hub.registry import KnownModel


@contextmanager
def folder_with_sums(target: Path) -> Iterator[Path]:
    """Make a folder that gets its name, and the list of its checksums, when it is complete."""
    with new_folder(target, "is there room on the disk?", replace=True) as part:
        yield part
        write_sums(part)


def _say(repo: str, error: Exception, revision: str | None) -> FlashdiffError:
    """Return the Hub client's errors, each with its remedy."""
    from huggingface_hub import errors

    at = f"{repo}@{revision}" if revision else repo
    if isinstance(error, errors.GatedRepoError):
        return FlashdiffError(f"{at}: access must be granted; accept its terms on the Hub, then log in (hf auth login)")
    if isinstance(error, errors.RevisionNotFoundError):
        return FlashdiffError(f"{at}: the repository has no such revision; give a branch, tag or commit that exists")
    if isinstance(error, errors.RepositoryNotFoundError):
        return FlashdiffError(f"{at}: no such repository on the Hub, or it is private; check the name or log in (hf auth login)")
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        return FlashdiffError(f"{at}: not on this machine, and the Hub is not reached; with a network, run: flashdiff models pull {at}")
    reason = " ".join(str(error).split())[:160]
    return FlashdiffError(f"{at}: cannot be fetched ({reason}); run again, what was fetched is kept")


def pull_from_hub(
    repo: str,
    revision: str | None = None,
    offline: bool = False,
    cache_dir: str | Path | None = None,
    own: KnownModel | None = None,
    variant: str | None = None,
) -> Path:
    """Return a repository's folder; fetched into the Hub's cache where it is not there, with the checksum of each file verified.

    Args:
        repo: `owner/name`.
        revision: branch, tag or commit.
        offline: use what is on this machine.
        cache_dir: instead of the Hub's standard cache.
        own: an entry of the registry for which to return a copy outside the Hub's cache: its scheduler's entries are
            mended there, and components can be added.
        variant: of the weights, e.g. "fp16", where the repository has it.

    Returns:
        the snapshot, or its rewritten copy if the repository holds pickled weights alone (`safe`).

    Raises:
        FlashdiffError: it cannot be fetched, or is not there and the network is not to be used.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    offline = offline or constants.HF_HUB_OFFLINE
    common = {"revision": revision, "cache_dir": cache_dir}
    try:
        folder = Path(snapshot_download(repo, local_files_only=True, **common)) if offline else None
        if folder is None:
            # Asked once: the client's `list_repo_files` asks for half a minute before it lets a machine without a network use what is cached.
            files = [file.rfilename for file in HfApi().model_info(repo, revision=revision).siblings or []]
            folder = Path(snapshot_download(repo, allow_patterns=wanted_files(files, variant) + pickled_weights(files), **common))
            _verify(folder, repo)
    except FlashdiffError:
        raise
    except Exception as error:  # the client's errors share no base class across its versions
        if not offline and (folder := _cached(repo, common)) and _unreachable(error):
            return _safe(folder, repo, own)
        raise _say(repo, error, revision) from error
    return _safe(folder, repo, own)


def _unreachable(error: Exception) -> bool:
    from huggingface_hub import errors

    return not isinstance(error, errors.HfHubHTTPError) or isinstance(error, errors.OfflineModeIsEnabled)


def _cached(repo: str, common: dict) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, local_files_only=True, **common))
    except Exception:  # not there, for whatever reason
        return None


def _verify(folder: Path, repo: str) -> None:
    """Remove files that are not what the Hub says they are, old ones too: its client compares sizes only."""
    for check in check_folder(folder):
        if check.state != "damaged":
            continue
        path = folder / check.path
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise FlashdiffError(f"{repo}: wrong checksum of {check.path}; it was removed, run again")


def _safe(folder: Path, repo: str, own: KnownModel | None) -> Path:
    if own is None and not pickled_weights([p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]):
        return folder
    target = converted_folder(f"{repo}/{folder.name}")
    if not (target / SUMS).exists():
        # What is copied gets checksums of its own: nothing damaged may come by them.
        _verify(folder, repo)
        target.parent.mkdir(parents=True, exist_ok=True)
        with folder_with_sums(target) as part:
            from flashdiff_cli.hub.safe import rewrite

            rewrite(folder, part)
            if own is not None and own.scheduler:
                path = part / "scheduler" / "scheduler_config.json"
                config = read_config(path) | own.scheduler
                # diffusers takes its own default, not the file's, for what is on this list.
                config.pop("_use_default_values", None)
                path.write_text(json.dumps(config, indent=2), encoding="utf-8")
    return target
