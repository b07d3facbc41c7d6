"""Pictures on their way through a run: each is looked at when it comes, cut into pieces, and finished when its last piece is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from flashdiff_cli.diagnosis import Analysis, Diagnosis
from flashdiff_cli.operators import Operator
from flashdiff_cli.pictures.files import Picture
from flashdiff_cli.pictures.tiles import Canvas, Tile
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.plan import choose_encoder
from flashdiff_cli.restoration import Restoration
from flashdiff_cli.runs.checks import check_result
from flashdiff_cli.runs.masks import finish_holes, only_thin
from flashdiff_cli.runs.naming import takes_alpha
from flashdiff_cli.runs.pieces import Piece, Pool
from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.settings import Settings
from flashdiff_cli.runs.tiled import combine, figures
from flashdiff_cli.seeds import seed_of


def picture_seed(seed: int, digest: bytes) -> int:
    """Return 63 bits that depend on the run's seed and the picture's content, not on its name or place in a run."""
    return seed_of(f"{seed}:".encode() + digest)


@dataclass(frozen=True)
class Look:
    """What is known of a picture before any of its tiles is restored."""

    measured: torch.Tensor
    """(1, 3, H', W'), padded."""
    operator: Operator
    """As given or as estimated, of the whole picture."""
    noise_std: float
    """On intensities in [0, 1], of the whole picture, so that all its tiles agree."""
    whole: tuple[int, int]
    """(H, W) of the padded image that was measured."""
    size: tuple[int, int]
    """(H, W) of the result."""
    tiles: list[Tile]
    diagnosis: Diagnosis | None
    """None where the operator was given."""
    analyses: dict[int, Analysis]
    """What the diagnosis has looked at already, by number of the tile."""
    record: Record
    begin: float
    """When it was begun, on the clock of `time.perf_counter`."""


@dataclass(frozen=True, eq=False)
class Wanted:
    """A picture that is to be restored."""

    picture: Picture
    """Any size."""
    name: str = ""
    """For the record."""
    sample: int = 0
    """Number of this restoration among several of the picture, each with draws of its own."""
    tag: Any = None
    """Whatever the caller knows it by."""


Restored = tuple[Picture, Record] | Exception
"""A restored picture and its record, or why there is none."""
Finished = Sequence[tuple[Wanted, Restored]]
"""What was finished by one run of the steps."""


class Begun:
    """A picture some of whose pieces may be done."""

    def __init__(self, wanted: Wanted, settings: Settings, look: Look):
        self.wanted, self.settings, self.look = wanted, settings, look
        self.error: Exception | None = None
        self.canvas, self.results = Canvas(3, look.whole), dict[int, dict[str, Any]]()
        self.seconds = time.perf_counter() - look.begin
        """That it has taken; of what it shared with others, its part."""

    def pieces(self, pipeline: FlashDiffusionPipeline) -> Iterator[Piece]:
        """Cut the picture. Tiles share their noise, so that they agree where they overlap; what is drawn besides, each draws for itself."""
        look, stage = self.look, pipeline.stage
        seed = picture_seed(self.settings.seed, self.wanted.picture.digest)
        if self.wanted.sample:
            seed = picture_seed(seed, b"sample" + self.wanted.sample.to_bytes(8, "big"))
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(stage.channels, *(side // stage.size_multiple for side in look.whole), generator=generator)
        encoder = choose_encoder(pipeline.encoders, look.operator.name, self.settings.encoder, look.noise_std)
        for index, tile in enumerate(look.tiles):
            if index:
                generator = torch.Generator().manual_seed(picture_seed(seed, index.to_bytes(8, "big")))
            # Some operators make sense on whole pictures only.
            part = look.operator if len(look.tiles) == 1 else look.operator.window(tile.top, tile.left, tile.height, tile.width)
            found = None if look.diagnosis is None else replace(look.diagnosis, analysis=look.analyses.get(index))
            yield Piece(
                index,
                tile,
                part,
                tile.of(look.measured, look.operator.stride),
                look.noise_std,
                tile.of(noise, stage.size_multiple)[None],
                generator.get_state(),
                not only_thin(part),
                encoder,
                found,
                self,
            )

    def take(self, piece: Piece, number: int, result: Restoration, seconds: float) -> None:
        """Take a piece, which is sample `number` of what a run has made in so many seconds; what goes wrong becomes `error`."""
        try:
            self.canvas.add(piece.tile, result.images[number])
            self.results[piece.index] = figures(result, number)
        except Exception as error:  # of memory, or of a GPU, which says late what went wrong
            self.error = error
        self.seconds += seconds / len(result.images)

    @property
    def complete(self) -> bool:
        """Whether all pieces are done."""
        return len(self.results) == len(self.look.tiles)

    def finished(self) -> tuple[Picture, Record]:
        """Return the restored picture and its record.

        Raises:
            FlashdiffError: it cannot be what was asked for; see `check_result`.
        """
        begin, picture, settings, look = time.perf_counter(), self.wanted.picture, self.settings, self.look
        operator, record, results = look.operator, look.record, [self.results[index] for index in range(len(look.tiles))]
        for result in results:
            result["operator"]["estimated"] = look.diagnosis is not None
        combine(record, look.tiles, results)
        image = self.canvas.image()[None, :, : look.size[0], : look.size[1]]
        image, notes = finish_holes(image, picture.image, operator, settings.noise_std, look.noise_std)
        record.notes += notes
        restored = picture.with_image(image)
        if takes_alpha(settings.operator, settings.operator_options):
            restored.alpha = None
            record.notes.append("the transparency was the mask; the result is opaque")
        check_result(picture.image, restored.image, "inpainting" in operator.name)
        record.seconds["total"] = self.seconds + time.perf_counter() - begin
        return restored, record


class Together:
    """The pictures of a run, restored together as far as they can be; each gets what it would get alone.

    A picture that fails is its own outcome: the others of its batch are done nevertheless.

    Args:
        pipeline: with the model.
        look: finds out what is to be known of a picture before any of it is restored.
        settings: what to do.
        most: returns how many pieces like a given one are restored together.
        limit: that it never exceeds.
        callback: called with (steps done, steps in all).
        phase: told what is done now, in words.
    """

    def __init__(
        self,
        pipeline: FlashDiffusionPipeline,
        look: Callable[[Wanted], Look],
        settings: Settings,
        most: Callable[[Piece], int],
        limit: int,
        callback: Callable[[int, int], None] | None = None,
        phase: Callable[[str], None] = lambda name: None,
    ):
        self.pipeline, self.look, self.settings, self.limit, self.callback, self.phase = pipeline, look, settings, limit, callback, phase
        self.pool = Pool(most, self._restore)

    def add(self, picture: Picture, name: str = "", sample: int = 0, tag: Any = None) -> Iterator[Finished]:
        """Take a picture; yields what is finished by it, a batch at a time. Between two the run may be left.

        Args:
            picture, name, sample, tag: see `Wanted`.
        """
        wanted = Wanted(picture, name, sample, tag)
        self.phase("looking")
        begun = None
        try:
            begun = Begun(wanted, self.settings, self.look(wanted))
            for piece in begun.pieces(self.pipeline):
                yield from self._finished(self.pool.add(piece))
                if begun.error is not None:
                    break
        except Exception as error:  # of looking or cutting; that of a run is its pieces' outcome
            if begun is not None:
                begun.error = error
            yield [(wanted, error)]

    def rest(self, begun: bool = False) -> Iterator[Finished]:
        """Yield what is finished once no more pictures come; `begun`: only of pictures pieces of which are done, all others are dropped."""
        if begun:
            self.pool.keep(lambda piece: isinstance(piece.owner, Begun) and bool(piece.owner.results))
        yield from self._finished(self.pool.rest())

    def _finished(self, done: Iterator[tuple[Sequence[Piece], tuple[Restoration, float] | Exception]]) -> Iterator[Finished]:
        for batch, found in done:
            finished = []
            for number, piece in enumerate(batch):
                begun = piece.owner
                assert isinstance(begun, Begun)
                if begun.error is not None:  # of a tile before this one, and told
                    continue
                if isinstance(found, Exception):
                    begun.error = found
                else:
                    begun.take(piece, number, *found)
                if begun.error is not None:
                    finished.append((begun.wanted, begun.error))
                elif begun.complete:
                    finished.append((begun.wanted, _outcome(begun)))
            if finished:
                yield finished

    def _restore(self, batch: Sequence[Piece], operator: Operator) -> tuple[Restoration, float]:
        """Return the restoration of pieces of one kind, and the seconds that it took."""
        begin = time.perf_counter()
        found = [piece.diagnosis for piece in batch if piece.diagnosis is not None]
        result = self.pipeline(
            torch.cat([piece.measured for piece in batch]),
            operator,
            torch.tensor([piece.noise_std for piece in batch]),
            self.settings.request().unless_started(None if batch[0].started else 0),
            generators=[piece.generator() for piece in batch],
            noise=torch.cat([piece.noise for piece in batch]),
            diagnosis=Diagnosis.joined(found, operator) if found else None,
            callback=self._progress(batch),
        )
        return result, time.perf_counter() - begin

    def _progress(self, batch: Sequence[Piece]) -> Callable[[int, int], None]:
        """Tell of a batch's steps: as such where it is the only one of its picture, or of several; else in hundredths of a tile of the picture."""
        owners = {id(piece.owner): piece.owner for piece in batch}
        (first, *others), index = owners.values(), batch[0].index
        assert isinstance(first, Begun)
        count = 1 if others else len(first.look.tiles)
        what = f"{len(owners)} pictures together, " if others else f"tile {index + 1} of {count}, " if count > 1 else ""
        self.phase(what + "severity")

        def step(done: int, total: int) -> None:
            self.phase(what + (f"step {done + 1} of {total}" if done < total else "finishing"))
            if self.callback is not None:
                self.callback(*((done, total) if count == 1 else (100 * index + 100 * done // max(total, 1), 100 * count)))

        return step


def _outcome(begun: Begun) -> Restored:
    try:
        return begun.finished()
    except Exception as error:
        return error


__all__ = ["Begun", "Finished", "Look", "Restored", "Together", "Wanted", "picture_seed"]
