"""The library verb that every command calls: a picture in; the restored one, and its record, out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flashdiff_cli.diagnosis import Analysis, Diagnosis
from flashdiff_cli.errors import FlashdiffError, UsageError, choose_from
from flashdiff_cli.hub.network import allow_network
from flashdiff_cli.operators import OPERATORS, Jpeg, Operator
from flashdiff_cli.operators.inpainting import missing
from flashdiff_cli.operators.kept_noise import measured_noise
from flashdiff_cli.operators.padding import Margins, pad
from flashdiff_cli.pictures.files import Picture
from flashdiff_cli.pictures.tiles import OVERLAP, Canvas, Tile
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.restoration import Restoration
from flashdiff_cli.runs.checks import check_numbers, check_result
from flashdiff_cli.runs.enlarging import check_size, noise_of_small
from flashdiff_cli.runs.masks import finish_holes, from_alpha, look_at_mask, only_thin, without_missing
from flashdiff_cli.runs.memory import check_memory, tiles_together
from flashdiff_cli.runs.naming import takes_alpha
from flashdiff_cli.runs.pieces import Piece, diagnosis_of, in_batches
from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.settings import Settings
from flashdiff_cli.runs.tiled import assumed_noise_std, combine, describe_tile, diagnose, figures, size_multiple_of, tiles_of
from flashdiff_cli.seeds import seed_of
from flashdiff_cli.version import __version__

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def pick_device(name: str = "auto") -> torch.device:
    """Choose the device that is named; "auto" takes CUDA, then Apple's GPU, then the CPU.

    Raises:
        UsageError: an unknown device, or one that this machine or this build of torch does not have.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if present[kind]))
    kind = name.split(":")[0]
    if kind not in present:
        raise UsageError(f"`device` {name!r} is unknown; {choose_from(name, ('auto', 'cpu', 'cuda', 'mps'))}")
    if not present[kind]:
        raise UsageError(f"`device` {name}: torch finds no such device here; use `device` auto")
    return torch.device(name)


