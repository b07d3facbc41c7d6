"""Flags of the command line, made from the options that operators and solvers declare; needs no torch."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Annotated, Any

import typer

from flashdiff_cli.errors import UsageError
from flashdiff_cli.parameters import OPERATOR_OPTIONS, SOLVER_OPTIONS
from flashdiff_cli.registry import Option


@dataclass(frozen=True)
class Flag:
    """One option of a command: its Python name, type, and what `--help` says."""

    name: str
    type: type
    help: str
    metavar: str | None = None

    @classmethod
    def of(cls, option: Option, users: list[str]) -> Flag:
        """Return the flag of an option; its help says who takes it, which values, and the default."""
        facts = [] if (values := _values(option)) is None else [values]
        if option.default not in (None, "") and option.type is not bool:
            facts.append(f"default {_number(option.default)}")
        more = f" ({'; '.join(facts)})" if facts else ""
        metavar = "FILE" if option.name.endswith("_file") else "PIXELS" if "in pixels" in option.help else None
        return cls(option.name, option.type, f"{', '.join(users)}: {option.help}{more}", metavar)


def _number(value: Any) -> str:
    return f"{value:,.10g}" if isinstance(value, (int, float)) else str(value)


def _values(option: Option) -> str | None:
    if option.choices:
        return " or ".join(option.choices)
    if option.minimum is None or option.maximum is None:
        return None
    return f"{_number(option.minimum)} to {_number(option.maximum)}"


def _flags(table: Mapping[str, tuple[Option, ...]]) -> tuple[Flag, ...]:
    users: dict[Option, list[str]] = {}
    for name, options in table.items():
        for option in options:
            users.setdefault(option, []).append(name)
    return tuple(Flag.of(option, names) for option, names in users.items())


def _with_plugins(kind: str, own: Mapping[str, tuple[Option, ...]]) -> dict[str, tuple[Option, ...]]:
    """Return a table of options with those of plug-ins, which are imported only where a package offers any."""
    if not entry_points(group=f"flashdiff.{kind}"):
        return dict(own)
    from flashdiff_cli.operators import OPERATORS
    from flashdiff_cli.solvers import SOLVERS, load_entry_points

    load_entry_points()
    registry = OPERATORS if kind == "operators" else SOLVERS
    return dict(own) | {name: tuple(o for o in registry[name].options if o.type in TYPED) for name in registry if name not in own}


TYPED = (int, float, str, bool)
"""Types of options that are flags; whatever else a plug-in has is reached by --option."""
OPERATOR_TABLE, SOLVER_TABLE = _with_plugins("operators", OPERATOR_OPTIONS), _with_plugins("solvers", SOLVER_OPTIONS)
OPERATOR_FLAGS = _flags(OPERATOR_TABLE)
SOLVER_FLAGS = _flags(SOLVER_TABLE)
OPERATOR_NAMES = f"{', '.join(OPERATOR_TABLE)}; a+b for a chain"
SOLVER_NAMES = tuple(sorted(SOLVER_OPTIONS))


def solver_help() -> str:
    """Return the solvers by name, plug-ins included; nothing of them is imported."""
    names = sorted({*SOLVER_NAMES, *(entry.name for entry in entry_points(group="flashdiff.solvers"))})
    return f"How reverse steps agree with the measurement: {', '.join(names)} (default: the model's)"


def flag(name: str) -> str:
    """Return a parameter's name as it is typed: `blur_std` is `--blur-std`."""
    return "--" + name.replace("_", "-")


def _spelled(f: Flag) -> str:
    """Return a flag as it is typed; one that is on or off has a --no- form."""
    return f"{flag(f.name)}/{flag('no_' + f.name)}" if f.type is bool else flag(f.name)


ANY = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="Any option of the operator or solver in use, for those of plug-ins whose flags would be in the way; again.",
        rich_help_panel="Degradation",
    ),
]


def with_flags(flags: tuple[Flag, ...], panel: str, any_option: bool = False) -> Callable:
    """Give a command one option for each flag, but for those that it has already; it receives them as keyword arguments (**values).

    Args:
        flags: of operators or solvers.
        panel: of `--help`.
        any_option: whether to add `--option NAME=VALUE`, which `split` reads.
    """

    def decorate(function: Callable) -> Callable:
        signature = inspect.signature(function, eval_str=True)
        kept = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        added = [
            inspect.Parameter(
                f.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[f.type | None, typer.Option(_spelled(f), help=f.help, metavar=f.metavar, rich_help_panel=panel)],
            )
            for f in flags
            if f.name not in signature.parameters
        ]
        if any_option:
            added.append(inspect.Parameter("option", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ANY))
        rest = [p for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
        function.__signature__ = signature.replace(parameters=[*kept, *added, *rest])  # type: ignore[attr-defined]
        function.__annotations__ = {p.name: p.annotation for p in (*kept, *added)}
        return function

    return decorate


def closed(function: Callable) -> Callable:
    """Drop the **values of a decorated command from what Typer sees."""
    signature = inspect.signature(function)
    kept = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    function.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return function


def split(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (operator options, solver options) that were given."""
    parts = ({f.name for f in OPERATOR_FLAGS}, {f.name for f in SOLVER_FLAGS})
    operator, solver = ({k: v for k, v in values.items() if k in part and v is not None} for part in parts)
    for pair in values.get("option") or ():
        name, value = _read_option(pair)
        (operator if _is_of_operator(name, pair) else solver)[name] = value
    return operator, solver


def _read_option(pair: str) -> tuple[str, str]:
    name, found, value = pair.partition("=")
    if not found or not name:
        raise UsageError(f"--option {pair!r}: give it as NAME=VALUE")
    return name.removeprefix("--").replace("-", "_"), value


def _is_of_operator(name: str, pair: str) -> bool:
    """Return whether an option is one of an operator's; a UsageError if it is of no solver either."""
    import difflib

    from flashdiff_cli.operators import OPERATORS
    from flashdiff_cli.solvers import SOLVERS, load_entry_points

    load_entry_points()
    known = [{option.name for n in registry for option in registry[n].options} for registry in (OPERATORS, SOLVERS)]
    if name not in known[0] | known[1]:
        near = difflib.get_close_matches(name, known[0] | known[1], 1)
        raise UsageError(f"--option {pair!r}: no operator or solver has an option of that name{f'; did you mean {near[0]}?' if near else ''}")
    return name in known[0]


PARAMETERS: set[str] = set()
"""Names of the parameters of all commands, as Python has them."""


def as_flags(message: str) -> str:
    """Return a message of the library as the command line says it: a parameter `blur_std` becomes --blur-std."""
    return re.sub(r"`([a-z]\w*)`", lambda found: flag(found[1]) if found[1] in PARAMETERS else found[0], message)
