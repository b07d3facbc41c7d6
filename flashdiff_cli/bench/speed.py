"""How long the parts of a restoration take on this machine: each network alone, the step that they make up, and pictures one by one and together.

Times are seconds of the processor (all threads together), which other programs on the machine do not lengthen much, and of the clock; on a GPU,
whose work goes on by itself, those of the clock with the device brought to rest. Ratios are of medians within one run.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from flashdiff_cli.errors import UsageError
from flashdiff_cli.flash import Start
from flashdiff_cli.operators import GaussianBlur
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.solvers import Problem, Solver, sample

LEAST_ROUNDS = 2


@dataclass(frozen=True)
class Row:
    """One thing that was timed."""

    what: str
    seconds: float
    """Of the clock, median."""
    processor: float | None
    """Seconds of all processor threads, median; None on a GPU."""
    relative: float | None = None
    """Share or multiple, as `note` says; of processor seconds where there are any."""
    note: str = ""

    @property
    def cost(self) -> float:
        """What ratios are of."""
        return self.seconds if self.processor is None else self.processor

    def to_dict(self) -> dict:
        """Return JSON values."""
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(self).items()}


class Stopwatch:
    """Times functions on a device.

    Args:
        device: of the model.
        rounds: how often each is run, after once for warming up.
    """

    def __init__(self, device: torch.device, rounds: int):
        self.device, self.rounds = device, max(LEAST_ROUNDS, rounds)

    def _rest(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def time(self, what: str, function: Callable[[], object], warm: bool = True) -> Row:
        """Return the medians of a function's times."""
        if warm:
            function()
        walls, processors = [], []
        for _ in range(self.rounds):
            self._rest()
            wall, processor = time.perf_counter(), time.process_time()
            function()
            self._rest()
            walls.append(time.perf_counter() - wall)
            processors.append(time.process_time() - processor)
        return Row(what, statistics.median(walls), statistics.median(processors) if self.device.type == "cpu" else None)