def _part(callback: Callable[[int, int], None] | None, phase: Callable[[str], None], index: int, count: int) -> Callable[[int, int], None]:
    """Turn progress of one tile into progress of the whole: its own steps if it is the only one, else in hundredths of a tile."""
    tile = f"tile {index + 1} of {count}, " if count > 1 else ""
    phase(tile + "severity")

    def step(done: int, total: int) -> None:
        phase(tile + (f"step {done + 1} of {total}" if done < total else "finishing"))
        if callback is not None:
            callback(*((done, total) if count == 1 else (100 * index + 100 * done // max(total, 1), 100 * count)))

    return step


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


class Restorer:
    """A loaded model and the way from files to it.

    Args:
        model: name, Hub id (`owner/name@revision`) or folder.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: "auto" (float32), "float32", "float16" or "bfloat16".
        revision, offline, cache_dir, variant: of a model on the Hub.
        prompt: that a text-to-image model is told; None: the one that it was saved with, or "".
        batch: tiles of a picture that are restored together; None: what fits into the memory of a GPU, and one by one on a processor.

    Raises:
        UsageError: a setting that makes no sense.
        FlashdiffError: the model cannot be found or loaded.
    """

    def __init__(
        self,
        model: str | Path = "photos",
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        offline: bool = False,
        cache_dir: str | Path | None = None,
        batch: int | None = None,
        prompt: str | None = None,
        variant: str | None = None,
    ):
        if dtype not in ("auto", *DTYPES):
            raise UsageError(f"`dtype` {dtype!r} is unknown; {choose_from(dtype, ('auto', *DTYPES))}")
        if batch is not None and batch < 1:
            raise UsageError(f"`batch` {batch} is out of range; give a number of at least 1")
        self.batch = batch
        self.device = pick_device(device)
        self.dtype = "float32" if dtype == "auto" else dtype
        self.model = str(model)
        self.offline = offline
        allow_network(not offline)
        pipeline = FlashDiffusionPipeline.from_pretrained(self.model, DTYPES[self.dtype], revision, offline, cache_dir, prompt, variant)
        self.pipeline = pipeline.to(self.device)
        for part in self.pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                # Nothing is trained here: a guided step keeps nothing for gradients of weights. Convolutions are quickest with channels last.
                part.requires_grad_(False).to(memory_format=torch.channels_last)

    def check(self, settings: Settings) -> None:
        """Refuse settings that make no sense with this model, before any picture is read.

        Raises:
            UsageError: one is unknown or out of range.
            FlashdiffError: the model lacks what they need.
        """
        settings.check()
        self.pipeline.plan(settings.request(), settings.operator, settings.noise_std).check()

    def prepare(self, picture: Picture, settings: Settings) -> tuple[torch.Tensor, Operator | None, tuple[int, int]]:
        """Return the measurement, padded by mirroring to the model's size_multiple; its operator; (H, W) of the result."""
        measured = picture.image
        options, size = settings.operator_options, picture.size
        if settings.operator is not None:
            size = OPERATORS[settings.operator].image_size(size, options)
            check_size(size, picture.size)
        operator = None
        if settings.operator is not None:
            if takes_alpha(settings.operator, options):
                operator = from_alpha(picture, bool(options.get("invert_mask")))
            else:
                # A network of its own may have to be fetched; another restorer may have been made in between.
                allow_network(not self.offline)
                operator = OPERATORS[settings.operator].from_options(size, settings.seed, **options)
        size_multiple = size_multiple_of(self.pipeline, operator)
        whole = (-(-size[0] // size_multiple) * size_multiple, -(-size[1] // size_multiple) * size_multiple)
        if operator is not None:
            if operator.measured_size(size) != picture.size:
                raise FlashdiffError(f"the operator {settings.operator} does not fit a picture of {picture.size[1]} x {picture.size[0]}")
            measured = without_missing(measured, operator)
            operator = operator.extend(whole)
            target = operator.measured_size(whole)
        else:
            target = whole
        bottom, right = (t - s for t, s in zip(target, picture.size, strict=True))
        return pad(measured, Margins(0, bottom, 0, right)), operator, size

    def _look(self, picture: Picture, settings: Settings, name: str, guided: bool) -> Look:
        """Find out what is to be known of a picture before any of its tiles is restored.

        Args:
            picture, settings, name: as for `restore`.
            guided: whether steps are to be run, which takes more memory.
        """
        self.check(settings)
        begin = time.perf_counter()
        measured, operator, size = self.prepare(picture, settings)
        stride = 1 if operator is None else operator.stride
        whole = (measured.shape[2] * stride, measured.shape[3] * stride)
        tiles = tiles_of(self.pipeline, operator, whole, settings.tile)
        check_memory(self.pipeline, tiles[0], guided)
        record = Record(
            name,
            width=size[1],
            height=size[0],
            model=self.model,
            seed=settings.seed,
            device=str(self.device),
            dtype=self.dtype,
            version=__version__,
            notes=[*picture.notes, *look_at_mask(picture.image, operator, settings.operator_options)],
        )
        diagnosis, analyses = None, {}
        if operator is None:
            diagnosis, analyses = diagnose(self.pipeline, measured, tiles)
            compression = Jpeg.of_file(picture.jpeg_tables, picture.subsampling) if picture.jpeg_tables else None
            diagnosis = diagnosis.stored_as(compression)
            operator, record.degradation = diagnosis.operator, diagnosis.describe()
            record.seconds["estimate"] = time.perf_counter() - begin
        if settings.noise_std is not None:
            noise_std = assumed_noise_std(settings.noise_std, measured, operator, record)
        elif settings.scale is not None:
            noise_std = noise_of_small(self.pipeline, picture, measured, tiles, operator, record)
        else:
            noise_std = measured_noise(measured, operator).item() if diagnosis is None else diagnosis.noise_std
        return Look(measured, operator, noise_std, whole, size, tiles, diagnosis, analyses, record, begin)

    def restore(
        self,
        picture: Picture,
        settings: Settings | None = None,
        name: str = "",
        callback: Callable[[int, int], None] | None = None,
        sample: int = 0,
        phase: Callable[[str], None] = lambda name: None,
    ) -> tuple[Picture, Record]:
        """Restore one picture.

        Args:
            picture: any size.
            settings: what to do.
            name: for the record.
            callback: called with (steps done, steps in all).
            sample: number of this restoration among several of the picture, each with draws of its own.
            phase: told what is done now, in words.

        Raises:
            UsageError: settings that make no sense.
            FlashdiffError: the model lacks what is asked for, or the operator cannot be cut into tiles.
        """
        settings = settings or Settings()
        phase("looking")
        look = self._look(picture, settings, name, settings.start_step != 0)
        operator, tiles, stage = look.operator, look.tiles, self.pipeline.stage
        seed, generator, noise = self._draws(picture, settings, look, sample)
        pieces = []
        for index, tile in enumerate(tiles):
            if index:
                generator = torch.Generator().manual_seed(picture_seed(seed, index.to_bytes(8, "big")))
            # Some operators make sense on whole pictures only.
            part = operator if len(tiles) == 1 else operator.window(tile.top, tile.left, tile.height, tile.width)
            state, started = generator.get_state(), not only_thin(part)
            pieces.append(Piece(index, tile, part, tile.of(noise, stage.size_multiple)[None], state, started))

        def restore(batch: Sequence[Piece], together: Operator) -> Restoration:
            return self.pipeline(
                torch.cat([piece.tile.of(look.measured, operator.stride) for piece in batch]),
                together,
                torch.full((len(batch),), look.noise_std),
                settings.request().unless_started(None if batch[0].started else 0),
                generators=[piece.generator() for piece in batch],
                noise=torch.cat([piece.noise for piece in batch]),
                diagnosis=diagnosis_of(batch, look.diagnosis, look.analyses),
                callback=_part(callback, phase, batch[0].index, len(tiles)),
            )

        canvas, results = Canvas(3, look.whole), []
        most = self.batch or tiles_together(self.pipeline, tiles, settings.start_step != 0)
        for batch, result in in_batches(pieces, most, restore):
            for number, piece in enumerate(batch):
                canvas.add(piece.tile, result.images[number])
                results.append(figures(result, number))
        return self._finished(picture, settings, look, canvas, results)

    def restore_batch(self, pictures: Sequence[Picture], settings: Settings, names: Sequence[str]) -> list[tuple[Picture, Record]]:
        """Restore pictures of one size in one run, each as it would be by itself; one by one where they cannot share it.

        Args:
            pictures, settings, names: as for `restore`; of every picture in turn.

        Raises:
            UsageError, FlashdiffError: as for `restore`.
        """
        looks = [self._look(p, settings, n, settings.start_step != 0) for p, n in zip(pictures, names, strict=True)]
        whole = all(len(look.tiles) == 1 and look.diagnosis is None and look.measured.shape == looks[0].measured.shape for look in looks)
        if not whole or any(only_thin(look.operator) for look in looks):
            return [self.restore(p, settings, n) for p, n in zip(pictures, names, strict=True)]
        drawn = [self._draws(p, settings, look) for p, look in zip(pictures, looks, strict=True)]
        result = self.pipeline(
            torch.cat([look.measured for look in looks]),
            Operator.stack([look.operator for look in looks]),
            torch.tensor([look.noise_std for look in looks]),
            settings.request(),
            generators=[generator for _, generator, _ in drawn],
            noise=torch.stack([noise for _, _, noise in drawn]),
        )
        done = []
        for picture, look, one in zip(pictures, looks, result.split(), strict=True):
            canvas = Canvas(3, look.whole)
            canvas.add(look.tiles[0], one.images[0])
            done.append(self._finished(picture, settings, look, canvas, [figures(one)]))
        return done

    def _draws(self, picture: Picture, settings: Settings, look: Look, sample: int = 0) -> tuple[int, torch.Generator, torch.Tensor]:
        """Return a picture's seed, the generator of its first tile, and noise (C, h, w), which tiles share so that they agree where they overlap."""
        seed = picture_seed(settings.seed, picture.digest)
        if sample:
            seed = picture_seed(seed, b"sample" + sample.to_bytes(8, "big"))
        generator, stage = torch.Generator().manual_seed(seed), self.pipeline.stage
        return seed, generator, torch.randn(stage.channels, *(side // stage.size_multiple for side in look.whole), generator=generator)

    def _finished(self, picture: Picture, settings: Settings, look: Look, canvas: Canvas, results: list[dict[str, Any]]) -> tuple[Picture, Record]:
        """Return the picture of restored tiles, and its record with their `figures`."""
        operator, record, tiles = look.operator, look.record, look.tiles
        for result in results:
            result["operator"]["estimated"] = look.diagnosis is not None
        combine(record, tiles, results)
        record.seconds["total"] = time.perf_counter() - look.begin
        image = canvas.image()[None, :, : look.size[0], : look.size[1]]
        image, notes = finish_holes(image, picture.image, operator, settings.noise_std, look.noise_std)
        record.notes += notes
        restored = picture.with_image(image)
        if takes_alpha(settings.operator, settings.operator_options):
            restored.alpha = None
            record.notes.append("the transparency was the mask; the result is opaque")
        check_result(picture.image, restored.image, "inpainting" in operator.name)
        return restored, record

    def analyse(self, picture: Picture, settings: Settings | None = None, name: str = "") -> tuple[dict[str, Any], Record]:
        """Find out what is known before any step.

        Returns:
            `latent` (1, C, h, w), `variance` (1,) and `decoded` (1, 3, H, W); and the record.
        """
        settings = settings or Settings()
        look = self._look(picture, settings, name, guided=False)
        operator, record, tiles, diagnosis = look.operator, look.record, look.tiles, look.diagnosis
        request = settings.request() if diagnosis is None else settings.request().unless_started(diagnosis.start_step)
        plan = self.pipeline.plan(request, operator.name, look.noise_std)
        seen, holes, stage = operator.seen(look.measured), missing(operator), self.pipeline.stage
        coded = (look.whole[0] // stage.size_multiple, look.whole[1] // stage.size_multiple)
        decoded, latent = Canvas(3, look.whole), Canvas(stage.channels, coded, OVERLAP // stage.size_multiple)
        variances, levels = [], []
        for index, tile in enumerate(tiles):
            analysis = look.analyses.get(index)
            if analysis is None or analysis.encoder != plan.encoder:
                where = None if holes is None else tile.of(holes, operator.stride)
                analysis = self.pipeline.analyse(tile.of(seen), None, plan.encoder, where=where)
            decoded.add(tile, analysis.decoded[0])
            latent.add(tile.shrunk(stage.size_multiple), analysis.latent[0])
            variances.append(analysis.variance[0].item())
            levels.append(int((plan.matched_step(analysis.variance) if plan.start_step is None else plan.start_step)[0]))
        record.operator = {"name": operator.name, **operator.describe(), "estimated": diagnosis is not None}
        record.noise_std = look.noise_std
        variance = torch.tensor([sum(variances) / len(variances)])
        record.variance, record.severity = variance[0].item(), variance[0].sqrt().item()
        record.start_step, record.schedule_steps, record.encoder = max(levels), len(plan.schedule), plan.encoder
        if len(tiles) > 1:
            record.tiles = [describe_tile(tile, v, start_step=level) for tile, v, level in zip(tiles, variances, levels, strict=True)]
        record.seconds = {"total": time.perf_counter() - look.begin}
        image = decoded.image()[None, :, : look.size[0], : look.size[1]]
        check_numbers(latent.image(), variance, image)
        return {"latent": latent.image()[None], "variance": variance, "decoded": image}, record
