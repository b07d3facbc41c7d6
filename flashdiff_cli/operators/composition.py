"""One degradation after another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators.base import Operator


class Composition(Operator):
    """A(x) = A_n(... A_2(A_1(x))): the operators act in the order given. Linear if all of them are.

    Args:
        operators: at least one.

    Raises:
        UsageError: none is given.
    """

    name = "composition"
    help = "one degradation after another"
    parts: ClassVar[tuple[type[Operator], ...]] = ()
    """The classes that `make` builds, in order; see `registry.chain`."""

    def __init__(self, *operators: Operator):
        if not operators:
            raise UsageError("a composition needs at least one operator")
        self.operators = operators
        # Of the class they are what `registry.chain` says; here of these very parts.
        vars(self).update(name="+".join(operator.name for operator in operators), linear=all(operator.linear for operator in operators))

    @classmethod
    def make(cls, size: tuple[int, int], generator: torch.Generator, **values: Any) -> Composition:
        operators = []
        for part in cls.parts:
            operator = part.make(size, generator, **{o.name: values[o.name] for o in part.options})
            size = operator.measured_size(size)
            operators.append(operator)
        return Composition(*operators)

    def hides_detail(self) -> torch.Tensor:
        # The noise comes after the last.
        return self.operators[-1].hides_detail()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for operator in self.operators:
            x = operator.forward(x)
        return x

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        if not self.linear:
            return super().adjoint(y)
        for operator in reversed(self.operators):
            y = operator.adjoint(y)
        return y

    @classmethod
    def image_size(cls, measured: tuple[int, int], values: dict[str, Any]) -> tuple[int, int]:
        for part in reversed(getattr(cls, "parts", ())):
            measured = part.image_size(measured, values)
        return measured

    def measured_size(self, size: tuple[int, int]) -> tuple[int, int]:
        for operator in self.operators:
            size = operator.measured_size(size)
        return size

    def resize_to_image(self, y: torch.Tensor) -> torch.Tensor:
        for operator in reversed(self.operators):
            y = operator.resize_to_image(y)
        return y

    def seen(self, y: torch.Tensor) -> torch.Tensor:
        y = self.operators[-1].seen(y)
        for operator in reversed(self.operators[:-1]):
            y = operator.resize_to_image(y)
        return y

    def kept(self) -> torch.Tensor | None:
        # What an earlier one drops, the later ones have spread.
        return self.operators[-1].kept()

    def extend(self, size: tuple[int, int]) -> Composition:
        extended = []
        for operator in self.operators:
            extended.append(operator.extend(size))
            size = extended[-1].measured_size(size)
        return Composition(*extended)

    @property
    def stride(self) -> int:
        return math.prod(operator.stride for operator in self.operators)

    def window(self, top: int, left: int, height: int, width: int) -> Composition:
        parts, box = [], (top, left, height, width)
        for operator in self.operators:
            parts.append(operator.window(*box))
            box = tuple(n // operator.stride for n in box)
        return Composition(*parts)

    def describe(self, index: int = 0) -> dict[str, Any]:
        """Return all parts' parameters; one that several parts have is a list, in the order of the parts."""
        found: dict[str, list] = {}
        for operator in self.operators:
            for name, value in operator.describe(index).items():
                found.setdefault(name, []).append(value)
        return {name: values[0] if len(values) == 1 else values for name, values in found.items()}

    def subset(self, active: torch.Tensor) -> Composition:
        return Composition(*(operator.subset(active) for operator in self.operators))

    @classmethod
    def _stack(cls, operators: Sequence[Composition]) -> Composition:
        if len({len(operator.operators) for operator in operators}) > 1:
            raise cls._unstackable("chains of different lengths")
        return Composition(*(Operator.stack(parts) for parts in zip(*(o.operators for o in operators), strict=True)))
