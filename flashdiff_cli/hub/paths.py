"""Where weights lie: those that come with the program, and those that it has converted."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from flashdiff_cli.errors import FlashdiffError

PACKAGE = Path(__file__).resolve().parent.parent


def weights_folder() -> Path:
    """Return `weights/` inside an installed package, or beside the package in a checkout."""
    inside = PACKAGE / "weights"
    return inside if inside.is_dir() else PACKAGE.parent / "weights"


def converted_folder(name: str) -> Path:
    """Return where a model that is kept in converted form lies: `flashdiff/NAME` beside the Hub's cache, below HF_HOME.

    Args:
        name: of the registry, or `owner/name/commit`.
    """
    from huggingface_hub.constants import HF_HOME

    return Path(os.environ.get("HF_HOME") or HF_HOME).expanduser() / "flashdiff" / name


def within(root: Path, path: Path) -> Path:
    """Return a path below a model's folder, unchanged, if no link on the way leads out of it.

    The Hub's cache keeps the files of `models--OWNER--NAME/snapshots/COMMIT` as links into its `blobs`, which belong to it.

    Raises:
        FlashdiffError: it lies elsewhere, or its links run in a circle.
    """
    try:
        base, real = root.resolve(), path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise FlashdiffError(f"{path}: a link that leads nowhere ({error}); give a folder with the files themselves") from error
    allowed = [base] + ([base.parents[1] / "blobs"] if base.parent.name == "snapshots" and base.parents[1].name.startswith("models--") else [])
    if not any(real.is_relative_to(folder) for folder in allowed):
        raise FlashdiffError(f"{path}: a link that leads out of the model folder, to {real}; put the file itself there")
    return path


def check_unlinked(folder: Path, parts: Iterable[str]) -> None:
    """Check that nothing outside of a model's folder would be written through a link in it.

    Args:
        folder: that will be written to; it need not be there.
        parts: names of the files and folders in it that will be.

    Raises:
        FlashdiffError: one of them, or something in it, is a link.
    """
    for part in parts:
        path = folder / part
        for one in [path, *(path.rglob("*") if path.is_dir() and not path.is_symlink() else [])]:
            if one.is_symlink():
                raise FlashdiffError(f"{one}: a link, through which {one.resolve()} would be written; remove it, or save into a new folder")


@contextmanager
def new_folder(target: Path, remedy: str, replace: bool = False) -> Iterator[Path]:
    """Make a folder that takes its name only when it is complete.

    Args:
        target: where it will lie; an empty folder there gives way.
        remedy: what to do where the disk refuses, for the message.
        replace: whether a folder with something in it gives way, too.

    Raises:
        FlashdiffError: the disk refuses.
    """
    part = target.parent / f".{target.name}.{uuid4().hex[:8]}.part"
    try:
        part.mkdir(parents=True)
        yield part
        if replace:
            shutil.rmtree(target, ignore_errors=True)
        elif target.is_dir():
            target.rmdir()
        part.rename(target)
    except OSError as error:
        raise FlashdiffError(f"{target}: cannot write ({error.strerror or error}); {remedy}") from error
    except Exception as error:
        from safetensors import SafetensorError

        if not isinstance(error, SafetensorError):
            raise
        raise FlashdiffError(f"{target}: cannot write the weights ({' '.join(str(error).split())[:160]}); {remedy}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
