"""Values that shells complete; needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from flashdiff_cli.commands.flags import SOLVER_NAMES
from flashdiff_cli.parameters import OPERATOR_OPTIONS, STARTS


def _beginning(incomplete: str, values: Iterable[str]) -> list[str]:
    return [value for value in values if value.startswith(incomplete)]


def operators(incomplete: str) -> list[str]:
    """Complete the last operator of a chain a+b."""
    before, plus, last = incomplete.rpartition("+")
    return [f"{before}{plus}{name}" for name in _beginning(last, OPERATOR_OPTIONS)]


def solvers(incomplete: str) -> list[str]:
    """Complete the last solver of a list a,b."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in _beginning(last, SOLVER_NAMES)]


def models(incomplete: str) -> list[str]:
    """Complete the name of a known model."""
    from flashdiff_cli.hub.registry import known_models

    return _beginning(incomplete, known_models())


def protocols(incomplete: str) -> list[str]:
    """Complete the name of a protocol that comes with the package."""
    folder = Path(__file__).parent.parent / "bench" / "protocols"
    return _beginning(incomplete, sorted(path.stem for path in folder.glob("*.toml")))


def starts(incomplete: str) -> list[str]:
    """Complete how a run starts."""
    return _beginning(incomplete, STARTS)


def devices(incomplete: str) -> list[str]:
    """Complete the kind of a device."""
    return _beginning(incomplete, ("auto", "cpu", "cuda", "mps"))


def dtypes(incomplete: str) -> list[str]:
    """Complete a type of numbers."""
    return _beginning(incomplete, ("auto", "float32", "float16", "bfloat16"))


def formats(incomplete: str) -> list[str]:
    """Complete a format that is written."""
    from flashdiff_cli.pictures.formats import FORMATS

    return _beginning(incomplete, [ending.removeprefix(".") for ending in FORMATS])
