"""What the site is made of besides its pages: the commands' own help, pictures that lie outside of docs/, and equations as MathML."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import click
import typer
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = re.compile(r"\]\((?:\.\./)+(examples/[^)]+)\)")
"""Links to pictures of the repository, as they are right where the page is read there."""


EQUATION = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$(?! )([^$\n`]+?)(?<! )\$(?![\w$])", re.DOTALL)
"""$$displayed$$ or $inline$."""
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pictures of examples/."""
    for path in sorted((ROOT / "examples").iterdir()):
        if path.suffix in (".png", ".jpg", ".webp", ".svg"):
            files.append(File.generated(config, f"examples/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at these pictures, and fill in the commands."""
    up = "../" * page.file.src_uri.count("/")
    markdown = OUTSIDE.sub(rf"]({up}\1)", markdown)
    markdown = "".join(part if index % 2 else EQUATION.sub(_equation, part) for index, part in enumerate(CODE.split(markdown)))
    return markdown.replace("{{ commands }}", commands()) if "{{ commands }}" in markdown else markdown


def _equation(found: re.Match) -> str:
    """An equation that any browser shows without a script; Markdown's own signs are hidden from it."""
    shown = "block" if found[1] else "inline"
    text = convert(" ".join((found[1] or found[2]).split()), display=shown)
    for sign in "*_[]":
        text = text.replace(sign, f"&#{ord(sign)};")
    return f"<div>{text}</div>" if found[1] else text


def commands() -> str:
    """The help of all commands."""
    from flashdiff_cli.commands.program import app

    root = typer.main.get_command(app)
    parts = []
    for name, command in root.commands.items():
        own = getattr(command, "commands", None)
        for title, one in [(name, command)] if own is None else [(f"{name} {sub}", found) for sub, found in own.items()]:
            parts.append(f"## flashdiff {title}\n\n{_said(one)}\n{_options(one)}")
    return "\n".join(parts)


def _said(command: click.Command) -> str:
    text = inspect.cleandoc(command.help or "").replace("\\[", "[")
    before, _, examples = text.partition("Examples:")
    block = "\n".join(line for line in examples.strip().splitlines() if line.strip())
    return before + (f"\n```sh\n{block}\n```\n" if block else "")


def _options(command: click.Command) -> str:
    rows = ["| option | what it does |", "| --- | --- |"]
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or parameter.name == "help":
            continue
        names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts)) or f"`{parameter.name}`"
        if isinstance(parameter, click.Argument) or parameter.param_type_name == "argument":
            names = f"`{parameter.metavar or parameter.name.upper()}`"
        text = " ".join((getattr(parameter, "help", "") or "").split()).replace("|", "\\|")
        rows.append(f"| {names} | {text} |")
    return "\n".join(rows) + "\n"
