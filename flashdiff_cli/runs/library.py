"""The tool in one call, for programs: whatever kind of picture comes in, the same kind comes out."""

from __future__ import annotations

import difflib
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, overload

import numpy as np
import torch
from PIL import Image

from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators import OPERATORS
from flashdiff_cli.pictures.files import Picture, encoded, from_pil, picture_of, read_picture
from flashdiff_cli.pictures.formats import FORMATS
from flashdiff_cli.runs.executor import failure
from flashdiff_cli.runs.piped import ending_of
from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.restorer import Restorer
from flashdiff_cli.runs.settings import Settings
from flashdiff_cli.runs.together import Finished, Together
from flashdiff_cli.solvers import SOLVERS, load_entry_points

Source = str | Path | bytes | BinaryIO | Image.Image | Picture | np.ndarray | torch.Tensor
"""What can be restored: a file's name, its bytes, an open file, or a picture in memory."""
Same = TypeVar("Same", bytes, Image.Image, Picture, np.ndarray, torch.Tensor)
SLACK = 0.5
"""How far floating point values may lie outside [0, 1], as those of a noisy measurement do; further out they are on another scale."""


@lru_cache(maxsize=2)
def _loaded(model: str, device: str, dtype: str, prompt: str | None) -> Restorer:
    return Restorer(model, device, dtype, prompt=prompt)


def settings_of(**values: Any) -> Settings:
    """Build settings of plain keyword arguments: fields of `Settings`, and options of operators and solvers by their names.

    Args:
        values: e.g. operator="gaussian-blur", blur_std=2.0, dc_step=1.5.

    Raises:
        UsageError: there is no such setting or option.
    """
    load_entry_points()
    known = {f.name for f in fields(Settings)}
    given = {name: value for name, value in values.items() if name in known}
    of_operator, of_solver = dict(given.pop("operator_options", {})), dict(given.pop("solver_options", {}))
    operators = {option.name for name in OPERATORS for option in OPERATORS[name].options}
    solvers = {option.name for name in SOLVERS for option in SOLVERS[name].options}
    for name in set(values) - known:
        if name not in operators | solvers:
            near = difflib.get_close_matches(name, known | operators | solvers, 1)
            raise UsageError(f"unknown argument {name!r}{f'; did you mean {near[0]!r}?' if near else '; see flashdiff_cli.Settings'}")
        (of_operator if name in operators else of_solver)[name] = values[name]
    return Settings(operator_options=of_operator, solver_options=of_solver, **given)


