"""A server at an address of this machine, from the loaded model to the signal that ends it."""

# What only the extra [web] brings may be missing where types are checked.
# pyright: reportMissingImports=false
from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from PIL import Image

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.pictures.limits import VARIABLE
from flashdiff_cli.serve.limits import Limits
from flashdiff_cli.serve.service import Service
from flashdiff_cli.serve.worker import Model

LOOPBACK = ("127.0.0.1", "localhost", "::1")
GRACE = 3
"""Seconds that open connections get when the server ends."""


@dataclass(frozen=True)
class Address:
    """Where a server listens: a name or number of this machine, and a port; 0: a free one."""

    host: str = "127.0.0.1"
    port: int = 7860
    names: tuple[str, ...] = field(default=())
    """Host names that requests may name besides, where the server is not for this machine alone; none: any."""

    def open(self) -> socket.socket:
        """Return a socket that is bound there.

        Raises:
            UsageError: the host is none of this machine's.
            FlashdiffError: the port is taken, or not allowed.
        """
        try:
            family, _, _, _, where = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        except (OSError, UnicodeError) as error:
            raise UsageError(f"`host` {self.host}: no such address ({error})") from None
        found = socket.socket(family, socket.SOCK_STREAM)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(where)
        except OSError as error:
            found.close()
            raise FlashdiffError(f"{self.host}:{self.port}: cannot listen there ({error.strerror}); choose another `port` or `host`") from None
        return found

    def allowed(self) -> list[str]:
        """Return the names by which requests may call the server: only its own, lest another site's name is pointed at it."""
        if self.host in LOOPBACK:
            return [*LOOPBACK, "[::1]", *self.names]
        return [self.host, *LOOPBACK, *self.names] if self.names else ["*"]


def serve(model: Model, limits: Limits, address: Address, ready: Callable[[str], None], log: str = "warning") -> None:
    """Load the model, and answer until a signal asks to stop.

    Args:
        model, limits, address: see there.
        ready: called with the server's address once it answers.
        log: uvicorn's level.

    Raises:
        UsageError, FlashdiffError: the address cannot be used, or the model cannot be loaded.
    """
    listening = address.open()
    service = Service(model, limits.workers, limits.waiting, limits.seconds)
    try:
        service.start()
        with tempfile.TemporaryDirectory(prefix="flashdiff-serve-", ignore_cleanup_errors=True) as folder:
            results = Path(folder) / "results"
            results.mkdir()
            # Read when gradio is imported: nothing is told to anybody, and what visitors upload goes with the folder.
            # The one picture that is decoded here, to be painted on, has the bounds of all.
            os.environ |= {VARIABLE: str(model.megapixels)}
            Image.MAX_IMAGE_PIXELS = max(1, int(model.megapixels * 5e5))  # Pillow refuses twice as many
            os.environ |= {"GRADIO_TEMP_DIR": os.path.join(folder, "uploads"), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
            from flashdiff_cli.serve.site import build

            app = build(service, results, limits, address.allowed())
            config = uvicorn.Config(app, log_level=log, timeout_graceful_shutdown=GRACE, server_header=False, access_log=log != "warning")
            host, port = listening.getsockname()[:2]
            shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
            server = _Server(config, lambda: ready(f"http://{shown}:{port}/"), service.close)
            server.run(sockets=[listening])
    finally:
        service.close()
        listening.close()


class _Server(uvicorn.Server):
    """uvicorn's, which says when it answers, and ends the work when it is asked to stop.

    Args:
        config: uvicorn's.
        ready: called when it answers.
        stop: called before open requests are waited for.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], stop: Callable[[], None]):
        super().__init__(config)
        self.ready, self.stop = ready, stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.stop()
        await super().shutdown(sockets)
