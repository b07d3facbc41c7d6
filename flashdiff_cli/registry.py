"""Named classes, and the options that they declare; needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from flashdiff_cli.bounded import short
from flashdiff_cli.errors import FlashdiffError, UsageError, choose_from

SWITCH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
"""What a text means where an option is on or off."""


@dataclass(frozen=True)
class Option:
    """A parameter that an operator or a solver takes on the command line and reports in records."""

    name: str
    """As in Python, e.g. `blur_std`; the command line says `--blur-std`, in its messages too."""
    type: type
    help: str
    default: Any = None
    """None: the option must be given (or estimated)."""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    """Of a text option: the values it can have; empty: any."""

    def parse(self, value: Any) -> Any:
        """Convert and check a value.

        Raises:
            UsageError: the value is missing, of another type, not finite or out of range.
        """
        name = f"`{self.name}`"
        if value is None:
            value = self.default
        if value is None:
            raise UsageError(f"{name} is needed for this operator: {self.help}")
        if self.type is bool and isinstance(value, str):
            value = SWITCH.get(value.lower(), value)
        try:
            if self.type is bool and not isinstance(value, bool):
                raise TypeError
            value = self.type(value)
        except (TypeError, ValueError, OverflowError):
            raise UsageError(f"{name} {short(value)} is not a {self.type.__name__}") from None
        if self.choices and value not in self.choices:
            raise UsageError(f"{name} {short(value)} is unknown; {choose_from(value, self.choices)}")
        low, high = self.minimum, self.maximum
        if isinstance(value, (int, float)) and not ((low is None or value >= low) and (high is None or value <= high) and math.isfinite(value)):
            bounds = "that is finite" if low is None else f"of at least {low:g}" if high is None else f"from {low:g} to {high:g}"
            raise UsageError(f"{name} {short(value)} is out of range; give a number {bounds}")
        return value


Kind = TypeVar("Kind")
Added = TypeVar("Added", bound=type[Any])


class Registry(Generic[Kind]):
    """Named classes: added once, found by name with a useful error."""

    def __init__(self, kind: str):
        self.kind = kind
        self._classes: dict[str, Any] = {}
        self.broken: dict[str, str] = {}
        """Why a plug-in of a name was left out."""

    def add(self, cls: Added) -> Added:
        """Register a class under its `name`; usable as a decorator.

        Raises:
            ValueError: the name is taken.
        """
        if cls.name in self._classes:
            raise ValueError(f"a {self.kind} named {cls.name} is already registered")
        self._classes[cls.name] = cls
        return cls

    def __getitem__(self, name: object) -> type[Kind]:
        if not isinstance(name, str) or name not in self._classes:
            if isinstance(name, str) and name in self.broken:
                raise FlashdiffError(self.broken[name])
            raise UsageError(f"unknown {self.kind} {short(name)}; {choose_from(name, sorted(self._classes))}")
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def __contains__(self, name: str) -> bool:
        return name in self._classes
