"""The library verb that every command calls: a picture in; the restored one, and its record, out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch

from flashdiff_cli.errors import FlashdiffError, UsageError, choose_from
from flashdiff_cli.hub.network import allow_network
from flashdiff_cli.operators import OPERATORS, Jpeg, Operator
from flashdiff_cli.operators.inpainting import missing
from flashdiff_cli.operators.kept_noise import measured_noise
from flashdiff_cli.operators.padding import Margins, pad
from flashdiff_cli.pictures.files import Picture
from flashdiff_cli.pictures.tiles import OVERLAP, Canvas, Tile
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.runs.checks import check_numbers
from flashdiff_cli.runs.enlarging import check_size, noise_of_small
from flashdiff_cli.runs.masks import from_alpha, look_at_mask, without_missing
from flashdiff_cli.runs.memory import MOST_TOGETHER, check_memory, most_together, pieces_together
from flashdiff_cli.runs.naming import takes_alpha
from flashdiff_cli.runs.pieces import Piece
from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.settings import Settings
from flashdiff_cli.runs.tiled import assumed_noise_std, describe_tile, diagnose, size_multiple_of, tiles_of
from flashdiff_cli.runs.together import Look, Together, Wanted
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


BFLOAT16 = "amx_bf16", "avx512_bf16"
"""What processors call their instructions for bfloat16; without them it is several times slower than float32."""


def pick_dtype(name: str, device: torch.device) -> str:
    """Choose the type of the weights that is named; "auto" takes bfloat16 on a processor that has instructions for it, else float32.

    What the type costs is below 0.02 dB on average; the data terms of solvers and of the last step, the schedule, norms and
    what tells kinds and blurs apart are float32 in any case.

    Raises:
        UsageError: an unknown type.
    """
    if name not in ("auto", *DTYPES):
        raise UsageError(f"`dtype` {name!r} is unknown; {choose_from(name, ('auto', *DTYPES))}")
    if name != "auto":
        return name
    # Older releases of torch do not say what a processor can do.
    able = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return "bfloat16" if any(able.get(flag) for flag in BFLOAT16) else "float32"


class Restorer:
    """A loaded model and the way from files to it.

    Args:
        model: name, Hub id (`owner/name@revision`) or folder.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: "auto" (see `pick_dtype`), "float32", "float16" or "bfloat16".
        revision, offline, cache_dir, variant: of a model on the Hub.
        prompt: that a text-to-image model is told; None: the one that it was saved with, or "".
        batch: pictures, or tiles of pictures, that are restored together; None: see `memory.pieces_together`.

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
        self.check_batch(batch)
        self.batch, self._most = batch, dict[tuple[int, int, bool], int]()
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self.model = str(model)
        self.offline = offline
        allow_network(not offline)
        pipeline = FlashDiffusionPipeline.from_pretrained(self.model, DTYPES[self.dtype], revision, offline, cache_dir, prompt, variant)
        self.pipeline = pipeline.to(self.device)
        for part in self.pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                # Nothing is trained here: a guided step keeps nothing for gradients of weights. Convolutions are quickest with channels last.
                cast(Any, part.requires_grad_(False)).to(memory_format=torch.channels_last)

    @staticmethod
    def check_batch(batch: int | None) -> None:
        """Raise a UsageError if so many pictures cannot be restored together; more would keep too many files claimed."""
        if batch is not None and not 1 <= batch <= MOST_TOGETHER:
            raise UsageError(f"`batch` {batch} is out of range; give a number from 1 to {MOST_TOGETHER}")

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
        pool = self.together(settings, callback=callback, phase=phase)
        (((_, outcome),),) = [*pool.add(picture, name, sample), *pool.rest()]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def together(
        self,
        settings: Settings | None = None,
        batch: int | None = None,
        callback: Callable[[int, int], None] | None = None,
        phase: Callable[[str], None] = lambda name: None,
    ) -> Together:
        """Return what restores any number of pictures, together as far as they can share a run.

        Args:
            settings: what to do.
            batch: pictures, or tiles of pictures, that are restored together; None: as this restorer was made.
            callback, phase: as for `restore`.
        """
        settings, batch = settings or Settings(), batch or self.batch
        guided = settings.start_step != 0

        def look(wanted: Wanted) -> Look:
            return self._look(wanted.picture, settings, wanted.name, guided)

        def most(piece: Piece) -> int:
            return batch or self._fitting(piece.tile, guided)

        return Together(self.pipeline, look, settings, most, batch or most_together(self.device), callback, phase)

    def _fitting(self, tile: Tile, guided: bool) -> int:
        """Return `pieces_together`, asked once for each size."""
        key = tile.height, tile.width, guided
        if key not in self._most:
            self._most[key] = pieces_together(self.pipeline, tile, guided)
        return self._most[key]

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
