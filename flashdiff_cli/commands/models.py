"""flashdiff models"""

from __future__ import annotations

import json as jsonlib
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from flashdiff_cli.commands import options

models = typer.Typer(no_args_is_help=True, help="Models by name: list, describe, fetch, find, verify and publish them.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Name = Annotated[str, typer.Argument(metavar="MODEL", help="Known name, Hub id (owner/name[@revision]) or folder.", show_default=False)]


@contextmanager
def _downloads(quiet: bool):
    """Show a bar on stderr for downloads that are not the Hub's; yields what `resolve_model` reports to."""
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    (disable_progress_bars if quiet or not console.is_terminal else enable_progress_bars)()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def report(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)

        yield report


@models.command("list")
def list_(json: Json = False) -> None:
    """List the known models, and which of them are on this machine.

    Example:

    flashdiff models list --json
    """
    from rich.console import Console
    from rich.table import Table

    from flashdiff_cli.hub.registry import known_models
    from flashdiff_cli.models.resolve import find_model

    rows = [(model, find_model(name)) for name, model in known_models().items()]
    if json:
        for model, folder in rows:
            print(jsonlib.dumps(model.describe() | {"path": None if folder is None else str(folder)}))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "here", "MB", "side", "pictures", "severity encoders"):
        table.add_column(column, justify="right" if column in ("MB", "side") else "left", overflow="fold")
    for model, folder in rows:
        encoders = ", ".join([*model.severity, *(e.degradation for e in model.encoders)])
        table.add_row(model.name, "no" if folder is None else "yes", str(model.megabytes), str(model.resolution), model.domain, encoders)
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=80)).print(table)


def _components(folder: Path) -> dict[str, dict]:
    from flashdiff_cli.bounded import short
    from flashdiff_cli.hub.configs import read_config
    from flashdiff_cli.hub.paths import within

    found = {}
    for path in sorted(folder.glob("*/*config.json")):
        config = read_config(within(folder, path))
        size = sum(p.stat().st_size for p in path.parent.iterdir() if p.is_file())
        found[path.parent.name] = {"class": short(config.get("_class_name")).strip("'"), "megabytes": round(size / 1e6, 1)}
        degradations = config.get("degradations")
        if isinstance(degradations, list) and degradations and all(isinstance(d, dict) for d in degradations):
            found[path.parent.name]["degradations"] = degradations
    return found


@models.command()
def info(model: Name, json: Json = False) -> None:
    """Say what a model is: pictures, terms, source, and its components if it is on this machine.

    Example:

    flashdiff models info photos
    """
    from flashdiff_cli.hub.registry import known_models
    from flashdiff_cli.models.resolve import find_model

    folder, known = find_model(model), known_models().get(model)
    found: dict[str, Any] = known.describe() if known else {"name": model}
    if not known and folder is None:
        found["note"] = f"not on this machine; fetch it: flashdiff models pull {model}"
    found["path"] = None if folder is None else str(folder)
    found["components"] = _components(folder) if folder else {}
    if json:
        print(jsonlib.dumps(found))
        return
    from flashdiff_cli.errors import one_line

    # Of a folder from a stranger, names and texts are too.
    for key in ("name", "domain", "resolution", "megabytes", "terms", "source", "paper", "path", "note"):
        if found.get(key):
            print(one_line(f"{key:12} {found[key]}"))
    for name, component in found["components"].items():
        degradations = "; ".join(", ".join(f"{k} {v}" for k, v in d.items()) for d in component.get("degradations", []))
        print(one_line(f"{name:20} {component['class']}, {component['megabytes']} MB{', ' + degradations if degradations else ''}"))
    for encoder in found.get("encoders", ()):
        print(f"{encoder['role']:20} for {encoder['degradation']}: {encoder['url']}")


@models.command()
def pull(
    names: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Known names or Hub ids (owner/name[@revision]).", show_default=False)],
    unverified: Annotated[bool, typer.Option("--unverified", help="Fetch original downloads, too, whose checksum nobody has published.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Fetch models, verify their checksums, and print where they are. An interrupted download goes on where it stopped.

    Example:

    flashdiff models pull celebahq-256
    """
    from flashdiff_cli.hub.configs import read_config
    from flashdiff_cli.models.base import base_folder
    from flashdiff_cli.models.resolve import resolve_model

    with _downloads(quiet) as report:
        for name in names:
            folder = resolve_model(name, report=report, complete=True, unverified=unverified)
            if (folder / "model_index.json").is_file():
                base_folder(folder, read_config(folder / "model_index.json"))
            print(folder)


@models.command()
def path(model: Name) -> None:
    """Print the folder of a model that is on this machine; nothing is fetched.

    Example:

    flashdiff models path photos
    """
    print(_here(model))


def _here(model: str) -> Path:
    from flashdiff_cli.errors import FlashdiffError
    from flashdiff_cli.models.resolve import find_model

    folder = find_model(model)
    if folder is None:
        raise FlashdiffError(f"{model}: not on this machine; fetch it: flashdiff models pull {model}")
    return folder


@models.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL...]", help="(default: all known models on this machine)", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Compare every file of a model with its published checksum. Leaves with 1 if one is damaged, missing or not listed.

    Example:

    flashdiff models verify photos
    """
    from flashdiff_cli.commands.show import say_error
    from flashdiff_cli.hub.checksums import check_folder
    from flashdiff_cli.hub.registry import known_models
    from flashdiff_cli.models.resolve import find_model

    bad = False
    for name in names or [n for n in known_models() if find_model(n)]:
        folder = _here(name)
        checks = check_folder(folder)
        counts = {state: sum(c.state == state for c in checks) for state in ("ok", "damaged", "missing", "unlisted", "unknown")}
        if json:
            print(jsonlib.dumps({"model": name, "path": str(folder), "files": {c.path: c.state for c in checks}}))
        else:
            print(f"{name}: {', '.join(f'{n} {state}' for state, n in counts.items() if n) or 'no files'}")
        for check in checks:
            if check.state in ("damaged", "missing"):
                bad = True
                say_error(f"{folder / check.path}: {check.state}; delete the folder and fetch or convert the model again")
            elif check.state == "unlisted":
                bad = True
                say_error(f"{folder / check.path}: not in SHA256SUMS; if you put it there, run: flashdiff models checksums {folder}")
    raise typer.Exit(int(bad))


@models.command()
def checksums(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Model folder.", show_default=False)],
) -> None:
    """Write the checksums of a model folder of your own anew (SHA256SUMS), after files were added or changed.

    Example:

    flashdiff models checksums my-model/
    """
    from flashdiff_cli.errors import UsageError
    from flashdiff_cli.hub.checksums import SUMS, write_sums

    if not (folder / "model_index.json").is_file():
        raise UsageError(f"FOLDER {folder}: no model_index.json in it; give a model folder")
    write_sums(folder)
    print(folder / SUMS)


@models.command()
def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Model folder.", show_default=False)],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Hub repository; made if it is not there.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="If it is made, make it private.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Publish a model folder on the Hub, after loading it once to see that it works. Needs `hf auth login`.

    Example:

    flashdiff models push my-model/ owner/name
    """
    from flashdiff_cli.models.push import push_folder

    with _downloads(quiet):
        print(push_folder(folder, repo, private))
