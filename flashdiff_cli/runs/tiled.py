"""One picture in pieces: what is estimated of the whole, and what the pieces' records say together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from flashdiff_cli.calibration import mean_gradient
from flashdiff_cli.classifier import Degradation
from flashdiff_cli.diagnosis import Analysis, Diagnosis, pool
from flashdiff_cli.operators import GaussianBlur, Operator
from flashdiff_cli.operators.base import per_sample
from flashdiff_cli.operators.estimate import effective_noise_std
from flashdiff_cli.pictures.tiles import Tile, cut
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.restoration import Restoration
from flashdiff_cli.runs.record import Record

LOOKED_AT = 32
"""Tiles that the blind estimate of a large picture is made from, spread evenly."""


def size_multiple_of(pipeline: FlashDiffusionPipeline, operator: Operator | None) -> int:
    """Return the number that sides and positions of tiles are multiples of."""
    return math.lcm(pipeline.size_multiple, operator.stride if operator is not None else 1)


def tiles_of(pipeline: FlashDiffusionPipeline, operator: Operator | None, size: tuple[int, int], side: int) -> list[Tile]:
    """Return the tiles of an image; one if `side` is 0."""
    if not side:
        return [Tile(0, 0, *size)]
    return cut(size, side, size_multiple_of(pipeline, operator))


def weighted_median(values: torch.Tensor, weights: torch.Tensor) -> float:
    """Return the value at which half of the weight is reached.

    Args:
        values, weights: (N,), N > 0, weights not negative.
    """
    order = values.argsort()
    reached = weights[order].double().cumsum(0)
    index = int(torch.searchsorted(reached, reached[-1] / 2))
    return values[order][min(index, len(values) - 1)].item()


def spread_parts(measured: torch.Tensor, tiles: Sequence[Tile], stride: int = 1) -> dict[int, torch.Tensor]:
    """Return parts of a measurement that stand for the whole, spread evenly, by number of the tile; `stride` is its operator's."""
    return {i: tiles[i].of(measured, stride) for i in range(0, len(tiles), -(-len(tiles) // LOOKED_AT))}


def classify_parts(pipeline: FlashDiffusionPipeline, parts: Mapping[int, torch.Tensor]) -> Degradation | None:
    """Return the classifier's verdict on all parts together, those with much detail counting more; None if the model has no classifier."""
    seen = [one for one in map(pipeline.classify, parts.values()) if one is not None]
    return pool(seen, [mean_gradient(part)[0].item() + 1e-6 for part in parts.values()]) if seen else None


def diagnose(pipeline: FlashDiffusionPipeline, measured: torch.Tensor, tiles: Sequence[Tile]) -> tuple[Diagnosis, dict[int, Analysis]]:
    """Diagnose a picture that is restored in pieces as one.

    Each tile's voice weighs by the gradient that it has: a piece of sky says nothing of a blur.

    Args:
        pipeline: with the model.
        measured: (1, 3, H, W).
        tiles: of it.

    Returns:
        the diagnosis, and the analyses that it took, by number of the tile.
    """
    if len(tiles) == 1:
        found = pipeline.diagnose(tiles[0].of(measured))
        return found, {} if found.analysis is None else {0: found.analysis}
    parts = spread_parts(measured, tiles)
    pooled = classify_parts(pipeline, parts)
    kind = "gaussian-blur" if pooled is None else pipeline.kind_of(measured, pooled)
    other = None if pooled is None or kind == "gaussian-blur" else pipeline.diagnose_other(measured, pooled, kind)
    if other is not None:
        return other, {}
    kind = "gaussian-blur"
    found = {i: pipeline.diagnose(part, pooled, kind) for i, part in parts.items()}
    analyses = {i: one.analysis for i, one in found.items() if one.analysis is not None}
    weight = torch.tensor([pipeline.blur_features(parts[i], analyses[i]).gradient[0].item() + 1e-6 for i in analyses])
    blur = weighted_median(torch.tensor([one.operator.describe()["blur_std"] for one in found.values()]), weight)
    noise_std = weighted_median(torch.tensor([one.noise_std for one in found.values()]), weight)
    rounding_std = weighted_median(torch.tensor([one.rounding_std for one in found.values()]), weight)
    return Diagnosis(kind, GaussianBlur(blur), noise_std, next(iter(found.values())).probabilities, rounding_std), analyses


def assumed_noise_std(assumed: float, measured: torch.Tensor, operator: Operator, record: Record) -> float:
    """Return what noise a whole picture is restored with (`effective_noise_std`), so that all its tiles agree.

    The record gets a note if it was not told so.
    """
    effective = effective_noise_std(assumed, measured, operator)
    if not bool(effective > per_sample(assumed)):
        return assumed
    record.notes.append(f"noise {assumed:g} was told and {effective.item():.3f} is plain to see, which was taken")
    return effective.item()


def combine(record: Record, tiles: Sequence[Tile], results: Sequence[dict[str, Any]]) -> None:
    """Fill a record from the `figures` of a picture's tiles.

    The variance is the mean over tiles, start step and steps are those of the hardest, the network evaluations are
    those of all together, and so are the seconds.
    """
    first = results[0]
    record.operator = first["operator"]
    record.noise_std, record.schedule_steps = first["noise_std"], first["schedule_steps"]
    variances = [r["variance"] for r in results if r["variance"] is not None]
    if variances:
        record.variance = sum(variances) / len(variances)
        record.severity = math.sqrt(record.variance)
    record.start_step = max(r["start_step"] for r in results)
    record.steps = max(r["steps"] for r in results)
    record.network_evaluations = sum(r["network_evaluations"] for r in results)
    record.solver, record.encoder, record.fidelity = first["solver"], first["encoder"], first["fidelity"]
    record.kept_detail = sum(r["kept_detail"] for r in results) / len(results)
    for result in results:
        for phase, seconds in result["seconds"].items():
            record.seconds[phase] = record.seconds.get(phase, 0.0) + seconds
    if len(tiles) > 1:
        kept = ("start_step", "steps", "network_evaluations")
        record.tiles = [
            describe_tile(tile, result["variance"], **{name: result[name] for name in kept}) for tile, result in zip(tiles, results, strict=True)
        ]


def describe_tile(tile: Tile, variance: float | None, **more: int) -> dict[str, Any]:
    """Return a tile's entry in a record; the severity is None where no encoder was asked."""
    return asdict(tile) | {"severity": None if variance is None else math.sqrt(variance), **more}


def figures(result: Restoration, number: int = 0) -> dict[str, Any]:
    """Return what is kept of a tile's restoration, sample `number` of its batch: everything but the images; seconds are its share."""
    count = len(result.images)
    return {
        "operator": result.operators[number],
        "noise_std": result.noise_std[number].item(),
        "variance": None if result.variance is None else result.variance[number].item(),
        "start_step": int(result.start_step[number]),
        "steps": int(result.steps[number]),
        "network_evaluations": int(result.network_evaluations[number]),
        "schedule_steps": result.schedule_steps,
        "solver": result.solver,
        "encoder": result.encoder,
        "fidelity": result.fidelity,
        "kept_detail": result.kept_detail[number].item(),
        "seconds": {name: seconds / count for name, seconds in result.seconds.items()},
    }
