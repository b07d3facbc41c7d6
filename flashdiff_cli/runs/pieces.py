"""The tiles of a picture, several in one batch, in which each joins the steps at its own level; a batch that does not fit into memory is halved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TypeVar

import torch

from flashdiff_cli.diagnosis import Analysis, Diagnosis
from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators import Operator
from flashdiff_cli.pictures.tiles import Tile
from flashdiff_cli.severity import SeverityEstimate

Result = TypeVar("Result")


@dataclass(frozen=True)
class Piece:
    """One tile, ready to be restored."""

    index: int
    tile: Tile
    operator: Operator
    """Of this tile alone."""
    noise: torch.Tensor
    """(1, C, h, w) of its start."""
    random: torch.Tensor
    """State of its generator, which every try begins with."""
    started: bool
    """Whether it may be given steps: thin holes are not."""

    def generator(self) -> torch.Generator:
        """Return a generator that draws what this piece draws, whatever was drawn before."""
        made = torch.Generator()
        made.set_state(self.random)
        return made


def diagnosis_of(pieces: Sequence[Piece], diagnosis: Diagnosis | None, analyses: dict[int, Analysis]) -> Diagnosis | None:
    """Return the diagnosis of a batch, with the analysis of its pieces where all of them have one."""
    if diagnosis is None:
        return None
    known = [analyses[piece.index] for piece in pieces if piece.index in analyses]
    if len(known) < len(pieces) or len({analysis.encoder for analysis in known}) > 1:
        return replace(diagnosis, analysis=None)
    if len(known) == 1:
        return replace(diagnosis, analysis=known[0])
    estimate = SeverityEstimate(torch.cat([one.latent for one in known]), torch.cat([one.variance for one in known]))
    return replace(diagnosis, analysis=Analysis(estimate, torch.cat([one.decoded for one in known]), known[0].encoder))


def lacks_memory(error: BaseException) -> bool:
    """Return whether an error says that memory has run out, of the machine or of a GPU."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error).lower())


def in_batches(
    pieces: Sequence[Piece], most: int, restore: Callable[[Sequence[Piece], Operator], Result]
) -> Iterator[tuple[Sequence[Piece], Result]]:
    """Restore pieces in batches, in order; what is done is kept when a later batch has to be smaller.

    Args:
        pieces: of equal size.
        most: pieces of a batch.
        restore: restores a batch, given its pieces and the operator of all of them together.

    Raises:
        whatever `restore` raises for one piece.
    """
    done = 0
    while done < len(pieces):
        first = pieces[done]
        batch = list(takewhile(lambda piece, started=first.started: piece.started == started, pieces[done : done + most]))
        try:
            operator = Operator.stack([piece.operator for piece in batch])
        except UsageError:
            batch, operator = batch[:1], batch[0].operator
        try:
            result = restore(batch, operator)
        except (MemoryError, RuntimeError) as error:
            if len(batch) == 1 or not lacks_memory(error):
                raise
            most = len(batch) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        yield batch, result
        done += len(batch)
