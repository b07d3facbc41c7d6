"""Recipes: everything that decides what a training run makes, in one TOML file that is kept with the weights."""

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from flashdiff_cli.errors import UsageError

STAGES = ("autoencoder", "diffusion", "severity", "classifier", "last-step")


@dataclass
class Recipe:
    """One training run.

    `data` holds one table per group of images: `name`, `weight`, `min_scale`; the folders and shards themselves
    are given on the command line (`--data name=path`), because they differ from machine to machine.
    `model`, `loss` and `degradation` go to the stage as they are.
    """

    stage: str
    seed: int = 0
    crop: int = 64
    batch: int = 16
    steps: int | None = None
    minutes: float | None = None
    learning_rate: float = 4e-4
    final_learning_rate: float = 0.02
    """Where the cosine decay ends, as a share of `learning_rate`."""
    warmup: int = 200
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    ema: float = 0.999
    precision: str = "auto"
    workers: int = 2
    validate_every: int = 500
    checkpoint_minutes: float = 3.0
    validation_limit: int = 24
    grain: int = 16
    """Sides of validation images are cut to multiples of this; the networks need their own down-sampling to divide it."""
    data: list[dict] = field(default_factory=list)
    model: dict = field(default_factory=dict)
    loss: dict = field(default_factory=dict)
    degradation: list[dict] = field(default_factory=list)

    def __post_init__(self):
        if self.stage not in STAGES:
            raise UsageError(f"stage {self.stage!r} is unknown; choose from {', '.join(STAGES)}")
        if self.steps is None and self.minutes is None:
            raise UsageError("give a budget: steps, minutes, or both (the first to be reached ends the run)")
        for name in ("crop", "batch", "validate_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1")
        self.betas = tuple(self.betas)

    @classmethod
    def load(cls, path: str | Path, **overrides) -> "Recipe":
        """Read a TOML recipe; `overrides` that are not None replace its values.

        Raises:
            UsageError: the file is missing, is not TOML, or has a key that no recipe knows.
        """
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"{path}: cannot read this recipe ({error.strerror})") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: not a valid TOML recipe ({error})") from error
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise UsageError(f"{path}: unknown recipe keys {', '.join(unknown)}")
        return cls(**(values | {k: v for k, v in overrides.items() if v is not None}))
