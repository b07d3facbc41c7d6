"""Weights of strangers: what a configuration and a safetensors header claim is compared before a single number is allocated.

A network is first built without memory (on torch's meta device), from a configuration whose numbers are bounded; its tensors must be those
that the header names, and the header's bytes those of the file. Only then is it built and filled, so that nothing larger
than the file is ever made. What was filled in must be finite and of a size that weights have.
"""

from __future__ import annotations

import re
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from flashdiff_cli.bounded import in_one_line, open_regular, parse_json, short
from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.hub.checksums import check_file
from flashdiff_cli.hub.configs import check_config, read_config
from flashdiff_cli.hub.files import choose_variant
from flashdiff_cli.hub.paths import within

HEADER_BYTES = 16 << 20
SINGLE, INDEX = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json"
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Bytes of a number, by safetensors' names of their types; others are not read."""
MOST = 1e6
"""Magnitude of a weight: trained ones stay far below, and a larger one makes numbers that are none."""
REMEDY = "download or convert the model again"


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the type and shape of each tensor in a safetensors file; what the header claims is there, once.

    Raises:
        FlashdiffError: it cannot be read, or is no whole safetensors file.
    """
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(HEADER_BYTES, size - 8):
                raise FlashdiffError(f"{path}: not a whole safetensors file (a header of {length:,} bytes in {size:,}); {REMEDY}")
            header = file.read(length)
    except OSError as error:
        raise FlashdiffError(f"{path}: cannot read these weights ({error.strerror or error}); {REMEDY}") from error
    with in_one_line(path, f"the header of these weights is damaged; {REMEDY}"):
        found = parse_json(header.decode("utf-8"))
        found.pop("__metadata__", None)
        tensors, places = {}, []
        for name, entry in found.items():
            kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            if len(name) > 500 or len(shape) > 8 or any(type(n) is not int or n < 0 for n in (*shape, begin, end)):
                raise ValueError(f"tensor {short(name)} makes no sense")
            if kind not in SIZES:
                raise ValueError(f"tensor {short(name)} has numbers of the type {short(kind)}")
            if end - begin != SIZES[kind] * prod(shape):
                raise ValueError(f"tensor {short(name)} has not the bytes of its shape")
            tensors[name] = (kind, shape)
            places.append((begin, end))
        here = 0
        for begin, end in sorted(places):
            if begin != here:
                raise ValueError("tensors overlap, or leave bytes out")
            here = end
        if here != size - 8 - length:
            raise ValueError(f"{size - 8 - length:,} bytes of numbers where {here:,} belong")
        if not tensors:
            raise ValueError("no tensors")
    return tensors


def weight_files(root: Path, folder: Path, variant: str | None = None) -> list[Path]:
    """Return the safetensors files of a component, which lie in its folder; each is checked as `checksums.check_file` does.

    Args:
        root: the model's folder.
        folder: of the component, `root` or below it.
        variant: of the weights, e.g. "fp16"; None: the plain ones.

    Raises:
        FlashdiffError: there are none, one is damaged or lies elsewhere, or the list of them makes no sense.
    """
    middle = f".{variant}" if variant else ""
    single, index = f"{SINGLE.removesuffix('.safetensors')}{middle}.safetensors", f"{INDEX.removesuffix('.json')}{middle}.json"
    names = [single]
    if not (folder / single).exists() and (folder / index).exists():
        listed = read_config(within(root, folder / index)).get("weight_map")
        with in_one_line(folder / index, REMEDY):
            names = sorted(set(cast(dict, listed).values()))
            if not 1 <= len(names) <= 1000 or not all(re.fullmatch(r"[\w-][\w.-]*\.safetensors", name, re.ASCII) for name in names):
                raise ValueError("it names files that are none of its folder")
        check_file(root, folder / index)
    paths = [within(root, folder / name) for name in names]
    if missing := [path for path in paths if not path.exists()]:
        raise FlashdiffError(f"{missing[0]}: no such file; flashdiff reads weights as safetensors, {REMEDY}")
    for path in paths:
        check_file(root, path)
    return paths


def check_values(tensors: dict[str, torch.Tensor], where: str | Path) -> None:
    """Raise a FlashdiffError if a tensor has numbers that are not finite, or larger than weights are."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        peak = float(tensor.detach().abs().max())
        if peak != peak or peak == float("inf"):
            raise FlashdiffError(f"{where}: weights that are not finite, in {short(name)}; {REMEDY}")
        if peak > MOST:
            raise FlashdiffError(f"{where}: weights as large as {peak:.2g}, in {short(name)}, are none; {REMEDY}")


