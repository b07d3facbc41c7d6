"""Clean pictures in, measurements out: each with draws that depend on its content, the condition and the seed alone."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from flashdiff_cli.bench.protocol import Condition, value_at
from flashdiff_cli.bounded import read_text
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.operators import OPERATORS, Operator
from flashdiff_cli.pictures.files import read_picture
from flashdiff_cli.runs.inputs import Job
from flashdiff_cli.seeds import seed_of
from flashdiff_cli.storage.url import Url


@dataclass(frozen=True)
class Item:
    """One clean picture, not held in memory."""

    path: Path | Url
    below: str
    """Path below the folder that was given, with forward slashes."""
    digest: str
    size: tuple[int, int]
    """(H, W) after cutting."""
    cut: int | None
    size_multiple: int

    def image(self) -> torch.Tensor:
        """Return (1, 3, H, W) float32 in [-1, 1]."""
        return centre(read_picture(self.path).image, self.cut, self.size_multiple)


@dataclass(frozen=True)
class Case:
    """One measurement of a picture."""

    item: Item
    condition: str
    level: float
    seed: int
    """Of the arms' draws; the same for every arm."""
    clean: torch.Tensor
    """(1, 3, H, W) in [-1, 1]."""
    operator: Operator
    noise_std: float
    measurement: torch.Tensor
    """(1, 3, H', W'), in [-1, 1] units, neither clipped nor rounded."""
    assumed: Operator
    """The operator that the solver is told."""
    assumed_noise_std: float


def centre(image: torch.Tensor, side: int | None, size_multiple: int) -> torch.Tensor:
    """Return the middle of an image (1, 3, H, W): a square of at most `side` (None: all of it), cut to multiples of `size_multiple`.

    Raises:
        FlashdiffError: less than one size_multiple is left.
    """
    height, width = image.shape[-2:]
    if side is not None:
        height = width = min(side, height, width)
    height, width = (n // size_multiple * size_multiple for n in (height, width))
    if not height or not width:
        raise FlashdiffError(f"a picture of {image.shape[-1]} x {image.shape[-2]} pixels is below the model's size_multiple of {size_multiple}")
    top, left = ((n - m) // 2 for n, m in zip(image.shape[-2:], (height, width), strict=True))
    return image[..., top : top + height, left : left + width].contiguous()


def derive(*parts: Any) -> int:
    """Return a seed of 63 bits from anything that has a text."""
    return seed_of("\0".join(map(str, parts)).encode())


def choose_ids(jobs: Sequence[Job], ids: str | Path) -> list[Job]:
    """Return the pictures that a list names, in its order.

    Args:
        jobs: what was found.
        ids: text file, one path below the folder (with or without its ending) a line; empty lines and # are left out.

    Raises:
        UsageError: the file cannot be read, or a name is not among the pictures.
    """
    try:
        lines = read_text(ids).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"`ids` {ids}: cannot be read ({error}); give a text file with one name a line") from error
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    known = {job.below.with_suffix("").as_posix(): job for job in jobs} | {job.below.as_posix(): job for job in jobs}
    if missing := [name for name in names if name not in known]:
        raise UsageError(f"`ids` {ids}: {missing[0]} is not among the pictures ({len(missing)} missing in all)")
    return [known[name] for name in names]


def scan(jobs: Sequence[Job], size: int | None, size_multiple: int) -> tuple[list[Item], list[str]]:
    """Read every picture once: (those that can be used, an error for each of the others)."""
    items, errors = [], []
    for job in jobs:
        try:
            picture = read_picture(job.source)
            cut = centre(picture.image, size, size_multiple)
        except FlashdiffError as error:
            errors.append(str(error) if str(job.source) in str(error) else f"{job.source}: {error}")
            continue
        below = job.below.as_posix()
        items.append(Item(job.source, below, picture.digest.hex(), (cut.shape[-2], cut.shape[-1]), size, size_multiple))
    return items, errors


def batches(items: Sequence[Item], count: int) -> Iterator[list[Item]]:
    """Yield groups of at most `count` pictures of equal size; in the order of the pictures for each size."""
    waiting: dict[tuple[int, int], list[Item]] = {}
    for item in items:
        group = waiting.setdefault(item.size, [])
        group.append(item)
        if len(group) == count:
            yield waiting.pop(item.size)
    yield from waiting.values()


def build(name: str, options: dict[str, Any], size: tuple[int, int], level: float, seed: int) -> Operator:
    """Return the operator of a condition at a level, for images of (H, W).

    Raises:
        UsageError: as `Operator.from_options`.
    """
    cls = OPERATORS[name]
    values = {key: value_at(option, options.get(key), level) for key, option in cls.known(options).items()}
    return cls.from_options(size, seed, **values)


def degrade(item: Item, clean: torch.Tensor, condition: Condition, seed: int, sweep: tuple[int, int] | None = None) -> Case:
    """Measure a picture.

    Args:
        item: the picture.
        clean: its image.
        condition: how.
        seed: of the protocol.
        sweep: (j, N): the j-th of N levels from 0 to 1 with noise of its own, instead of a level that is drawn. Masks
            and paths are the same at all levels.

    Raises:
        FlashdiffError: the condition does not fit this picture.
    """
    root = derive(seed, item.digest, condition.draws or condition.name)
    level = torch.rand((), generator=torch.Generator().manual_seed(derive(root, "level")), dtype=torch.float64).item()
    if sweep is not None:
        level = sweep[0] / (sweep[1] - 1)
    drawn = derive(root, "operator")
    operator = build(condition.operator, condition.options, item.size, level, drawn)
    name, options, _ = condition.assumption
    assumed = operator if condition.assumed is None else build(name, options, item.size, level, drawn)
    noise = torch.Generator().manual_seed(derive(root, "noise", *(sweep or ())))
    noise_std, assumed_noise_std = condition.noise(level), condition.noise(level, assumed=True)
    measurement = operator.measure(clean, noise_std, [noise])
    quality = condition.quality(level)
    if quality is not None:
        measurement = through_jpeg(measurement, quality)
    elif condition.stored:
        measurement = ((measurement.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    return Case(item, condition.name, level, derive(root, "arms"), clean, operator, noise_std, measurement, assumed, assumed_noise_std)


def through_jpeg(measurement: torch.Tensor, quality: float) -> torch.Tensor:
    """Store a measurement (1, 3, H, W) in [-1, 1] units as a JPEG with colours at half resolution, and read it again."""
    pixels = ((measurement[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=round(quality), subsampling=2)
    found = np.asarray(Image.open(file, formats=("JPEG",)), dtype=np.float32)
    return torch.from_numpy(found / 127.5 - 1).permute(2, 0, 1)[None].to(measurement)
