"""Help in two sizes: what a beginner needs with --help, all of it with --help-all."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

EXPERT = ("Method", "Solver settings", "Machines")
"""Panels of options that only --help-all shows."""
_ALL = "flashdiff_help_all"


class Helpful(TyperCommand):
    """A command whose options for experts are left out of --help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help; the options of experts only where all are asked for."""
        expert: list[Any] = [option for option in self.params if getattr(option, "rich_help_panel", None) in EXPERT]
        for option in expert:
            option.hidden = not ctx.meta.get(_ALL)
        try:
            super().format_help(ctx, formatter)
        finally:
            # They are completed by shells all the same.
            for option in expert:
                option.hidden = False


def _show_all(context: typer.Context, asked: bool) -> bool:
    if asked and not context.resilient_parsing:
        context.meta[_ALL] = True
        typer.echo(context.get_help())
        raise typer.Exit()
    return asked


HelpAll = Annotated[bool, typer.Option("--help-all", is_eager=True, callback=_show_all, help="Show all options, those for experts too.")]
