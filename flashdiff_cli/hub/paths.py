"""Where the weights that come with the program lie."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def weights_folder() -> Path:
    """`weights/` inside an installed package, or beside the package in a checkout."""
    inside = PACKAGE / "weights"
    return inside if inside.is_dir() else PACKAGE.parent / "weights"
