"""Values of a TOML or JSON file against the types of a dataclass's fields, with errors that name the entry."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any

from flashdiff_cli.bounded import short
from flashdiff_cli.errors import UsageError

MOST, TEXT, ENTRIES = 1e15, 10_000, 10_000
"""Magnitude of a number, characters of a text, entries of a list or table."""


def check_value(value: Any, where: str, depth: int = 0) -> None:
    """Check that any value, of no particular type, is of bounded size.

    Raises:
        UsageError: a number, a text, a list or the nesting is larger than anything that a person writes.
    """
    if isinstance(value, dict):
        if depth > 16 or len(value) > ENTRIES:
            raise UsageError(f"{where}: {len(value):,} entries, or nested too deeply; is it the right file?")
        for key, below in value.items():
            check_value(below, f"{where}, {short(key)}" if depth < 3 else where, depth + 1)
    elif isinstance(value, (list, tuple)):
        if depth > 16 or len(value) > ENTRIES:
            raise UsageError(f"{where}: {len(value):,} entries, or nested too deeply; is it the right file?")
        for below in value:
            check_value(below, where, depth + 1)
    elif isinstance(value, str):
        if len(value) > TEXT:
            raise UsageError(f"{where}: a text of {len(value):,} characters; is it the right file?")
    elif isinstance(value, (int, float)) and not (math.isfinite(value) and abs(value) <= MOST):
        raise UsageError(f"{where} = {short(value)} is out of range")


def _matches(value: Any, kind: Any) -> bool:
    """Return whether a value is of a type as annotations write it."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, one) for one in inner)
    if kind is float:
        return type(value) in (int, float)
    if origin in (tuple, list, dict) or kind is tuple:
        return _matches_all(value, origin or kind, inner)
    if kind is None or kind is type(None):
        return value is None
    return type(value) is kind or (isinstance(kind, type) and kind not in (int, bool, str) and isinstance(value, kind))


def _matches_all(value: Any, outer: type, inner: tuple[Any, ...]) -> bool:
    """Return whether a list or table is of a type, and each of its entries of the inner one."""
    if outer is dict:
        return isinstance(value, dict) and all(_matches(k, inner[0]) and _matches(v, inner[1]) for k, v in value.items())
    if outer is list:
        return isinstance(value, list) and all(_matches(v, inner[0]) for v in value)
    if not isinstance(value, (list, tuple)):
        return False
    if inner and inner[-1] is not Ellipsis:
        return len(value) == len(inner) and all(_matches(v, one) for v, one in zip(value, inner, strict=True))
    return all(_matches(v, inner[0]) for v in value) if inner else True


def _words(kind: Any) -> str:
    """Return a type for people."""
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table", list: "a list", tuple: "a list"}
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(_words(one) for one in typing.get_args(kind) if one is not type(None))
    return names.get(typing.get_origin(kind) or kind, str(kind))


def check_fields(cls: type, values: dict[str, Any], where: str) -> None:
    """Check a table against a dataclass: values have the types of their fields and are of bounded size.

    Args:
        cls: a dataclass.
        values: by field; those of other names are not looked at.
        where: for messages.

    Raises:
        UsageError: a value is of another type, not finite, or too large; the message names it.
    """
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.name not in values:
            continue
        value, kind = values[field.name], hints[field.name]
        if not _matches(value, kind):
            raise UsageError(f"{where}: {field.name} = {short(value)} must be {_words(kind)}")
        if not dataclasses.is_dataclass(value):
            check_value(value, f"{where}: {field.name}")
