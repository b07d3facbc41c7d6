"""Random degradations for training a severity encoder, each sample with its own operator and parameters."""

from typing import NamedTuple

import torch

from flashdiff_cli.bounded import short
from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators.base import Operator
from flashdiff_cli.operators.registry import OPERATORS
from flashdiff_cli.training.parts import WHOLE, Part


class Draw(NamedTuple):
    """B degraded images and what was drawn for each."""

    measured: torch.Tensor
    """(B, 3, H, W)."""
    kinds: torch.Tensor
    """(B,): numbers of the tables."""
    operators: list[Operator]
    """One a sample."""
    noise_std: torch.Tensor
    """(B,) on intensities in [0, 1]."""


class Degradations:
    """A mixture of operators with parameters drawn from ranges.

    Args:
        tables: one a kind: `operator`, `weight`, `noise_std` (centre), `noise_spread` (standard deviation of its
            logarithm) and for every operator parameter a pair [low, high], or one value that stays. The encoder may meet noise that it was
            not promised, so the level varies around its centre.
    """

    def __init__(self, tables: list[dict]):
        if not tables:
            raise UsageError("the recipe of a severity encoder needs at least one [[degradation]] table")
        self.tables = tables
        for number, table in enumerate(tables, 1):
            self._check(table, f"[[degradation]] {number} of the recipe")
        self.weights = torch.tensor([float(t.get("weight", 1.0)) for t in tables])
        if not float(self.weights.sum()) > 0:
            raise UsageError("[[degradation]] of the recipe: all weights are 0")

    def _check(self, table: dict, where: str) -> None:
        """Raise a UsageError if a table names no operator, or has a parameter that its operator does not take."""
        if not isinstance(table.get("operator"), str):
            raise UsageError(f"{where}: operator = {short(table.get('operator'))} must be the name of an operator")
        for name, high in (("weight", 1e6), ("noise_std", 10.0), ("noise_spread", 10.0)):
            value = table.get(name, 0.0)
            if type(value) not in (int, float) or not 0 <= value <= high:
                raise UsageError(f"{where}: {name} = {short(value)} must be a number from 0 to {high:g}")
        try:
            ranges = self._ranges(table)
            for name, option in OPERATORS[table["operator"]].known(ranges).items():
                given = ranges.get(name, option.default)
                if isinstance(given, (list, tuple)) and len(given) != 2:
                    raise UsageError(f"{name} = {short(given)}: a range is a pair [low, high]")
                for value in given if isinstance(given, (list, tuple)) else (given,):
                    option.parse(value)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None

    def _ranges(self, table: dict) -> dict:
        reserved = {"operator", "weight", "noise_std", "noise_spread"}
        return {k: v for k, v in table.items() if k not in reserved}

    def __call__(self, images: torch.Tensor, generator: torch.Generator, level: float | None = None, part: Part = WHOLE) -> torch.Tensor:
        """Degrade images (B, 3, H, W) in [-1, 1] -> measurements of the same shape.

        Args:
            images: clean.
            generator: of every draw.
            level: 0 to 1 puts all parameters at that share of their range instead of drawing them.
            part: of a larger batch, which the images are; each gets what it would get there.
        """
        return self.draw(images, generator, level, part).measured

    def draw(self, images: torch.Tensor, generator: torch.Generator, level: float | None = None, part: Part = WHOLE) -> Draw:
        """Degrade as a call does, and return what was drawn as well."""
        # Half precision would add an error of its own, as large as a faint degradation.
        with torch.autocast(images.device.type, enabled=False):
            return self._draw(images.float(), generator, level, part)

    def _draw(self, images: torch.Tensor, generator: torch.Generator, level: float | None, part: Part) -> Draw:
        total = part.total(len(images))
        kinds = torch.multinomial(self.weights, total, replacement=True, generator=generator)
        here = torch.full((total,), -1)
        here[part.places(len(images))] = torch.arange(len(images))
        measured = torch.empty_like(images)
        operators: list = [None] * len(images)
        noises = torch.zeros(len(images))
        for k, table in enumerate(self.tables):
            chosen = (kinds == k).nonzero()[:, 0]
            if len(chosen) == 0:
                continue
            values = {}
            for name, given in self._ranges(table).items():
                if not isinstance(given, (list, tuple)):
                    values[name] = given
                    continue
                low, high = given
                share = torch.rand(len(chosen), generator=generator) if level is None else torch.full((len(chosen),), level)
                values[name] = low + (high - low) * share
            operator = OPERATORS[table["operator"]].batch((images.shape[-2], images.shape[-1]), generator, **values)
            spread = table.get("noise_spread", 0.0) if level is None else 0.0
            draw = torch.randn(len(chosen), generator=generator)
            noise_std = table.get("noise_std", 0.05) * torch.exp(spread * draw)
            # One generator for all: training needs no independence from the batch, only repeatability.
            noise = torch.randn((len(chosen), *images.shape[1:]), generator=generator)
            own = here[chosen] >= 0
            places = here[chosen][own]
            if len(places) == 0:
                continue
            if not bool(own.all()):
                operator, noise_std, noise = operator.subset(own), noise_std[own], noise[own]
            noises[places] = noise_std
            for number, sample in enumerate(places.tolist()):
                operators[sample] = operator.subset(torch.arange(len(places)) == number)
            some = images[places.to(images.device)]
            degraded = operator.on_signed(some) + 2 * noise_std.view(-1, 1, 1, 1).to(some) * noise.to(some)
            measured[places.to(images.device)] = degraded
        return Draw(measured, kinds[part.places(len(images))], operators, noises)

    def describe(self) -> list[dict]:
        """Return what the encoder was trained on, for its config."""
        return [{k: v for k, v in t.items() if k != "weight"} for t in self.tables]