def check_table(table: torch.Tensor) -> None:
    """Raise a ValueError if a training table (T,) of the remaining signal does not fall from 1 towards 0."""
    good = table.ndim == 1 and len(table) > 0 and bool(((table >= 0) & (table <= 1)).all())
    # Only the last may be 0: of what nothing remains, nothing can be estimated.
    if not (good and bool((table[:-1] > 0).all()) and bool((table.diff() <= 0).all())):
        raise ValueError("its table of noise does not fall from 1 towards 0")


def outline(cls: Any, config: dict[str, Any], where: str | Path) -> nn.Module:
    """Return a network of a configuration on the meta device, where its tensors have shapes but no memory.

    Raises:
        FlashdiffError: the configuration makes no sense, or asks for more than any network has.
    """
    check_config(config, where)
    with in_one_line(where, f"this configuration makes no {cls.__name__}; {REMEDY}"), torch.device("meta"):
        return cls.from_config(config)


def load_module(cls: Any, root: Path, folder: Path, dtype: torch.dtype = torch.float32, variant: str | None = None, **overrides: Any) -> Any:
    """Return a diffusers network of a folder's config.json and safetensors, in evaluation mode.

    Args:
        cls: its class, from an allow-list.
        root: folder of the model that it belongs to, whose SHA256SUMS, if any, must name its files; no link may lead out of it.
        folder: of the component, `root` or below it.
        dtype: of the weights.
        variant: of the weights' files, e.g. "fp16", where they have it.
        overrides: entries of the configuration to take instead of the file's.

    Raises:
        FlashdiffError: a file is missing, damaged or not the published one, or does not fit.
    """
    config_path = within(root, folder / "config.json")
    config = read_config(config_path) | overrides
    check_file(root, config_path)
    if "quantization_config" in config:
        raise FlashdiffError(f"{config_path}: quantised weights are not read; take the model's full ones")
    variant = choose_variant([path.name for path in folder.iterdir()], variant)
    files = weight_files(root, folder, variant)
    wanted = {name: tuple(t.shape) for name, t in outline(cls, config, config_path).state_dict().items()}
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for path in files:
        found |= read_header(path)
    _compare(cls, config, wanted, found, folder)
    try:
        module = cls.from_pretrained(folder, use_safetensors=True, torch_dtype=dtype, variant=variant, low_cpu_mem_usage=False, **overrides)
    except Exception as error:  # whatever a damaged file or configuration makes diffusers raise
        reason = " ".join(str(error).split())[:200]
        raise FlashdiffError(f"{folder}: cannot load these weights ({reason}); {REMEDY}") from error
    check_values(module.state_dict(), folder / SINGLE if len(files) == 1 else folder)
    return module.eval()


def _compare(cls: Any, config: dict, wanted: dict, found: dict, folder: Path) -> None:
    """Raise a FlashdiffError, naming one tensor, if a file has others than a network, or of other shapes."""
    rename = getattr(cls, "_fix_state_dict_keys_on_load", None)
    if rename is not None and set(wanted) != set(found):
        # Files of old versions have other names for the same tensors, which diffusers maps while it loads.
        with torch.device("meta"):
            found = rename(cls.from_config(config), dict(found)) or found
    for problem, names in (
        ("missing keys", set(wanted) - set(found)),
        ("unexpected keys", set(found) - set(wanted)),
        ("mismatched keys", {name for name in set(wanted) & set(found) if found[name][1] != wanted[name]}),
    ):
        if names:
            raise FlashdiffError(f"{folder}: {problem} in the weights, e.g. {min(names)[:200]}; {REMEDY}")


__all__ = ["check_table", "check_values", "load_module", "outline", "read_header", "weight_files"]