@overload
def restore(
    source: str | Path,
    *,
    model: str | Path = ...,
    device: str = ...,
    dtype: str = ...,
    prompt: str | None = ...,
    callback: Callable[[int, int], None] | None = ...,
    **settings: Any,
) -> tuple[Image.Image, Record]: ...
@overload
def restore(
    source: BinaryIO,
    *,
    model: str | Path = ...,
    device: str = ...,
    dtype: str = ...,
    prompt: str | None = ...,
    callback: Callable[[int, int], None] | None = ...,
    **settings: Any,
) -> tuple[bytes, Record]: ...
@overload
def restore(
    source: Same,
    *,
    model: str | Path = ...,
    device: str = ...,
    dtype: str = ...,
    prompt: str | None = ...,
    callback: Callable[[int, int], None] | None = ...,
    **settings: Any,
) -> tuple[Same, Record]: ...
def restore(
    source: Source,
    *,
    model: str | Path = "photos",
    device: str = "auto",
    dtype: str = "auto",
    prompt: str | None = None,
    callback: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> tuple[Any, Record]:
    """Restore one picture. The model stays loaded for the next call.

    Args:
        source: a file's name; its bytes, or a binary file open for reading; a Pillow picture; a `Picture`; an array (H, W), (H, W, 1), (H, W, 3) or
            (H, W, 4); or a tensor (C, H, W) or (1, C, H, W), C = 1, 3 or 4. Arrays and tensors are RGB, with the opacity last: uint8 from 0 to 255,
            uint16 from 0 to 65535, or floating point from 0 to 1.
        model: name, Hub id or folder.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: "auto", "float32", "float16" or "bfloat16".
        prompt: that a text-to-image model is told.
        callback: called with (steps done, steps in all).
        settings: fields of `Settings`, and options of operators and solvers by their names: operator="gaussian-blur", blur_std=2.0.

    Returns:
        what was restored, of the kind that was given (of a name a Pillow picture, of a file its bytes), upright, with the source's transparency; and
        its record.

    Raises:
        FlashdiffError: the picture or the model cannot be read.
        UsageError: settings that make no sense.
    """
    plan = settings_of(**settings)
    picture, back, name = _read(source)
    restored, record = _loaded(str(model), device, dtype, prompt).restore(picture, plan, name, callback)
    return back(restored), record


def restore_many(
    sources: Iterable[Source],
    *,
    model: str | Path = "photos",
    device: str = "auto",
    dtype: str = "auto",
    prompt: str | None = None,
    batch: int | None = None,
    **settings: Any,
) -> Iterator[tuple[Any, Record]]:
    """Restore pictures, and yield each as soon as it and those before it are done; one that fails stops none of the others.

    Args:
        sources: as for `restore`, of any kinds; read as they are needed.
        model, device, dtype, prompt, settings: as for `restore`.
        batch: pictures, or tiles of pictures, that are restored together where they can be: what is of one size and suffers from the same, as was
            told or found. Each gets what it would get alone, up to the order of floating-point sums. None: what fits into the memory of a GPU,
            and one by one on a processor.

    Yields:
        in the order of the sources, what `restore` returns; of one that failed None and a record whose `status` is "failed", with its `error`.

    Raises:
        FlashdiffError: the model cannot be read.
        UsageError: settings that make no sense.
    """
    plan = settings_of(**settings)
    restorer = _loaded(str(model), device, dtype, prompt)
    restorer.check_batch(batch)
    restorer.check(plan)
    return _each(sources, restorer.together(plan, batch))


@dataclass(eq=False)
class _Place:
    """A source's place among the results."""

    name: str
    back: Callable[[Picture], Any] | None = None
    """Makes its kind of a picture again."""
    found: tuple[Any, Record] | None = None


def _each(sources: Iterable[Source], pool: Together) -> Iterator[tuple[Any, Record]]:
    line: deque[_Place] = deque()
    for number, source in enumerate(sources):
        line.append(place := _Place(str(source) if isinstance(source, (str, Path)) else f"picture {number}"))
        try:
            picture, place.back, name = _read(source)
        except Exception as error:  # one picture's trouble is one record
            place.found = None, failure(place.name, error)
        else:
            place.name = name or place.name
            for done in pool.add(picture, place.name, tag=place):
                yield from _in_order(line, done)
        yield from _in_order(line)
    for done in pool.rest():
        yield from _in_order(line, done)


def _in_order(line: deque[_Place], done: Finished = ()) -> Iterator[tuple[Any, Record]]:
    """Put what was finished into its places; yields what is there, up to the first place that is empty."""
    for wanted, outcome in done:
        place = wanted.tag
        try:
            if isinstance(outcome, Exception):
                raise outcome
            place.found = place.back(outcome[0]), outcome[1]
        except Exception as error:
            place.found = None, failure(place.name, error)
    while line and (found := line[0].found) is not None:
        line.popleft()
        yield found


def _read(source: Source) -> tuple[Picture, Callable[[Picture], Any], str]:
    """Return a source as a picture, what makes its kind of a picture again, and its name."""
    if isinstance(source, Picture):
        return source, lambda restored: restored, ""
    if isinstance(source, (str, Path)):
        return read_picture(source), Picture.to_pil, str(source)
    if isinstance(source, Image.Image):
        picture = from_pil(source)
        picture.digest = hashlib.sha256(source.tobytes()).digest()
        return picture, Picture.to_pil, ""
    if isinstance(source, np.ndarray):
        return _of_array(source), lambda restored: _as_array(restored, source), ""
    if isinstance(source, torch.Tensor):
        return _of_tensor(source)
    if isinstance(source, (bytes, bytearray, memoryview)) or hasattr(source, "read"):
        name = str(getattr(source, "name", "") or "")
        data: Any = source if isinstance(source, (bytes, bytearray, memoryview)) else source.read()
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise UsageError(f"{name or 'source'}: opened as text; open it for reading bytes (mode 'rb')")
        data = bytes(data)
        ending = ending_of(data) if data else ".png"
        return picture_of(data, name or "the bytes"), lambda restored: encoded(restored, ending if ending in FORMATS else ".png")[0], name
    raise UsageError(f"a source of type {type(source).__name__} cannot be restored; give a file, its bytes, a Pillow picture, an array or a tensor")


def _of_tensor(source: torch.Tensor) -> tuple[Picture, Callable[[Picture], Any], str]:
    if source.ndim == 4 and len(source) != 1:
        raise UsageError(f"a tensor of {len(source)} pictures: give them to `restore_many`, or one at a time")
    planes = source[0] if source.ndim == 4 else source
    if planes.ndim != 3 or planes.shape[0] not in (1, 3, 4):
        raise UsageError(f"a tensor of a picture must be (C, H, W) or (1, C, H, W) with C = 1, 3 or 4, not {tuple(source.shape)}")
    half = source.dtype == torch.bfloat16  # which numpy does not have
    array = planes.detach().cpu().to(torch.float32 if half else planes.dtype).permute(1, 2, 0).numpy()

    def back(restored: Picture) -> torch.Tensor:
        found = torch.from_numpy(np.ascontiguousarray(_as_array(restored, array))).permute(2, 0, 1).to(source.device, source.dtype)
        return found[None] if source.ndim == 4 else found

    return _of_array(array), back, ""


def _of_array(values: np.ndarray) -> Picture:
    """Return the picture of an array."""
    planes = values[..., None] if values.ndim == 2 else values
    if planes.ndim != 3 or planes.shape[2] not in (1, 3, 4) or 0 in planes.shape:
        raise UsageError(f"an array of a picture must be (H, W) or (H, W, C) with C = 1, 3 or 4, not {values.shape}")
    if values.dtype not in (np.uint8, np.uint16) and values.dtype.kind != "f":
        raise UsageError(f"an array of {values.dtype} is not understood; give uint8, uint16, or floating point from 0 to 1")
    shares = planes.astype(np.float32) / _top(values)
    if not np.isfinite(shares).all() or shares.min() < -SLACK or shares.max() > 1 + SLACK:
        raise UsageError(f"values from {shares.min():.3g} to {shares.max():.3g}: a picture in floating point has values from 0 to 1")
    colours = shares[..., :3]
    image = torch.from_numpy(np.ascontiguousarray(colours.transpose(2, 0, 1))).expand(3, -1, -1).clone()[None]
    alpha = None
    if planes.shape[2] == 4:
        alpha = (shares[..., 3].clip(0, 1) * 65535).round().astype(np.uint16)
    digest = hashlib.sha256(repr((values.shape, values.dtype.str)).encode() + np.ascontiguousarray(values).tobytes()).digest()
    made = Picture(image * 2 - 1, digest, planes.shape[2] == 1, values.dtype != np.uint8, alpha=alpha)
    return made.without_hidden()


def _top(like: np.ndarray) -> float:
    return 1.0 if like.dtype.kind == "f" else float(np.iinfo(like.dtype).max)


def _as_array(restored: Picture, like: np.ndarray) -> np.ndarray:
    """Return a picture as an array of the type, and with the channels, of another."""
    shares = restored.to_samples() / np.float32(65535)
    channels = 1 if like.ndim == 2 else like.shape[2]
    if shares.shape[2] < channels:  # the opacity was the mask
        shares = np.concatenate([shares, np.ones_like(shares[..., :1])], 2)
    shares = shares[..., 0] if like.ndim == 2 else shares
    top = _top(like)
    return shares.astype(like.dtype) if like.dtype.kind == "f" else (shares * top).round().astype(like.dtype)


__all__ = ["restore", "restore_many", "settings_of"]
