"""Packages that only some commands need."""

from __future__ import annotations

from importlib.util import find_spec

from flashdiff_cli.errors import UsageError

PACKAGES = {
    "bench": ("torchmetrics", "skimage", "sklearn", "scipy", "pandas", "matplotlib"),
    "train": ("accelerate", "scipy"),
    "web": ("gradio", "fastapi", "uvicorn"),
    "ray": ("ray",),
}


def require(extra: str, what: str) -> None:
    """Look for the packages of an extra; none of them is imported.

    Args:
        extra: its name.
        what: needs it, as the error's first words.

    Raises:
        UsageError: one of them is not installed.
    """
    if missing := [name for name in PACKAGES[extra] if find_spec(name) is None]:
        raise UsageError(f'{what} the extra packages of pip install "flashdiff[{extra}]" ({missing[0]} is not installed)')
