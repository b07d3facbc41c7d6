"""What a run can write beside a restored picture: a map of its severity, more samples, their mean and their spread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from flashdiff_cli.pictures.atomic import Opener, whole
from flashdiff_cli.pictures.files import Picture, from_pil, write_picture
from flashdiff_cli.pictures.maps import draw_map
from flashdiff_cli.pictures.tiles import Canvas, cut
from flashdiff_cli.runs.naming import beside
from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.restorer import Restorer, Settings
from flashdiff_cli.runs.tiled import size_multiple_of
from flashdiff_cli.storage.url import Url

WINDOW, SHARED = 64, 32
"""Side and overlap of the windows that a severity map looks through, in pixels."""
FULL_SPREAD = 0.15
"""Standard deviation, on intensities, at the upper end of an uncertainty map."""


def severity_map(
    restorer: Restorer, picture: Picture, settings: Settings, operator_name: str | None = None, noise_std: float | None = None
) -> torch.Tensor:
    """Return (H, W): where a picture is hard; each window's severity, blended.

    Args:
        restorer: with the model.
        picture: any size.
        settings: of the run.
        operator_name: of what the picture was found to suffer from, where the settings name nothing.
        noise_std: on intensities in [0, 1], as it was given or found.
    """
    measured, operator, size = restorer.prepare(picture, settings)
    resized = measured if operator is None else operator.seen(measured)
    whole = (resized.shape[2], resized.shape[3])
    canvas = Canvas(1, whole, SHARED)
    for tile in cut(whole, WINDOW, size_multiple_of(restorer.pipeline, operator), SHARED):
        analysis = restorer.pipeline.analyse(tile.of(resized), settings.operator or operator_name, settings.encoder, noise_std)
        canvas.add(tile, analysis.variance.sqrt().cpu().expand(1, tile.height, tile.width))
    return canvas.image()[0, : size[0], : size[1]]


def write_severity_map(values: torch.Tensor, target: Path | Url, into: Opener = whole) -> Path | Url:
    """Write a severity map beside a picture, on the scale from its lowest to its highest value; `into` opens it."""
    path = beside(target, "severity", ".png")
    write_picture(from_pil(draw_map(values, values.min().item(), values.max().item(), "severity")), path, into=into)
    return path


def write_samples(
    restorer: Restorer,
    picture: Picture,
    settings: Settings,
    first: Picture,
    target: Path | Url,
    count: int,
    quality: int | None,
    callback: Callable[[int, int], None] | None = None,
    into: Opener = whole,
) -> Callable[[Record], None]:
    """Restore a picture `count - 1` times more and write each beside `target` as NAME-sample2, NAME-sample3, ...

    Args:
        restorer, picture, settings, callback: as for the first.
        first: the first restoration.
        target: where that one goes.
        count: in all, at least 2.
        quality: of JPEG and WebP; None: see `pictures.encode`.
        into: opens each file; see `pictures.atomic`.

    Returns:
        a function that writes the mean (NAME-mean) and the map of the standard deviation (NAME-uncertainty.png) and
        completes the record; no more than two images are kept until then.
    """
    others: list[Path | Url] = []

    def write(image: Picture, path: Path | Url) -> None:
        write_picture(image, path, quality, into)
        others.append(path)

    mean, squares = first.image.clone(), torch.zeros_like(first.image)
    for number in range(2, count + 1):
        other, _ = restorer.restore(picture, settings, callback=callback, sample=number - 1)
        write(other, beside(target, f"sample{number}"))
        off = other.image - mean
        mean += off / number
        squares += off * (other.image - mean)
    # Half, for intensities from 0 to 1.
    spread = (squares / (count - 1)).sqrt().mean(1)[0] / 2

    def finish(record: Record) -> None:
        write(first.with_image(mean), beside(target, "mean"))
        drawn = draw_map(spread, 0.0, FULL_SPREAD, "standard deviation of the intensity")
        write(from_pil(drawn), beside(target, "uncertainty", ".png"))
        record.samples, record.spread = count, spread.mean().item()
        record.others += map(str, others)

    return finish
