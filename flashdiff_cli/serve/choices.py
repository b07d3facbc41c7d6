"""What a visitor may ask for with a picture; the same for page and API, and said as the command line that would do the same."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from flashdiff_cli.errors import UsageError, one_line
from flashdiff_cli.parameters import OPERATOR_OPTIONS
from flashdiff_cli.pictures.formats import FORMATS
from flashdiff_cli.registry import Option

OFF_LIMITS = ("mask_file", "kernel_file", "weights")
"""Options that name files of the machine, or networks to fetch: visitors upload masks and kernels, and bring no networks."""
NUMBERS: dict[str, tuple[type, float, float]] = {
    "noise_std": (float, 0.0, 10.0),
    "scale": (int, 2, 4),
    "variance_multiplier": (float, 0.0, 1e6),
    "seed": (int, -(2**63), 2**63 - 1),
    "quality": (int, 1, 100),
}
"""Type and range of each choice that is a number."""
FLAGS = ("fast", "severity_map", "invert_mask")
UPLOADS = ("mask", "kernel")
"""Files that may come with a picture."""
LONGEST_NAME = 200


def offered() -> dict[str, tuple[Option, ...]]:
    """Return the operators that a visitor may name, and their options."""
    return {
        name: tuple(o for o in options if o.name not in OFF_LIMITS) for name, options in OPERATOR_OPTIONS.items() if "weights" not in _names(options)
    }


def _names(options: Sequence[Option]) -> list[str]:
    return [option.name for option in options]


def safe_name(name: str) -> str:
    """Return the last part of a file's name as a visitor's browser has sent it, without what acts on a console."""
    last = PurePosixPath(PureWindowsPath(name or "").as_posix()).name
    stem, dot, ending = one_line(last).rpartition(".")
    if not last.strip(". "):
        return "picture"
    return f"{stem[:LONGEST_NAME]}{dot}{ending[:20]}" if stem else ending[:LONGEST_NAME]


@dataclass(frozen=True)
class Choices:
    """What is to be done with one picture; None leaves a choice to the model.

    Attributes:
        operator: registered name, or a chain `a+b`; None: what degraded the picture is estimated from it.
        options: the operator's parameters by name.
        noise_std, scale, variance_multiplier, seed: see `runs.settings.Settings`.
        fast: leave out the diffusion steps.
        severity_map: make a map of where the picture is hard, too.
        invert_mask: whether the uploaded mask is white where pixels are missing.
        format: of the result, as an ending without its dot; None: the picture's own, or PNG.
        quality: of formats with loss, 1 to 100.
    """

    operator: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    noise_std: float | None = None
    scale: int | None = None
    variance_multiplier: float | None = None
    seed: int = 0
    fast: bool = False
    severity_map: bool = False
    invert_mask: bool | None = None
    format: str | None = None
    quality: int | None = None

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Choices:
        """Check values as a form or a page has them; text is turned into numbers, and empty ones are left out.

        Raises:
            UsageError: a name is unknown, or a value is no number, out of range, or not offered here.
        """
        given = {name: value for name, value in values.items() if value not in (None, "")}
        operator = given.pop("operator", None)
        known = _known_options(operator)
        options = {name: known[name].parse(_plain(value)) for name, value in list(given.items()) if name in known and name not in FLAGS}
        rest = {name: value for name, value in given.items() if name not in options}
        if wrong := [name for name in rest if name not in {f.name for f in fields(cls)} - {"options", "operator"}]:
            raise UsageError(f"{one_line(wrong[0])[:60]!r} is not offered here; see GET /api/choices")
        read: dict[str, Any] = {name: _number(name, value) for name, value in rest.items() if name in NUMBERS}
        read |= {name: _flag(name, value) for name, value in rest.items() if name in FLAGS}
        if "format" in rest:
            read["format"] = _format(str(rest["format"]))
        return cls(operator=operator, options=options, **read)

    def settings(self, uploads: Mapping[str, str]) -> dict[str, Any]:
        """Return keyword arguments of `runs.settings.Settings`; `uploads` are the paths of files that came with the picture."""
        return {
            "operator": self.operator,
            "operator_options": dict(self.options),
            "noise_std": self.noise_std,
            "scale": self.scale,
            "variance_multiplier": self.variance_multiplier,
            "seed": self.seed,
            "start_step": 0 if self.fast else None,
            "mask": uploads.get("mask"),
            "kernel": uploads.get("kernel"),
            "invert_mask": self.invert_mask if "mask" in uploads else None,
        }

    def command(self, name: str, uploads: Sequence[str] = (), model: str = "photos", tile: int | None = None, dtype: str | None = None) -> str:
        """Return the command line that does the same with a picture of this name; uploads are called `mask.png`, `kernel.png`.

        `tile` and `dtype` are the server's; None: as the command line has them without being told.
        """
        words = ["flashdiff", "restore", f"./{name}" if name.startswith("-") else name]
        words += [] if self.operator is None else ["--operator", self.operator]
        for option, value in self.options.items():
            words += _words(option, value)
        for upload in uploads:
            words += [f"--{upload}", f"{upload}.png"]
        if self.invert_mask is not None and "mask" in uploads:
            words.append("--invert-mask" if self.invert_mask else "--no-invert-mask")
        for key in ("noise_std", "scale", "variance_multiplier", "quality"):
            value = getattr(self, key)
            words += [] if value is None else ["--" + key.replace("_", "-"), f"{value:.10g}"]
        words += ["--fast"] if self.fast else []
        words += ["--severity-map"] if self.severity_map else []
        words += ["--format", self.format] if self.format else []
        words += ["--seed", str(self.seed)] if self.seed else []
        words += ["--model", model] if model != "photos" else []
        words += ["--tile", str(tile)] if tile is not None else []
        words += ["--dtype", dtype] if dtype is not None else []
        return shlex.join(words)


def _words(option: str, value: Any) -> list[str]:
    """Return the words that set an option on the command line."""
    name = option.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", f"{value:.10g}" if isinstance(value, float) else str(value)]


def _known_options(operator: Any) -> dict[str, Option]:
    """Return the options of all operators that are offered, by name.

    Raises:
        UsageError: the operator, or a part of a chain, is none of them.
    """
    table = offered()
    parts = str(operator).split("+") if operator is not None else []
    if unknown := [name for name in parts if name not in table]:
        raise UsageError(f"`operator` {one_line(unknown[0])[:60]!r} is not offered here; choose from {', '.join(table)}")
    return {option.name: option for options in table.values() for option in options}


def _plain(value: Any) -> Any:
    """Return "true" and "false" of a form as truth values."""
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


def _number(name: str, value: Any) -> float:
    kind, low, high = NUMBERS[name]
    with suppress(TypeError, ValueError, OverflowError):
        number = kind(value)
        if not isinstance(value, bool) and low <= number <= high and (kind is float or not isinstance(value, float) or value == number):
            return number
    whole = "whole " if kind is int else ""
    raise UsageError(f"`{name}` {one_line(str(value))[:60]!r}: give a {whole}number from {low:g} to {high:g}")


def _flag(name: str, value: Any) -> bool:
    value = _plain(value)
    if value in ("1", "0"):
        value = value == "1"
    if not isinstance(value, bool):
        raise UsageError(f"`{name}` {one_line(str(value))[:60]!r}: give true or false")
    return value


def _format(value: str) -> str:
    ending = value.lower().lstrip(".")
    if f".{ending}" not in FORMATS:
        raise UsageError(f"`format` {one_line(value)[:60]!r} cannot be written; choose from {', '.join(name[1:] for name in FORMATS)}")
    return ending


__all__ = ["UPLOADS", "Choices", "offered", "safe_name"]
