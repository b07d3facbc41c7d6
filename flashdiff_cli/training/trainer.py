"""The training loop that all stages share: budgets, EMA, validation, checkpoints that resume exactly.

A stage is a `Task`: it owns the module, its loss, its validation figures and its sample grid. Whatever is random in
a step comes from a generator seeded with (seed, step), so a resumed run repeats what an undisturbed one would do.
"""

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers.training_utils import EMAModel
from PIL import Image
from torch.utils.data import DataLoader

from flashdiff_cli.bounded import in_one_line, open_regular
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.hub.pickles import check_checkpoint
from flashdiff_cli.pictures.atomic import whole
from flashdiff_cli.runs.lines import append, appending, safe_open
from flashdiff_cli.training.data import Crops, ResumableSampler, Source
from flashdiff_cli.training.parts import Part
from flashdiff_cli.training.recipe import Recipe

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"
FIRST_CHECKPOINT = 30.0
"""Seconds after which a run's first checkpoint is written, at the latest."""


class Task(Protocol):
    """What a stage of training supplies."""

    module: torch.nn.Module
    """The network that is trained, under EMA."""

    shares_draws: bool
    """Whether `loss` takes the `Part` of a batch that its images are, and draws as for the whole; without, every part draws for itself."""

    def prepare(self, device: torch.device) -> None:
        """Move whatever is frozen to the device."""

    def loss(self, module: torch.nn.Module, images: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return the losses of a batch of images (B, 3, H, W) in [-1, 1]; `loss` is differentiated, the others are logged."""
        ...

    def validate(self, module: torch.nn.Module) -> dict[str, float]:
        """Return the figures on the validation images."""
        ...

    def sample_grid(self, module: torch.nn.Module) -> Image.Image:
        """Draw a picture that shows how far the training has come."""
        ...

    def export(self, module: torch.nn.Module, folder: Path) -> None:
        """Write the finished component in the diffusers layout."""


def fastest_precision(device: torch.device) -> str:
    """Return `bf16` where this device multiplies bfloat16 matrices faster than float32 ones, else `no`."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    if device.type != "cpu":
        return "no"

    def seconds(dtype: torch.dtype) -> float:
        a = torch.ones(384, 384, dtype=dtype)
        torch.matmul(a, a)
        start = time.perf_counter()
        for _ in range(3):
            torch.matmul(a, a)
        return time.perf_counter() - start

    return "bf16" if seconds(torch.bfloat16) < 0.8 * seconds(torch.float32) else "no"


def atomic_save(state: dict, path: Path) -> None:
    """Save by torch.save under a temporary name, then rename: a kill at any moment leaves the old file or the new one."""
    with whole(path) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # what torch makes of a disk that is full
            raise FlashdiffError(f"{path}: cannot be written ({' '.join(str(error).split())[:160]}); is there room on the disk?") from error


def made_by_training(log: Path) -> bool:
    """Return whether a file is the log of a training, as far as its first line says; one that has just begun is empty."""
    try:
        with open_regular(log) as file:
            first = file.readline(1 << 16)
        return not first or {"event", "step"} <= json.loads(first).keys()
    except (OSError, FlashdiffError, ValueError, AttributeError, RecursionError):
        return False


def _checkpoint_gradients(task: Task) -> None:
    """Compute what a backward pass needs anew instead of keeping it, in every network of a task that can do so: less memory, a third more time."""
    frozen = getattr(task, "stage", None)
    for network in (task.module, None if frozen is None else frozen.model):
        if getattr(network, "_supports_gradient_checkpointing", False):
            network.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue, reportOptionalMemberAccess]


class Losses(torch.nn.Module):
    """A task's loss as a network's forward pass, which is what several processes can share."""

    def __init__(self, task: Task):
        super().__init__()
        self.module, self.task = task.module, task

    def forward(self, images: torch.Tensor, generator: torch.Generator, part: Part) -> dict[str, torch.Tensor]:
        """Return the losses of a part of a batch."""
        more = {"part": part} if getattr(self.task, "shares_draws", False) else {}
        return self.task.loss(self.module, images, generator, **more)


