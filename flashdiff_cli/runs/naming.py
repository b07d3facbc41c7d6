"""Names of a run: of its operator, of the options and files that go with it, and of what is written beside a picture; needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flashdiff_cli.errors import UsageError
from flashdiff_cli.parameters import OPERATOR_OPTIONS
from flashdiff_cli.registry import Option
from flashdiff_cli.storage.url import Url

ALPHA = "alpha"
"""Instead of a mask file: what a picture's transparency hides is missing."""


def options_of(operator: str, values: dict[str, Any]) -> dict[str, Option]:
    """Return the options of an operator by name; for a chain or a plug-in torch is imported.

    Args:
        operator: registered name, `a+b` for a chain.
        values: by option name.

    Raises:
        UsageError: there is no such operator, or it has no option of one of these names.
    """
    if operator not in OPERATOR_OPTIONS:
        from flashdiff_cli.operators import OPERATORS
        from flashdiff_cli.solvers import load_entry_points

        load_entry_points()
        return OPERATORS[operator].known(values)
    known = {option.name: option for option in OPERATOR_OPTIONS[operator]}
    if unknown := [name for name, value in values.items() if value is not None and name not in known]:
        raise UsageError(f"{', '.join(f'`{name}`' for name in unknown)} does not go with `operator` {operator}")
    return known


def name_operator(
    operator: str | None,
    options: dict[str, Any],
    mask: str | Path | None,
    kernel: str | Path | None,
    invert_mask: bool | None = None,
    scale: int | None = None,
) -> tuple[str | None, dict[str, Any]]:
    """Return operator and options, the short ways spelled out: `mask` for mask-inpainting, `kernel` for motion-blur; `invert_mask` among them.

    `scale` is downsampling by that factor, before whatever else has happened to the small picture.

    Raises:
        UsageError: they contradict each other, or what is spelled out beside them.
    """
    if mask is not None and kernel is not None:
        raise UsageError(
            "--mask and --kernel exclude each other; for both give --operator motion-blur+mask-inpainting with --kernel-file and --mask-file"
        )
    for flag, value, name, option in (("--mask", mask, "mask-inpainting", "mask_file"), ("--kernel", kernel, "motion-blur", "kernel_file")):
        if value is None:
            continue
        long = "--" + option.replace("_", "-")
        if operator not in (None, name):
            raise UsageError(f"{flag} means --operator {name} {long}; with --operator {operator} give {long}")
        if options.get(option) not in (None, str(value)):
            raise UsageError(f"{flag} {value} and {long} {options[option]} contradict each other; leave one out")
        operator, options = name, options | {option: str(value)}
    if invert_mask is not None:
        options = options | {"invert_mask": invert_mask}
    if options.get("invert_mask") is not None and options.get("mask_file") is None:
        raise UsageError("--invert-mask, or --no-invert-mask, says how a mask is read: give --mask FILE")
    return (operator, options) if scale is None else _enlarged(operator, options, scale)


def _enlarged(operator: str | None, options: dict[str, Any], scale: int) -> tuple[str, dict[str, Any]]:
    """Return the operator and its options of a picture that is to be `scale` times as large along each side."""
    if takes_alpha(operator, options):
        raise UsageError("--scale and --mask alpha exclude each other; fill the picture first, then enlarge the result")
    if operator is not None and "downsampling" in operator.split("+"):
        raise UsageError("--scale means --operator downsampling --factor; give the one or the other")
    if options.get("factor") is not None:
        raise UsageError(f"--scale {scale} and --factor {options['factor']} contradict each other; leave one out")
    return ("downsampling" if operator is None else f"downsampling+{operator}"), options | {"factor": scale}


def files_of(options: dict[str, Any]) -> dict[str, Path]:
    """Return the files that an operator's options name, by option."""
    found = {name: options.get(name) for name in ("mask_file", "kernel_file")}
    return {name: Path(path) for name, path in found.items() if path is not None and (name, path) != ("mask_file", ALPHA)}


def takes_alpha(operator: str | None, options: dict[str, Any]) -> bool:
    """Return whether the picture's transparency is the mask."""
    return operator == "mask-inpainting" and options.get("mask_file") == ALPHA


def beside(target: Path | Url, what: str, ending: str | None = None) -> Path | Url:
    """Return the name of a picture that goes with `target`."""
    return target.with_name(f"{target.stem}-{what}{ending or target.suffix}")


def names_beside(target: Path | Url, count: int, with_map: bool) -> list[Path | Url]:
    """Return all that `count` samples and a severity map write beside `target`."""
    found = [beside(target, f"sample{number}") for number in range(2, count + 1)]
    found += [beside(target, "mean"), beside(target, "uncertainty", ".png")] if count > 1 else []
    return found + ([beside(target, "severity", ".png")] if with_map else [])
