"""Operators by name; each file of this folder adds its own."""

from __future__ import annotations

from collections.abc import Sequence

from flashdiff_cli.bounded import short
from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators.base import Operator
from flashdiff_cli.operators.composition import Composition
from flashdiff_cli.registry import Registry

MOST_LINKS = 16
"""Operators of a chain."""


def chain(parts: Sequence[type[Operator]]) -> type[Composition]:
    """Return a class that builds the composition of `parts` from the union of their options; equal names are shared."""
    options = {option.name: option for part in parts for option in part.options}
    facts = {
        "name": "+".join(part.name for part in parts),
        "help": ", then ".join(part.help for part in parts),
        "linear": all(part.linear for part in parts),
        "options": tuple(options.values()),
        "parts": tuple(parts),
    }
    return type("Chain", (Composition,), facts)


class OperatorRegistry(Registry[Operator]):
    """Operators by name; `a+b` is the operator that applies `a`, then `b`."""

    def __getitem__(self, name: str) -> type[Operator]:
        if not isinstance(name, str) or "+" not in name:
            return super().__getitem__(name)
        if name.count("+") >= MOST_LINKS:
            raise UsageError(f"operator {short(name)}: a chain of more than {MOST_LINKS} operators")
        return chain([self[part] for part in name.split("+")])

    def __contains__(self, name: str) -> bool:
        return isinstance(name, str) and all(part in self._classes for part in name.split("+"))


OPERATORS = OperatorRegistry("operator")
