"""flashdiff serve"""

from __future__ import annotations

from typing import Annotated

import typer

from flashdiff_cli.commands import options
from flashdiff_cli.commands.extras import require


def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen at; 0.0.0.0: all of this machine's, open to everybody.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0: a free one.")] = 7860,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    names: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="Another name by which requests may call this server; repeatable.", show_default=False),
    ] = None,
    megabytes: Annotated[float, typer.Option("--max-megabytes", min=0.01, max=4096, help="Largest upload, in MiB.", rich_help_panel="Limits")] = 50.0,
    megapixels: Annotated[
        float, typer.Option("--max-megapixels", min=0.001, max=1000, help="Largest picture, in megapixels.", rich_help_panel="Limits")
    ] = 50.0,
    seconds: Annotated[float, typer.Option("--max-seconds", min=0.1, help="Of one picture, without its wait.", rich_help_panel="Limits")] = 600.0,
    waiting: Annotated[int, typer.Option("--max-waiting", min=0, max=100_000, help="Pictures in the queue.", rich_help_panel="Limits")] = 32,
    batch: Annotated[
        int, typer.Option("--max-batch", min=1, max=10_000, help="Pictures that the page takes together.", rich_help_panel="Limits")
    ] = 50,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=64, help="Pictures at once, each with its own model.", rich_help_panel="Limits")
    ] = 1,
    tile: options.Tile = 384,
    model: options.Model = "photos",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    offline: options.Offline = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log every request on stderr.")] = False,
) -> None:
    """Restore pictures on a web page of this machine, and by an HTTP API; needs pip install "flashdiff\\[web]".

    Only this machine can reach it, unless --host says otherwise; nothing is sent anywhere else. Ctrl-C ends it.

    Examples:

    flashdiff serve --open

    curl -F picture=@photo.png http://127.0.0.1:7860/api/restore -o restored.png
    """
    require("web", "the page needs")
    import webbrowser

    from flashdiff_cli.commands.show import say_error
    from flashdiff_cli.serve.limits import Limits
    from flashdiff_cli.serve.server import LOOPBACK, Address
    from flashdiff_cli.serve.server import serve as run
    from flashdiff_cli.serve.worker import Model

    def ready(address: str) -> None:
        say_error(f"listening at {address} (Ctrl-C ends it)")
        if host not in LOOPBACK:
            say_error("everybody who can reach this machine can use it, without a password")
        if open_:
            webbrowser.open(address)

    limits = Limits(megabytes, seconds, waiting, batch, workers)
    loaded = Model(model, device, dtype, offline, megapixels, tile)
    run(loaded, limits, Address(host, port, tuple(names or ())), ready, "info" if verbose else "warning")
