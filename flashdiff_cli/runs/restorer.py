"""The library verb that every command calls: a picture in; the restored one, and its record, out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from flashdiff_cli import __version__
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.hub.resolve import resolve_model
from flashdiff_cli.operators import OPERATORS, Operator
from flashdiff_cli.operators.estimate import noise_level
from flashdiff_cli.operators.mirror import Margins, pad
from flashdiff_cli.pictures.files import Picture, from_pil, read_picture
from flashdiff_cli.pictures.tiles import OVERLAP, Canvas
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.runs.decide import model_state
from flashdiff_cli.runs.masks import from_alpha, takes_alpha, without_missing
from flashdiff_cli.runs.memory import check_memory
from flashdiff_cli.runs.pieces import combine, describe_tile, diagnose, figures, grain_of, heeded_noise, tiles_of
from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.settings import Settings
from flashdiff_cli.seeds import seed_of

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def pick_device(name: str = "auto") -> torch.device:
    """"auto" takes CUDA, then Apple's GPU, then the CPU.

    Raises:
        UsageError: an unknown device, or one that this machine or this build of torch does not have.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if present[kind]))
    kind = name.split(":")[0]
    if kind not in present:
        raise UsageError(f"--device {name!r} is unknown; choose from auto, cpu, cuda, mps")
    if not present[kind]:
        raise UsageError(f"--device {name}: torch finds no such device here; use --device auto")
    return torch.device(name)


