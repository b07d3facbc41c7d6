"""Pieces of pictures, several in one run, in which each joins the steps at its own level; a batch that does not fit into memory is halved.

A piece is a picture, or a tile of one. Which pieces can share a run is decided here, by `Piece.kind` and `Operator.stack`, and nowhere else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from flashdiff_cli.diagnosis import Diagnosis
from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators import Operator
from flashdiff_cli.pictures.tiles import Tile

Result = TypeVar("Result")

PATIENCE = 4
"""Batches' worth of pieces that come while one waits for its like; then it is run with those that there are. So neither memory nor the time until
a picture is finished grows with the run."""

MOST_PIXELS = 2**25
"""Of all pieces that wait: of large ones fewer do."""


class Owner(Protocol):
    """The picture that a piece is of."""

    error: Exception | None
    """Why it has failed; its other pieces are left out then."""


@dataclass(frozen=True, eq=False)
class Piece:
    """One tile, ready to be restored."""

    index: int
    tile: Tile
    operator: Operator
    """Of this tile alone."""
    measured: torch.Tensor
    """(1, 3, h', w')."""
    noise_std: float
    """Of its picture, on intensities in [0, 1]."""
    noise: torch.Tensor
    """(1, C, h, w) of its start."""
    random: torch.Tensor
    """State of its generator, which every try begins with."""
    started: bool
    """Whether it may be given steps: thin holes are not."""
    encoder: str | None
    """Severity encoder that is to look at it; None: there is none."""
    diagnosis: Diagnosis | None
    """Of its picture, with the analysis of this tile where there is one; None where the operator was given."""
    owner: Owner

    @property
    def kind(self) -> Hashable:
        """What pieces must have alike to share a run, besides operators that can be stacked."""
        found, analysis = self.diagnosis, None if self.diagnosis is None else self.diagnosis.analysis
        looked = None if analysis is None else analysis.encoder
        size = self.tile.height, self.tile.width
        return (*size, type(self.operator), self.started, self.encoder, None if found is None else (found.treated_as, looked))

    def generator(self) -> torch.Generator:
        """Return a generator that draws what this piece draws, whatever was drawn before."""
        made = torch.Generator()
        made.set_state(self.random)
        return made


def lacks_memory(error: BaseException) -> bool:
    """Return whether an error says that memory has run out, of the machine or of a GPU."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error).lower())


class Pool(Generic[Result]):
    """Pieces that wait for others with which they can share a run.

    Args:
        most: returns how many pieces like a given one are restored together.
        restore: restores a batch, given its pieces and the operator of all of them together.
    """

    def __init__(self, most: Callable[[Piece], int], restore: Callable[[Sequence[Piece], Operator], Result]):
        self.most, self.restore = most, restore
        self.waiting: dict[Hashable, deque[tuple[int, Piece]]] = {}
        self.fitting: dict[tuple[int, int], int] = {}
        """Pieces that fit into memory together, by size, once it has run out."""
        self.count = 0

    def _most(self, piece: Piece) -> int:
        size = piece.tile.height, piece.tile.width
        return min(self.most(piece), self.fitting.get(size, self.most(piece)))

    def add(self, piece: Piece) -> Iterator[tuple[Sequence[Piece], Result | Exception]]:
        """Take a piece; yields what `rest` does, of the batches that this completes."""
        line = self.waiting.setdefault(piece.kind, deque())
        line.append((self.count, piece))
        self.count += 1
        most = self._most(piece)
        if len(line) >= most:
            yield from self._run(piece.kind)
        while self.waiting and (self.count - self._oldest()[0] >= PATIENCE * most or self._pixels() > MOST_PIXELS):
            yield from self._run(self._oldest()[1])

    def rest(self) -> Iterator[tuple[Sequence[Piece], Result | Exception]]:
        """Restore all that waits, those first that came first.

        Yields:
            the pieces of a run, and its result; of a piece that failed by itself, the reason.
        """
        while self.waiting:
            yield from self._run(self._oldest()[1])

    def keep(self, which: Callable[[Piece], bool]) -> None:
        """Drop the pieces that wait, but those."""
        lines = {kind: deque(one for one in line if which(one[1])) for kind, line in self.waiting.items()}
        self.waiting = {kind: line for kind, line in lines.items() if line}

    def _pixels(self) -> int:
        """Return how many pixels all pieces that wait have."""
        return sum(piece.tile.height * piece.tile.width for line in self.waiting.values() for _, piece in line)

    def _oldest(self) -> tuple[int, Hashable]:
        return min(((line[0][0], kind) for kind, line in self.waiting.items()), key=lambda one: one[0])

    def _run(self, kind: Hashable) -> Iterator[tuple[Sequence[Piece], Result | Exception]]:
        """Restore what waits of a kind: together; where that cannot be, by halves; and where a batch fails, one by one."""
        todo = deque([[piece for _, piece in self.waiting.pop(kind)]])
        while todo:
            batch = [piece for piece in todo.popleft() if piece.owner.error is None]
            if not batch:
                continue
            most = self._most(batch[0])
            if len(batch) > most:
                todo.extendleft([batch[most:], batch[:most]])
                continue
            found = self._tried(batch)
            if isinstance(found, int):
                todo.extendleft(reversed([batch[at : at + found] for at in range(0, len(batch), found)]))
            else:
                yield batch, found

    def _tried(self, batch: Sequence[Piece]) -> Result | Exception | int:
        """Return the result of a batch, or of a single piece why there is none; a number: so many at once are to be tried instead."""
        try:
            operator = Operator.stack([piece.operator for piece in batch])
        except UsageError:
            return 1
        try:
            return self.restore(batch, operator)
        except Exception as error:  # whichever of them it is
            if len(batch) == 1:
                return error
            if not lacks_memory(error):
                return 1
        # The error is gone, and with it what it kept alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        size = batch[0].tile.height, batch[0].tile.width
        self.fitting[size] = len(batch) // 2
        return self.fitting[size]


__all__ = ["Owner", "Piece", "Pool", "lacks_memory"]
