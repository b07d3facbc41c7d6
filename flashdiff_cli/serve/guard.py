"""What is refused before it is looked at: requests that other sites' pages send, addresses to be fetched, and bodies that are too long."""

# What only the extra [web] brings may be missing where types are checked.
# pyright: reportMissingImports=false
from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import unquote, urlsplit

from fastapi.responses import JSONResponse
from starlette.formparsers import MultiPartException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flashdiff_cli.errors import FlashdiffError

DRAINED, DRAINED_BYTES = 8, 1 << 30
"""Times the limit, and bytes at the most, that are read, and forgotten, of a request that is too large."""
DECODED = 4
"""Times that a path's percent signs are decoded to see what it asks for."""
FETCHED = re.compile(r"/proxy=|/file[=/]\s*/*[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
"""Paths of Gradio that have the server fetch another address for who asks."""


class TooLarge(FlashdiffError, MultiPartException):
    """A request has more bytes than it may. Parsers of forms know it as an error of theirs, and close what they have begun."""

    def __init__(self, message: str):
        FlashdiffError.__init__(self, message)
        self.message = message


def error_answer(status: int, message: str, **headers: str) -> JSONResponse:
    """Return an error's answer: one line, as JSON."""
    return JSONResponse({"error": message}, status, headers or None)


class Guard:
    """Refuses what pages of other sites send, and what would make the server fetch other addresses.

    Args:
        app: what is behind it.
        path: below which requests of other sites' pages are refused whatever their method is; elsewhere only those that may change something.
    """

    def __init__(self, app: ASGIApp, path: str):
        self.app, self.path = app, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            reads = scope["method"] in ("GET", "HEAD") and not scope["path"].startswith(self.path)
            if not reads and _of_another_site(headers):
                await error_answer(403, "pages of other sites may not use this server")(scope, receive, send)
                return
            if _fetches(scope["path"]):
                await error_answer(403, "this server fetches no other addresses")(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _of_another_site(headers: dict[bytes, bytes]) -> bool:
    if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
        return True
    origin = headers.get(b"origin")
    if origin is None:
        return False
    try:
        host = urlsplit(origin.decode("latin-1")).netloc
    except ValueError:
        return True
    return host.lower() != headers.get(b"host", b"").decode("latin-1").lower()


def _fetches(path: str) -> bool:
    for _ in range(DECODED):
        if FETCHED.search(path):
            return True
        path = unquote(path)
    return bool(FETCHED.search(path))


class Bounded:
    """Refuses requests that are too long, by what they say and by what comes.

    Args:
        app: what is behind it.
        most: bytes of requests, by what their path begins with; the first that fits holds.
    """

    def __init__(self, app: ASGIApp, most: Mapping[str, int]):
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        most = next((most for path, most in self.most.items() if scope["type"] == "http" and scope["path"].startswith(path)), None)
        if most is None:
            await self.app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if not said.isdigit() or int(said) > most:
            # Most clients listen only when they have sent all.
            left = min(DRAINED * most, DRAINED_BYTES)
            while left > 0 and (message := await receive()).get("more_body"):
                left -= len(message.get("body", b""))
            await _too_large(most)(scope, receive, send)
            return
        come, answered = 0, False

        async def counted() -> Message:
            nonlocal come
            message = await receive()
            come += len(message.get("body", b""))
            if come > most:
                raise TooLarge("the request is larger than it may be")
            return message

        async def sent(message: Message) -> None:
            nonlocal answered
            if answered or come <= most:
                answered = True
                await send(message)

        with suppress(TooLarge):
            await self.app(scope, counted, sent)
        # Whatever else was made of the body that was cut off, this is why.
        if come > most and not answered:
            await _too_large(most)(scope, receive, send)


def _too_large(most: int) -> JSONResponse:
    return error_answer(413, f"the request is larger than {most / 2**20:g} MiB, which is the limit here; give a smaller picture")


__all__ = ["Bounded", "Guard", "TooLarge", "error_answer"]