def _part(callback: Callable[[int, int], None], index: int, count: int) -> Callable[[int, int], None]:
    """Progress of one tile as progress of the whole: its own steps if it is the only one, else in hundredths of a tile."""
    if count == 1:
        return callback
    return lambda done, total: callback(100 * index + 100 * done // max(total, 1), 100 * count)


def picture_seed(seed: int, digest: bytes) -> int:
    """63 bits that depend on the run's seed and the picture's content, not on its name or place in a run."""
    return seed_of(f"{seed}:".encode() + digest)


class Restorer:
    """A loaded model and the way from files to it.

    Args:
        model: name, Hub id (`owner/name@revision`) or folder.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: "auto" (float32), "float32", "float16" or "bfloat16".
        revision, offline, cache_dir: of a model on the Hub.

    Raises:
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
    ):
        if dtype not in ("auto", *DTYPES):
            raise UsageError(f"--dtype {dtype!r} is unknown; choose from auto, {', '.join(DTYPES)}")
        self.device = pick_device(device)
        self.dtype = "float32" if dtype == "auto" else dtype
        self.model = str(model)
        pipeline = FlashDiffusionPipeline.from_pretrained(self.model, DTYPES[self.dtype], revision, offline, cache_dir)
        self.pipeline = pipeline.to(self.device)

    @staticmethod
    def identity(model: str | Path, offline: bool = False) -> dict[str, str]:
        """What an output depends on besides its settings: which model it is, without loading it.

        Raises:
            UsageError, FlashdiffError: as for `resolve_model`.
        """
        return {"model": model_state(resolve_model(str(model), offline=offline))}

    def check(self, settings: Settings) -> None:
        """Raise a UsageError for settings that make no sense with this model, before any picture is read."""
        settings.check()
        solver = self.pipeline.make_solver(settings.solver, settings.operator, **settings.solver_options)
        length = len(self.pipeline.schedule(settings.steps or self.pipeline.tuned(solver.name, settings.operator)["steps"]))
        if settings.start_step is not None and settings.start_step > length:
            raise UsageError(f"--start-step {settings.start_step} is out of range; this schedule has {length} steps")
        if settings.encoder is not None:
            self.pipeline.encoder_for(settings.operator, settings.encoder)

    def prepare(self, picture: Picture, settings: Settings) -> tuple[torch.Tensor, Operator | None, tuple[int, int]]:
        """The measurement, padded by mirroring to the model's grain; its operator; (H, W) of the result."""
        measured = picture.image
        options, size = settings.operator_options, picture.size
        if settings.operator is not None:
            size = OPERATORS[settings.operator].image_size(size, options)
        operator = None
        if settings.operator is not None:
            if takes_alpha(settings.operator, options):
                operator = from_alpha(picture)
            else:
                operator = OPERATORS[settings.operator].from_options(size, settings.seed, **options)
        grain = grain_of(self.pipeline, operator)
        whole = tuple(-(-side // grain) * grain for side in size)
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

    def _record(self, name: str, size: tuple[int, int], settings: Settings, picture: Picture) -> Record:
        return Record(
            name,
            width=size[1],
            height=size[0],
            model=self.model,
            seed=settings.seed,
            device=str(self.device),
            dtype=self.dtype,
            version=__version__,
            notes=list(picture.notes),
        )

    def restore(
        self,
        picture: Picture,
        settings: Settings | None = None,
        name: str = "",
        callback: Callable[[int, int], None] | None = None,
        sample: int = 0,
    ) -> tuple[Picture, Record]:
        """Restore one picture.

        Args:
            picture: any size.
            settings: what to do.
            name: for the record.
            callback: called with (steps done, steps in all).
            sample: number of this restoration among several of the picture, each with draws of its own.

        Raises:
            UsageError: settings that make no sense.
            FlashdiffError: the model lacks what is asked for, or the operator cannot be cut into tiles.
        """
        settings = settings or Settings()
        self.check(settings)
        begin = time.perf_counter()
        measured, operator, size = self.prepare(picture, settings)
        whole = measured.shape[2:] if operator is None else tuple(n * operator.stride for n in measured.shape[2:])
        tiles = tiles_of(self.pipeline, operator, whole, settings.tile)
        check_memory(self.pipeline, tiles[0], settings.start_step != 0)
        record = self._record(name, size, settings, picture)
        noise_std, start_step, estimated, diagnosis = settings.noise_std, settings.start_step, operator is None, None
        if estimated:
            diagnosis = diagnose(self.pipeline, measured, tiles)
            operator, record.degradation = diagnosis.operator, diagnosis.describe()
            noise_std = diagnosis.noise_std
            start_step = diagnosis.start_step if start_step is None else start_step
            record.seconds["estimate"] = time.perf_counter() - begin
        if settings.noise_std is not None:
            noise_std = heeded_noise(settings.noise_std, measured, operator, record)
        seed = picture_seed(settings.seed, picture.digest)
        if sample:
            seed = picture_seed(seed, b"sample" + sample.to_bytes(8, "big"))
        generator = torch.Generator().manual_seed(seed)
        stage = self.pipeline.stage
        # Tiles share the noise of the whole picture, so that they agree where they overlap.
        noise = torch.randn(stage.channels, *(side // stage.grain for side in whole), generator=generator)
        canvas, results = Canvas(3, whole), []
        solver = self.pipeline.make_solver(settings.solver, operator.name, **settings.solver_options)
        for index, tile in enumerate(tiles):
            if index:
                generator = torch.Generator().manual_seed(picture_seed(seed, index.to_bytes(8, "big")))
            result = self.pipeline(
                tile.of(measured, operator.stride),
                operator.window(tile.top, tile.left, tile.height, tile.width),
                noise_std,
                solver=solver,
                steps=settings.steps,
                eta=settings.eta,
                noise_correction=settings.noise_correction,
                variance_multiplier=settings.variance_multiplier,
                start=settings.start,
                start_step=start_step,
                generators=[generator],
                encoder=settings.encoder,
                fidelity=settings.fidelity,
                noise=tile.of(noise, stage.grain)[None],
                diagnosis=diagnosis,
                callback=None if callback is None else _part(callback, index, len(tiles)),
            )
            canvas.add(tile, result.images[0])
            results.append(figures(result))
            results[-1]["operator"]["estimated"] = estimated
        combine(record, tiles, results)
        record.seconds["total"] = time.perf_counter() - begin
        restored = picture.with_image(canvas.image()[None, :, : size[0], : size[1]])
        if takes_alpha(settings.operator, settings.operator_options):
            restored.alpha = None
            record.notes.append("the transparency was the mask; the result is opaque")
        return restored, record

    def analyse(self, picture: Picture, settings: Settings | None = None, name: str = "") -> tuple[dict[str, Any], Record]:
        """What is known before any step: `latent` (1, C, h, w), `variance` (1,), `decoded` (1, 3, H, W), and the record."""
        settings = settings or Settings()
        self.check(settings)
        begin = time.perf_counter()
        measured, operator, size = self.prepare(picture, settings)
        lifted = measured if operator is None else operator.lift(measured)
        tiles = tiles_of(self.pipeline, operator, tuple(lifted.shape[2:]), settings.tile)
        check_memory(self.pipeline, tiles[0], guided=False)
        record = self._record(name, size, settings, picture)
        used, noise, name = operator, settings.noise_std, settings.operator
        if operator is None:
            diagnosis = diagnose(self.pipeline, lifted, tiles)
            used, record.degradation, name = diagnosis.operator, diagnosis.describe(), diagnosis.operator.name
            noise = diagnosis.noise_std
        elif noise is None:
            noise = noise_level(measured).item()
        if settings.noise_std is not None:
            noise = heeded_noise(settings.noise_std, measured, used, record)
        grain, variances = self.pipeline.stage.grain, []
        decoded, latent = Canvas(3, tuple(lifted.shape[2:])), None
        for tile in tiles:
            part = tile.of(lifted)
            analysis = self.pipeline.analyse(part, name, settings.encoder, noise)
            decoded.add(tile, analysis.decoded[0])
            if latent is None:
                latent = Canvas(len(analysis.latent[0]), tuple(n // grain for n in lifted.shape[2:]), OVERLAP // grain)
            latent.add(tile.shrunk(grain), analysis.latent[0])
            variances.append(analysis.variance[0].item())
        record.operator = {"name": used.name, **used.describe(), "estimated": operator is None}
        record.noise_std = noise
        tuned = self.pipeline.tuned(settings.solver, used.name, analysis.encoder)
        schedule = self.pipeline.schedule(settings.steps or tuned["steps"])
        multiplier = tuned["variance_multiplier"] if settings.variance_multiplier is None else settings.variance_multiplier
        levels = schedule.start_level(torch.tensor(variances) * multiplier).tolist()
        if operator is None and diagnosis.start_step is not None:
            levels = [diagnosis.start_step] * len(levels)
        variance = torch.tensor([sum(variances) / len(variances)])
        record.variance, record.severity = variance[0].item(), variance[0].sqrt().item()
        record.start_step, record.schedule_steps, record.encoder = max(levels), len(schedule), analysis.encoder
        if len(tiles) > 1:
            record.tiles = [
                describe_tile(tile, v, start_step=level) for tile, v, level in zip(tiles, variances, levels, strict=True)
            ]
        record.seconds = {"total": time.perf_counter() - begin}
        image = decoded.image()[None, :, : size[0], : size[1]]
        return {"latent": latent.image()[None], "variance": variance, "decoded": image}, record


@lru_cache(maxsize=2)
def _loaded(model: str, device: str, dtype: str) -> Restorer:
    return Restorer(model, device, dtype)


def restore(
    source: str | Path | Image.Image | Picture,
    *,
    model: str | Path = "photos",
    device: str = "auto",
    dtype: str = "auto",
    callback: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> tuple[Image.Image, Record]:
    """Restore one picture: the tool in one call. The model stays loaded for the next.

    Args:
        source: a file, a Pillow picture, or a Picture.
        model: name, Hub id or folder.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: "auto", "float32", "float16" or "bfloat16".
        callback: called with (steps done, steps in all).
        settings: fields of `Settings`, e.g. operator="gaussian-blur", operator_options={"blur_std": 2.0}.

    Returns:
        The restored picture (upright, with the source's transparency) and its record.

    Raises:
        FlashdiffError: the picture or the model cannot be read.
        UsageError: settings that make no sense.
    """
    name = ""
    if isinstance(source, Image.Image):
        content = source.tobytes()
        source = from_pil(source)
        source.digest = hashlib.sha256(content).digest()
    elif not isinstance(source, Picture):
        name, source = str(source), read_picture(source)
    restored, record = _loaded(str(model), device, dtype).restore(source, Settings(**settings), name, callback)
    return restored.to_pil(), record
