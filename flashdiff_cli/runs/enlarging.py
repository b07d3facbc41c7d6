"""Enlarging a picture that is sharp but small: what its noise is, and how large the result may become."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from flashdiff_cli.diagnosis import noise_of, predict_kind
from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators import Jpeg, Operator
from flashdiff_cli.operators.kept_noise import measured_noise
from flashdiff_cli.pictures.limits import VARIABLE, max_pixels
from flashdiff_cli.pictures.picture import Picture
from flashdiff_cli.pictures.tiles import Tile
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.tiled import classify_parts, spread_parts

SURE = 0.8
"""Probability from which a small picture is said to be soft itself."""
SOFT = {"gaussian-blur": "blurred", "motion-blur": "shaken", "downsampling": "enlarged already"}


def check_size(size: tuple[int, int], given: tuple[int, int]) -> None:
    """Raise a UsageError if a result of (H, W) has more pixels than a picture may have, and the picture of `given` (H, W) has not."""
    if size[0] * size[1] > max_pixels() >= given[0] * given[1]:
        raise UsageError(f"the result would have {size[1]} x {size[0]} pixels; choose a smaller `scale`, or raise {VARIABLE}")


def noise_of_small(
    pipeline: FlashDiffusionPipeline, picture: Picture, measured: torch.Tensor, tiles: Sequence[Tile], operator: Operator, record: Record
) -> float:
    """Return the noise to reckon with in a picture that is to be enlarged, on intensities in [0, 1].

    The detail of a small picture fills every frequency, so what its finest band holds is no measure of its noise: it has the noise that the
    classifier finds, and what rounding in a JPEG has left. A picture that is soft itself gets a note.

    Args:
        pipeline: with the model; without a classifier the finest band is all that there is to read.
        picture: as it was read.
        measured: (1, 3, H', W'), padded.
        tiles: of the result.
        operator: of the whole picture, whose measurement it is.
        record: gets the note.
    """
    seen = classify_parts(pipeline, spread_parts(measured, tiles, operator.stride))
    if seen is None:
        return measured_noise(measured, operator).item()
    kind, probabilities = predict_kind(seen)
    if kind in SOFT and probabilities[kind] >= SURE and operator.name == "downsampling":
        record.notes.append(f"the picture looks {SOFT[kind]} ({probabilities[kind]:.0%}): enlarging keeps that; restore it first")
    noise = noise_of(kind, seen, measured) if kind == "noise" else 0.0
    compression = Jpeg.of_file(picture.jpeg_tables, picture.subsampling) if picture.jpeg_tables else None
    if compression is None and kind == "jpeg":
        compression = Jpeg(seen.value("jpeg_quality").round().cpu())
    return noise if compression is None else max(noise, compression.noise_std().item())


__all__ = ["check_size", "noise_of_small"]
