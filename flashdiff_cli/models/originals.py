"""Fetch original downloads and convert them: models and severity encoders whose authors publish checkpoints of their own kind."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from pathlib import Path

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.hub.checksums import SUMS
from flashdiff_cli.hub.download import Report, download, sha256_of
from flashdiff_cli.hub.paths import converted_folder, weights_folder
from flashdiff_cli.hub.pull import folder_with_sums
from flashdiff_cli.hub.registry import KnownModel

MOST_UNPACKED = 8
"""How many times larger than its zip a checkpoint may be: weights hardly shrink."""


def pull_original(model: KnownModel, report: Report | None = None, unverified: bool = False) -> Path:
    """Return an original latent diffusion model, downloaded and converted.

    Args:
        model: an entry of the registry with a `url`.
        report: of the download.
        unverified: fetch it although its checksum is not known.

    Raises:
        FlashdiffError: the download or the conversion fails, or its checksum is not known; a finished download is kept for the next try.
    """
    target = converted_folder(model.name)
    if (target / SUMS).exists():
        return target
    downloads = converted_folder("downloads")
    archive = _fetch(str(model.url), downloads / f"{model.name}.zip", model.sha256, report, model.name, unverified)
    with folder_with_sums(target) as part:
        checkpoint = _extract(archive, downloads)
        try:
            # Converting takes torch, which finding a model does not.
            from flashdiff_cli.models.convert import convert_ldm

            part.rmdir()
            convert_ldm(checkpoint, part, weights_folder() / str(model.config))
        finally:
            checkpoint.unlink(missing_ok=True)
    archive.unlink()
    return target


def add_encoders(model: KnownModel, folder: Path, report: Report | None = None, unverified: bool = False) -> None:
    """Fetch and convert the severity encoders of a model that its folder lacks.

    Args:
        model: an entry of the registry.
        folder: of the model, outside the Hub's cache.
        report: of the downloads.
        unverified: fetch those, too, whose checksum is not known.

    Raises:
        FlashdiffError: one cannot be had; the others are there all the same.
    """
    failed = []
    for encoder in model.encoders:
        if (folder / encoder.role).is_dir():
            continue
        try:
            target = converted_folder("downloads") / f"{model.name}-{encoder.role}.ckpt"
            checkpoint = _fetch(encoder.url, target, encoder.sha256, report, model.name, unverified)
            from flashdiff_cli.models.convert import convert_severity

            convert_severity(checkpoint, folder / encoder.role)
        except FlashdiffError as error:
            failed.append(f"{encoder.role}: {error}")
            continue
        checkpoint.unlink()
    if failed:
        raise FlashdiffError(f"{model.name}: the model is in {folder}, but without {'; '.join(failed)}")


def _fetch(url: str, target: Path, sha256: str | None, report: Report | None, name: str, unverified: bool) -> Path:
    if sha256 is None and not unverified:
        raise FlashdiffError(
            f"{url}: nobody has published a checksum of it; to fetch it all the same, run: flashdiff models pull {name} --unverified"
        )
    if target.exists():
        if sha256 is not None and sha256_of(target) != sha256:
            target.unlink()
            raise FlashdiffError(f"{target}: wrong checksum; it was removed, run again")
        return target
    return download(url, target, sha256, report and (lambda done, total: report(target.name, done, total)))


def _extract(archive: Path, folder: Path) -> Path:
    """Return the one checkpoint of a zip, as a file of its own."""
    try:
        with zipfile.ZipFile(archive) as packed:
            names = [n for n in packed.namelist() if n.endswith(".ckpt")]
            if len(names) != 1:
                raise FlashdiffError(f"{archive}: holds {len(names)} checkpoints, not one; delete it and run again")
            size = packed.getinfo(names[0]).file_size
            if size > MOST_UNPACKED * archive.stat().st_size:
                raise FlashdiffError(f"{archive}: {names[0]!r} would be {size:,} bytes, more than weights can be packed to; delete it")
            target = folder / f"{archive.stem}.ckpt"
            # A member gives no more than its size says.
            with packed.open(names[0]) as source, open(target, "wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
    except (zipfile.BadZipFile, EOFError, zlib.error, RuntimeError, NotImplementedError) as error:
        archive.unlink(missing_ok=True)
        raise FlashdiffError(f"{archive}: damaged ({error}); it was removed, run again") from error
    return target
