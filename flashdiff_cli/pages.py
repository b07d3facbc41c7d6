"""Pages of HTML that need no other file and no network, from the templates of this package; all that they show is escaped."""

from __future__ import annotations

import base64
import io
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from flashdiff_cli.errors import one_line
from flashdiff_cli.pictures.atomic import Opener, whole
from flashdiff_cli.storage.url import Url, location


class Shown(NamedTuple):
    """A picture within a page: its data address, and its size in pixels."""

    address: str
    width: int
    height: int


def data_address(kind: str, data: bytes) -> str:
    """Return a file's content as an address, e.g. of the kind "image/jpeg"."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def show_picture(picture: Image.Image, side: int) -> Shown:
    """Return an RGB picture as a JPEG of at most `side` pixels along the longer side; the picture itself is made small."""
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88, subsampling=0)
    return Shown(data_address("image/jpeg", buffer.getvalue()), *picture.size)


def _printed(value: Any) -> Any:
    """Return a value of a page: of a text that is not the package's own, what acts instead of being shown as its escape."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join(c if c.isprintable() or c in "\n\t" else one_line(c) for c in value)


@cache
def _environment() -> Environment:
    loader = PackageLoader("flashdiff_cli", "templates")
    found = Environment(
        loader=loader,
        autoescape=True,
        finalize=_printed,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # Style and script of the package itself, which must stand as they are.
    found.globals["source"] = lambda name: Markup(loader.get_source(found, name)[0])
    return found


def render(template: str, **values: Any) -> str:
    """Return a page.

    Args:
        template: name of a file in `templates/`.
        values: what it shows; text is escaped.
    """
    return _environment().get_template(template).render(values)


def write_text(text: str, path: str | Path | Url, into: Opener = whole) -> None:
    """Write a text file, first under a temporary name.

    Args:
        text: what to write.
        path: of the file.
        into: opens it; see `pictures.atomic`.

    Raises:
        FlashdiffError: the disk or the folder refuses.
    """
    with into(location(path)) as file:
        # A name may hold bytes that are no text; they are written as their escapes.
        file.write(text.encode(errors="backslashreplace"))
