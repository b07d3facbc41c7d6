"""Recipes: everything that decides what a training run makes, in one TOML file that is kept with the weights."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from flashdiff_cli.bounded import in_one_line, read_toml, short
from flashdiff_cli.errors import UsageError
from flashdiff_cli.hub.configs import check_config
from flashdiff_cli.schema import check_fields

STAGES = ("autoencoder", "diffusion", "severity", "classifier", "last-step", "blur")
PRECISIONS = ("auto", "no", "bf16", "fp16")
MOST_PARAMETERS = 1_000_000_000
"""Of a network that a recipe describes."""
LIMITS = {
    "seed": (0, 2**22),
    "crop": (1, 4096),
    "batch": (1, 65_536),
    "accumulate": (1, 65_536),
    "steps": (0, 1e9),
    "minutes": (0, 1e7),
    "learning_rate": (0, 10),
    "final_learning_rate": (0, 1),
    "warmup": (0, 1e9),
    "weight_decay": (0, 10),
    "clip": (0, 1e6),
    "ema": (0, 1),
    "workers": (0, 256),
    "validate_every": (1, 1e9),
    "checkpoint_minutes": (0, 1e6),
    "validation_limit": (1, 1e6),
    "size_multiple": (1, 1024),
}
"""What numbers may be. Seeds are shifted by 40 bits to draw from, and must stay within 63."""


BUILT_IN = Path(__file__).parent / "recipes"
"""Recipes for pictures and models of one's own, by the name of their stage."""


def find_recipe(spec: str | Path) -> Path:
    """Return the file of a recipe: a path, or the name of one that comes with the program.

    Raises:
        UsageError: there is neither.
    """
    path = Path(spec)
    if path.exists() or len(path.parts) > 1 or path.suffix:
        return path
    built_in = BUILT_IN / f"{spec}.toml"
    if not built_in.is_file():
        known = ", ".join(sorted(p.stem for p in BUILT_IN.glob("*.toml")))
        raise UsageError(f"`recipe` {spec}: no such file, and no recipe that comes with flashdiff ({known})")
    return built_in


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
    """Crops of a step, of all processes and passes together."""
    steps: int | None = None
    minutes: float | None = None
    learning_rate: float = 4e-4
    final_learning_rate: float = 0.02
    """Where the cosine decay ends, as a share of `learning_rate`."""
    warmup: int = 200
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    accumulate: int = 1
    """Passes that a batch is computed in, one after the other, to save memory."""
    gradient_checkpointing: bool = False
    """Compute activations of large networks anew in the backward pass, to save memory."""
    ema: float = 0.999
    precision: str = "auto"
    workers: int = 2
    validate_every: int = 500
    checkpoint_minutes: float = 3.0
    validation_limit: int = 24
    size_multiple: int = 16
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
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"{name} must be from {low:g} to {high:g}, not {short(value)}")
        first, second = self.betas
        self.betas = (first, second)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError(f"betas must be from 0 to below 1, not {short(self.betas)}")
        if self.precision not in PRECISIONS:
            raise UsageError(f"precision {short(self.precision)} is unknown; choose from {', '.join(PRECISIONS)}")
        for number, group in enumerate(self.data, 1):
            if not isinstance(group.get("name"), str) or set(group) - {"name", "weight", "min_scale"}:
                raise UsageError(f"data group {number}: it has a name, a weight and a min_scale, not {short(group)}")
            for name, low, high in (("weight", 0.0, 1e6), ("min_scale", 0.01, 1.0)):
                value = group.get(name, 1.0)
                if type(value) not in (int, float) or not low <= value <= high:
                    raise UsageError(f"data group {short(group['name'])}: {name} must be from {low:g} to {high:g}, not {short(value)}")

    @classmethod
    def load(cls, path: str | Path, **overrides) -> "Recipe":
        """Read a TOML recipe; `overrides` that are not None replace its values.

        Raises:
            UsageError: the file is missing, is not TOML, or has a key that no recipe knows.
        """
        try:
            values = read_toml(path)
        except OSError as error:
            raise UsageError(f"{path}: cannot read this recipe ({error.strerror or error})") from error
        except ValueError as error:
            raise UsageError(f"{path}: not a valid TOML recipe ({error})") from error
        if "grain" in values:  # its name in recipes before 0.2
            values.setdefault("size_multiple", values.pop("grain"))
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise UsageError(f"{path}: unknown recipe keys {', '.join(unknown)}")
        if "stage" not in values:
            raise UsageError(f"{path}: stage is missing; choose from {', '.join(STAGES)}")
        values |= {k: v for k, v in overrides.items() if v is not None}
        check_fields(cls, values, str(path))
        try:
            return cls(**values)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None

    def losses(self, defaults: dict) -> dict:
        """Return `loss` over a stage's defaults; what a stage does not know stays, for people.

        Raises:
            UsageError: a value is not of its default's type.
        """
        for name, value in self.loss.items():
            default = defaults.get(name, value)
            numbers = isinstance(default, list) and isinstance(value, list) and len(value) == len(default) and all(map(_is_number, value))
            if not (numbers or (_is_number(default) and _is_number(value)) or (isinstance(default, str) and isinstance(value, str))):
                raise UsageError(f"[loss] {short(name)} = {short(value)}: give it as in {short(default)}")
        return defaults | self.loss


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def new_network(make: Callable, **settings: Any) -> Any:
    """Return a network of a recipe's `[model]`, of bounded size.

    Args:
        make: its class, or a function that builds one.
        settings: arguments.

    Raises:
        UsageError: they make no network, or one too large.
    """
    with in_one_line("[model] of the recipe", "check its entries", UsageError):
        check_config(settings, "[model] of the recipe")
        with torch.device("meta"):
            count = sum(p.numel() for p in make(**settings).parameters())
        if count > MOST_PARAMETERS:
            raise UsageError(f"[model] of the recipe: a network of {count:,} parameters, more than {MOST_PARAMETERS:,}")
        return make(**settings)