class Trainer:
    """Runs one recipe for one task in one folder.

    Args:
        recipe: what to do.
        task: the stage.
        sources: groups of training images.
        folder: receives `checkpoint.pt`, `log.jsonl`, `sheets/` and the finished component.
        callback: called with a dict per step (`step`, `loss`, `progress`, `seconds_left`, `rate`, ...) and per event.
        device: "auto", "cpu", "cuda" or "mps".
        target: receives the finished component instead of `folder`.
    """

    def __init__(
        self,
        recipe: Recipe,
        task: Task,
        sources: list[Source],
        folder: str | Path,
        callback: Callable[[dict], None] | None = None,
        device: str = "auto",
        target: str | Path | None = None,
    ):
        self.recipe, self.task, self.folder = recipe, task, Path(folder)
        self.target = self.folder if target is None else Path(target)
        self.callback = callback or (lambda event: None)
        self.folder.mkdir(parents=True, exist_ok=True)
        precision = recipe.precision
        if precision == "auto":
            probe = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
            precision = fastest_precision(probe)
        # The library keeps one precision for the whole process and refuses a second; each training here has its own.
        AcceleratorState._reset_state()
        self.accelerator = Accelerator(mixed_precision=precision, cpu=device == "cpu")
        self.device = self.accelerator.device
        self.sources = sources
        self.step, self.elapsed = 0, 0.0
        task.prepare(self.device)
        self.optimizer = torch.optim.AdamW(
            [p for p in task.module.parameters() if p.requires_grad],
            lr=recipe.learning_rate,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
        )
        parts = self.accelerator.num_processes * recipe.accumulate
        if recipe.batch % parts:
            raise UsageError(f"batch {recipe.batch} cannot be shared evenly by {parts} (processes times accumulate); give a multiple")
        self.module = task.module.to(self.device)
        if recipe.gradient_checkpointing:
            _checkpoint_gradients(task)
        self.losses, self.optimizer = self.accelerator.prepare(Losses(task), self.optimizer)
        self.ema = EMAModel(self._bare().parameters(), decay=recipe.ema, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
        self.ema.to(self.device)

    def _bare(self) -> torch.nn.Module:
        return self.module

    @property
    def progress(self) -> float:
        """Share of the budget that is used, 0 to 1: of the steps or of the minutes, whichever is further."""
        by_steps = self.step / self.recipe.steps if self.recipe.steps else 0.0
        by_time = self.elapsed / (60 * self.recipe.minutes) if self.recipe.minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    def learning_rate(self) -> float:
        """Return the learning rate: linear warm-up, then cosine decay over the budget."""
        warm = min(1.0, (self.step + 1) / max(1, self.recipe.warmup))
        floor = self.recipe.final_learning_rate
        return self.recipe.learning_rate * warm * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * self.progress)))

    def resume(self) -> bool:
        """Continue from the folder's checkpoint, if there is one. Returns whether there was.

        Raises:
            FlashdiffError: the checkpoint cannot be read or belongs to another recipe's network.
        """
        path = self.folder / CHECKPOINT
        if not path.exists():
            return False
        try:
            with open_regular(path) as file:
                check_checkpoint(file, os.fstat(file.fileno()).st_size)
            state = torch.load(path, map_location="cpu", weights_only=True)
            step, elapsed = int(state["step"]), float(state["elapsed"])
            if step < 0 or not elapsed >= 0:
                raise ValueError(f"step {step} after {elapsed} s")
            self._bare().load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.ema.load_state_dict(state["ema"])
        except Exception as error:
            reason = next(iter(str(error).splitlines()), "")[:200]
            raise FlashdiffError(
                f"{path}: cannot resume from this checkpoint ({type(error).__name__}: {reason}); "
                "give the recipe that it was made with, or another output folder"
            ) from error
        self.ema.to(self.device)
        self.step, self.elapsed = step, elapsed
        self._cut_log()
        return True

    def _cut_log(self) -> None:
        """Drop log lines of steps after the checkpoint: they will be run again."""
        log = self.folder / LOG
        if log.exists():
            with os.fdopen(safe_open(log), "rb") as file:
                lines = file.read().decode(errors="replace").splitlines()
            with whole(log) as file:
                file.write("".join(line + "\n" for line in lines if self._before(line)).encode())

    def _before(self, line: str) -> bool:
        """Return whether a line of the log is whole, and of a step that the checkpoint holds."""
        try:
            return json.loads(line)["step"] <= self.step
        except (ValueError, KeyError, TypeError, RecursionError):
            return False

    def checkpoint(self) -> None:
        """Write everything that an exact continuation needs."""
        if self.accelerator.is_main_process:
            atomic_save(
                {
                    "module": self._bare().state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "ema": self.ema.state_dict(),
                    "step": self.step,
                    "elapsed": self.elapsed,
                },
                self.folder / CHECKPOINT,
            )

    def _log(self, event: dict) -> None:
        if self.accelerator.is_main_process:
            with appending(self.folder / LOG) as handle:
                append(handle, self.folder / LOG, json.dumps(event), sync=False)
            self.callback(event)

    def _batches(self):
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        start = self.step * self.recipe.batch
        loader = DataLoader(
            Crops(self.sources, self.recipe.crop, self.recipe.seed),
            batch_size=self.recipe.batch // world,
            sampler=ResumableSampler(start, rank, world),
            num_workers=self.recipe.workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=self.recipe.workers > 0,
        )
        return iter(loader)

    def evaluate(self) -> dict[str, float]:
        """Return the validation figures and the sample grid, with the EMA weights."""
        bare = self._bare()
        self.ema.store(bare.parameters())
        self.ema.copy_to(bare.parameters())
        bare.eval()
        try:
            with torch.no_grad(), self.accelerator.autocast():
                figures = self.task.validate(bare)
                grid = self.task.sample_grid(bare)
        finally:
            bare.train()
            self.ema.restore(bare.parameters())
        if self.accelerator.is_main_process:
            (self.folder / "sheets").mkdir(exist_ok=True)
            with whole(self.folder / "sheets" / f"{self.step:07d}.png") as file:
                grid.save(file, "PNG")
        return figures

    def train_step(self, images: torch.Tensor) -> dict[str, float]:
        """Take one optimiser step on this process's share of a batch (B, 3, crop, crop), in as many passes as the recipe says; mean losses."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        world, rank, passes = self.accelerator.num_processes, self.accelerator.process_index, self.recipe.accumulate
        sums: dict[str, torch.Tensor] = {}
        for number in range(passes):
            part = Part(rank + world * number, world * passes)
            # Draws are of the whole batch, whoever computes a part of it; where a task draws for its part alone, the parts must differ.
            shared = getattr(self.task, "shares_draws", False)
            seed = self.step if shared else self.step * part.count + part.index
            generator = torch.Generator().manual_seed((self.recipe.seed << 40) + seed)
            last = number == passes - 1
            with nullcontext() if last else self.accelerator.no_sync(self.losses), self.accelerator.autocast():
                losses = self.losses(images[number::passes].to(self.device, non_blocking=True), generator, part)
                self.accelerator.backward(losses["loss"] / passes)
            sums = {k: v.detach() / passes + sums.get(k, 0.0) for k, v in losses.items()}
        if world > 1:
            sums = {k: self.accelerator.reduce(v, "mean") for k, v in sums.items()}
        norm = self.accelerator.clip_grad_norm_(self.module.parameters(), self.recipe.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self._bare().parameters())
        self.step += 1
        return {k: float(v) for k, v in sums.items()}

    def _agreed(self, seconds: float) -> float:
        """Return the time that all processes go by, the longest: they must end at the same step."""
        if self.accelerator.num_processes == 1:
            return seconds
        found = self.accelerator.gather(torch.tensor([seconds], dtype=torch.float32, device=self.device))
        return float(found.max())

    def run(self) -> dict[str, float]:
        """Train until the budget is used, then export the EMA weights. Returns the last validation figures.

        A KeyboardInterrupt is passed on after a checkpoint.
        """
        self.module.train()
        with appending(self.folder / LOG):
            pass  # a run that is killed early has begun here
        batches = self._batches()
        figures: dict[str, float] = {}
        tick = time.perf_counter()
        # The first checkpoint comes early: what a long interval would lose of a new run is all of it.
        last_save = tick - max(0.0, 60 * self.recipe.checkpoint_minutes - FIRST_CHECKPOINT)
        begun_at, begun = self.progress, self.elapsed
        try:
            while self.progress < 1.0:
                losses = self.train_step(next(batches))
                if self.step % self.recipe.validate_every == 0:
                    figures = self.evaluate()
                    self._log({"event": "validation", "step": self.step, **figures})
                now = time.perf_counter()
                self.elapsed, tick = self._agreed(self.elapsed + now - tick), now
                done = self.progress - begun_at
                left = (self.elapsed - begun) * (1 - self.progress) / done if done > 0 else None
                event = {"event": "step", "step": self.step, **losses, "learning_rate": self.learning_rate()}
                event |= {"elapsed": round(self.elapsed, 2)}
                if self.step % 20 == 0:
                    self._log(event)
                self.callback(event | {"event": "tick", "progress": self.progress, "seconds_left": left})
                if now - last_save > 60 * self.recipe.checkpoint_minutes:
                    self.checkpoint()
                    last_save = now
        finally:
            self.checkpoint()
        figures = self.evaluate()
        self._log({"event": "validation", "step": self.step, **figures})
        bare = self._bare()
        self.ema.copy_to(bare.parameters())
        if self.accelerator.is_main_process:
            with in_one_line(self.folder, "the weights cannot be written; is there room on the disk? The checkpoint is there, run again"):
                self.task.export(bare.eval(), self.target)
        self.accelerator.wait_for_everyone()
        return figures
