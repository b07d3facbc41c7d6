"""`flashdiff_cli` under the name that it is installed by."""

from typing import TYPE_CHECKING

from flashdiff_cli import __all__, __dir__, __getattr__, __version__  # noqa: F401

if TYPE_CHECKING:
    from flashdiff_cli import *  # noqa: F403
