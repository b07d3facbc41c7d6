"""Large pictures in pieces: overlapping tiles, and a canvas that blends them without seams."""

from __future__ import annotations

from dataclasses import dataclass

import torch

OVERLAP = 32
"""Pixels that neighbouring tiles share at least."""


@dataclass(frozen=True)
class Tile:
    """A window of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, image: torch.Tensor, shrink: int = 1) -> torch.Tensor:
        """Return the window of (..., H, W), or of something `shrink` times smaller along each side."""
        rows = slice(self.top // shrink, (self.top + self.height) // shrink)
        return image[..., rows, self.left // shrink : (self.left + self.width) // shrink]

    def shrunk(self, times: int) -> Tile:
        """Return the same window of something so many times smaller along each side."""
        return Tile(self.top // times, self.left // times, self.height // times, self.width // times)


def _starts(length: int, tile: int, overlap: int, size_multiple: int) -> list[int]:
    """Return where the tiles of one axis begin: evenly spread, on multiples of the size_multiple, the last one at the end."""
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    spread = [(i * (length - tile)) // (count - 1) for i in range(count)]
    return sorted({position // size_multiple * size_multiple for position in spread[:-1]} | {length - tile})


def cut(size: tuple[int, int], tile: int, size_multiple: int, overlap: int = OVERLAP) -> list[Tile]:
    """Cover a picture with tiles, row by row.

    Args:
        size: (H, W), multiples of `size_multiple`.
        tile: side of a tile; rounded down to the size_multiple, and at least `overlap` and one size_multiple more.
        size_multiple: sides and positions are multiples of this.
        overlap: that neighbours share at least; rounded up to the size_multiple.

    Returns:
        tiles of equal size; one if the picture is no larger than a tile.
    """
    overlap = -(-overlap // size_multiple) * size_multiple
    side = max(tile // size_multiple * size_multiple, overlap + size_multiple)
    height, width = (min(side, length) for length in size)
    rows, columns = (_starts(length, side, overlap, size_multiple) for length in size)
    return [Tile(top, left, height, width) for top in rows for left in columns]


def _ramp(length: int, overlap: int, before: bool, after: bool) -> torch.Tensor:
    """Return the weights along one axis: 1 inside, falling smoothly towards neighbours and never quite 0."""
    weights = torch.ones(length)
    rise = torch.sin((torch.arange(overlap) + 0.5) / overlap * torch.pi / 2).square()
    if before:
        weights[:overlap] = rise
    if after:
        weights[length - overlap :] *= rise.flip(0)
    return weights


class Canvas:
    """The weighted mean of tiles.

    Args:
        channels: of the tiles.
        size: (H, W) of the whole.
        overlap: over which a tile's weight falls towards its neighbours.
    """

    def __init__(self, channels: int, size: tuple[int, int], overlap: int = OVERLAP):
        self.size, self.overlap = size, overlap
        self._sum = torch.zeros(channels, *size)
        self._weight = torch.zeros(size)

    def add(self, tile: Tile, values: torch.Tensor) -> None:
        """Lay down a tile's values (channels, height, width)."""
        bottom, right = tile.top + tile.height < self.size[0], tile.left + tile.width < self.size[1]
        rows = _ramp(tile.height, min(self.overlap, tile.height), tile.top > 0, bottom)
        columns = _ramp(tile.width, min(self.overlap, tile.width), tile.left > 0, right)
        weights = rows[:, None] * columns
        tile.of(self._sum).add_(values.cpu() * weights)
        tile.of(self._weight).add_(weights)

    def image(self) -> torch.Tensor:
        """Return (channels, H, W); the canvas is used up."""
        return self._sum.div_(self._weight)
