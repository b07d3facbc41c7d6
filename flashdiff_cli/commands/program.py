"""The console program: one subcommand a file; errors become one line and an exit code."""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from functools import cache
from typing import Annotated, Any

import typer

from flashdiff_cli.commands import process, signals
from flashdiff_cli.commands.bench import bench
from flashdiff_cli.commands.calibrate import calibrate
from flashdiff_cli.commands.compare import compare
from flashdiff_cli.commands.convert import convert
from flashdiff_cli.commands.encode import encode
from flashdiff_cli.commands.flags import PARAMETERS
from flashdiff_cli.commands.helpful import Helpful
from flashdiff_cli.commands.models import models
from flashdiff_cli.commands.report import report
from flashdiff_cli.commands.restore import restore
from flashdiff_cli.commands.serve import serve
from flashdiff_cli.commands.severity import severity
from flashdiff_cli.commands.show import lenient, say_error
from flashdiff_cli.commands.train import train
from flashdiff_cli.commands.watch import watch
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.version import __version__

app = typer.Typer(
    name="flashdiff",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (restore, severity, encode, compare, report, serve, watch, bench, calibrate, train, convert):
    app.command(cls=Helpful)(command)
    PARAMETERS.update(inspect.signature(command).parameters)
app.add_typer(models, name="models")


@app.command("help")
def help_(
    names: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND]...", help="Whose help to show.", show_default=False)] = None,
) -> None:
    """Show the help of a command, as --help does.

    Examples:

    flashdiff help restore

    flashdiff help models pull
    """
    _command()(args=[*(names or []), "--help"], standalone_mode=False)


def _version(asked: bool) -> None:
    if asked:
        print(f"flashdiff {__version__}")
        raise typer.Exit()


@app.callback()
def flashdiff(
    version: Annotated[bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Restore degraded photographs, and spend on each just the steps that it needs."""


@cache
def _command() -> Any:
    """Return all commands, made of their functions once in a process: that takes a tenth of a second."""
    return typer.main.get_command(app)


def run(arguments: list[str] | None = None) -> int:
    """Run the program; its exit code: 0 done, 1 some failed, 2 wrong usage, 128 and its number after a signal."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    warnings.filterwarnings("ignore")
    lenient()
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    # Read when torch is imported: threads that wait without spinning leave a busy machine to whoever has work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with process.of_this_run(), signals.handled(signals.interrupt):
            code = _run(sys.argv[1:] if arguments is None else arguments)
    except signals.Interrupted as stop:
        say_error("interrupted")
        code = stop.code
    written = signals.close_output()
    return code if written else code or 1


def _run(arguments: list[str]) -> int:
    try:
        _command()(args=arguments, obj=arguments)
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except UsageError as error:
        say_error(str(error))
        return 2
    except FlashdiffError as error:
        say_error(str(error))
        return 1
    except KeyboardInterrupt:
        say_error("interrupted")
        return 130
    except BrokenPipeError:
        # The reader of stdout has gone, e.g. `| head`; nothing is left to say to it.
        return 1
    except OSError as error:
        # The commands answer for the files that they name; what is left is standard output.
        say_error(f"cannot go on: {error.strerror or error}" + (f": {error.filename}" if error.filename else " (standard output)"))
        return 1
    return 0
