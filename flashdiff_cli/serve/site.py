"""Page and API as one application."""

# What only the extra [web] brings may be missing where types are checked.
# pyright: reportMissingImports=false
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from gradio.utils import get_upload_folder
from starlette.middleware.trustedhost import TrustedHostMiddleware

from flashdiff_cli.serve.api import routes
from flashdiff_cli.serve.guard import Bounded, Guard
from flashdiff_cli.serve.limits import Limits
from flashdiff_cli.serve.page import Page
from flashdiff_cli.serve.results import SWEPT, Results
from flashdiff_cli.serve.service import Service
from flashdiff_cli.version import __version__

FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
"""Of the system: none is fetched."""
STYLE = "footer {display: none !important} #command textarea {font-family: ui-monospace, monospace}"
FORM_BYTES = 1 << 20
"""Of a request besides its files."""
EVENT_BYTES = 16 << 20
"""Of what the page says besides uploads: at the most the layers that were painted on one picture."""
EVENTS = 40
"""Of the page that wait, and threads that work on them, besides those of visitors who wait for a picture: a control that is changed is one, too."""
MOST_THREADS = 1024


def build(service: Service, folder: Path, limits: Limits, hosts: Sequence[str]) -> FastAPI:
    """Return the application: the API below /api, the page at /.

    Args:
        service: that has been started.
        folder: for results; removed by the caller.
        limits: see there.
        hosts: names by which requests may call the server.
    """
    results = Results(folder, Path(get_upload_folder()))

    @asynccontextmanager
    async def swept(_: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(_sweep(results))
        yield
        sweeping.cancel()

    app = FastAPI(title="flashdiff", version=__version__, docs_url=None, redoc_url=None, lifespan=swept)
    most = int(limits.megabytes * 2**20)
    app.include_router(routes(service, most))
    page = Page(service, results, limits.batch, limits.megabytes).build()
    # Who waits for a picture has a thread meanwhile; more than the service takes do not wait.
    page.max_threads = min(EVENTS + limits.waiting + limits.workers, MOST_THREADS)
    page.queue(max_size=EVENTS + 2 * limits.waiting, default_concurrency_limit=None)
    theme = gr.themes.Default(**FONTS)
    app = gr.mount_gradio_app(
        app,
        page,
        path="/",
        max_file_size=most,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        theme=theme,
        css=STYLE,
        allowed_paths=[str(folder)],
        show_error=True,
        enable_monitoring=False,
    )
    # As `launch` would: until then Gradio reads any file of the machine that an event names, and takes a drawing for one of its own.
    page.has_launched = page.is_running = True
    # Uploads go to files; all else is held in memory.
    app.add_middleware(Bounded, most={"/api/": 3 * most + FORM_BYTES, "/gradio_api/upload": limits.batch * most + FORM_BYTES, "/": EVENT_BYTES})
    app.add_middleware(Guard, path="/api/")
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    return app


async def _sweep(results: Results) -> None:
    """Remove what has been kept long enough, again and again."""
    while True:
        await asyncio.sleep(SWEPT)
        with suppress(OSError):
            await asyncio.to_thread(results.sweep)
