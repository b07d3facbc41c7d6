"""Page and API as one application."""

# What only the extra [web] brings may be missing where types are checked.
# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from flashdiff_cli import __version__
from flashdiff_cli.serve.api import Bounded, routes
from flashdiff_cli.serve.limits import Limits
from flashdiff_cli.serve.page import Page
from flashdiff_cli.serve.service import Service

FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
"""Of the system: none is fetched."""
STYLE = "footer {display: none !important} #command textarea {font-family: ui-monospace, monospace}"
FORM_BYTES = 1 << 20
"""Of a request besides its files."""


def build(service: Service, folder: Path, limits: Limits, hosts: Sequence[str]) -> FastAPI:
    """Return the application: the API below /api, the page at /.

    Args:
        service: that has been started.
        folder: for results; removed by the caller.
        limits: see there.
        hosts: names by which requests may call the server.
    """
    app = FastAPI(title="flashdiff", version=__version__, docs_url=None, redoc_url=None)
    most = int(limits.megabytes * 2**20)
    app.include_router(routes(service, most))
    page = Page(service, folder, limits.batch, limits.megabytes).build()
    page.queue(max_size=2 * limits.waiting, default_concurrency_limit=None)
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
    app.add_middleware(Bounded, path="/api/", most=3 * most + FORM_BYTES)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    return app