def peak_memory(device: torch.device) -> float | None:
    """Return the most memory that was held so far, in megabytes: of the process, or of a GPU; None on systems that do not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most / 1e3


def measure(pipeline: FlashDiffusionPipeline, side: int = 256, rounds: int = 3, pictures: int = 8) -> list[Row]:
    """Time a model's parts on pictures of noise, on which they take as long as on any.

    Args:
        pipeline: the model.
        side: of the pictures, in pixels; rounded up to what the model works on.
        rounds: how often each part is run.
        pictures: restored one by one and together, half of them from a fifth of the steps of the others.

    Returns:
        rows in the order in which they make sense.

    Raises:
        UsageError: fewer than two pictures, or sides of no pixels.
    """
    if side < 1 or pictures < 2:
        raise UsageError("`side` and `pictures` are too small; give at least 1 pixel and 2 pictures")
    device, dtype, stage = pipeline.unet.device, pipeline.unet.dtype, pipeline.stage
    side = -(-side // pipeline.size_multiple) * pipeline.size_multiple
    watch, generator = Stopwatch(device, rounds), torch.Generator().manual_seed(0)
    image = (torch.rand(1, 3, side, side, generator=generator) * 2 - 1).to(device, dtype)
    with torch.no_grad():
        latent = stage.encode(image)
    rows = _networks(pipeline, watch, image, latent)
    plan = pipeline.plan(None, "gaussian-blur")
    middle = max(1, len(plan.schedule) // 10)
    whole = next(row for row in rows if row.what.startswith("UNet and decoder, forward and backward"))
    rows.append(_step(pipeline, watch, plan.solver, image, latent, middle, whole))
    # A blur whose severity was estimated, and steps as the model makes them; half of the pictures are easy.
    levels = [middle if i % 2 else max(1, middle // 5) for i in range(pictures)]
    rows += _together(pipeline, watch, plan.solver, image, latent, levels)
    return rows


def _networks(pipeline: FlashDiffusionPipeline, watch: Stopwatch, image: torch.Tensor, latent: torch.Tensor) -> list[Row]:
    stage, level = pipeline.stage, torch.tensor([len(pipeline.scheduler.alphas_cumprod) // 10], device=latent.device)

    def gradient(of: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], object]:
        def run() -> object:
            with torch.enable_grad():
                z = latent.detach().requires_grad_()
                return torch.autograd.grad(of(z).square().sum(), z)

        return run

    def forward(function: Callable, *given: object) -> Callable[[], object]:
        return lambda: torch.no_grad()(function)(*given)

    def noise(z: torch.Tensor) -> torch.Tensor:
        return pipeline.unet(z, level).sample

    rows = [
        watch.time("UNet, forward", forward(noise, latent)),
        watch.time("UNet, forward and backward", gradient(noise)),
        watch.time("encoder", forward(stage.encode, image)),
        watch.time("decoder, forward", forward(stage.decode, latent)),
        watch.time("decoder, forward and backward", gradient(stage.decode)),
        watch.time("UNet and decoder, forward and backward: the least of a guided step", gradient(lambda z: stage.decode(z - noise(z)))),
    ]
    rows += [watch.time(f"severity encoder {name}", forward(encoder, image)) for name, encoder in list(pipeline.encoders.items())[:1]]
    if pipeline.last_step is not None:
        known = torch.full((1,), 0.05, device=image.device)
        rows.append(watch.time("network of the last step, one round", forward(pipeline.last_step, image.float(), known, known)))
    return rows


def _problem(pipeline: FlashDiffusionPipeline, image: torch.Tensor, count: int) -> Problem:
    schedule = pipeline.plan(None, "gaussian-blur").schedule
    blur = GaussianBlur(torch.full((count,), 1.5))
    return Problem(image.expand(count, -1, -1, -1), blur, pipeline.stage, pipeline.denoiser, schedule, torch.full((count,), 0.03))


def _step(
    pipeline: FlashDiffusionPipeline, watch: Stopwatch, solver: Solver, image: torch.Tensor, latent: torch.Tensor, level: int, least: Row
) -> Row:
    problem, here = _problem(pipeline, image, 1), torch.tensor([level], device=latent.device)
    noise = torch.zeros(solver.draws, *latent.shape, device=latent.device, dtype=latent.dtype)
    found = watch.time(f"step of {solver.name}", lambda: solver.step(latent, here, problem, noise[0] if solver.draws == 1 else noise))
    return Row(found.what, found.seconds, found.processor, found.cost / least.cost, "times the least of a guided step")


def _together(
    pipeline: FlashDiffusionPipeline, watch: Stopwatch, solver: Solver, image: torch.Tensor, latent: torch.Tensor, levels: Sequence[int]
) -> list[Row]:
    def run(groups: Sequence[Sequence[int]]) -> Callable[[], None]:
        def restore() -> None:
            for group in groups:
                start = Start(latent.expand(len(group), -1, -1, -1), torch.tensor(group), torch.zeros(len(group), dtype=torch.long))
                generators = [torch.Generator().manual_seed(i) for i in range(len(group))]
                with torch.no_grad():
                    pipeline.stage.decode(sample(solver, _problem(pipeline, image, len(group)), start, generators))

        return restore

    rows, steps = [], sum(levels)
    for what, groups in (("one by one", [[level] for level in levels]), ("staggered, in one batch", [levels])):
        found = watch.time(f"{len(levels)} pictures of {steps} steps in all, {what}", run(groups), warm=False)
        rows.append(Row(found.what, found.seconds, found.processor, 60 * len(levels) / found.seconds, "pictures a minute"))
    rows.append(Row("staggered over one by one", 0.0, None, rows[0].cost / rows[1].cost, "times the rate"))
    memory = peak_memory(image.device)
    if memory is not None:
        rows.append(Row("peak memory", 0.0, None, memory, "megabytes, in all so far"))
    return rows
