"""Tensors and plain values out of a pickled checkpoint, without running any code that the file names.

`torch.load(weights_only=True)` refuses the files of the original projects, because these carry training state of
classes from other libraries. Here such a class becomes an inert `Placeholder` and is never imported; whatever the file
names in the standard library, where a pickle finds its weapons, ends the load instead.
"""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import _utils

from flashdiff_cli.bounded import in_one_line, open_regular, short
from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.hub.pickles import check_checkpoint

PLAIN = (bool, int, float, str, bytes, bytearray)
SEQUENCES = (list, tuple, set, frozenset, dict, OrderedDict, str, bytes, bytearray)
REBUILD = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
MOST_RANGE = 1_000_000
MOST_SHARED = 4
"""How many times over tensors may show the bytes that they share."""


def _only(function: Callable, kinds: tuple[type, ...]) -> Callable:
    """Return a function that takes values of a few types only: `bytes(10**12)` and `str` of nested lists fill memory.

    A new function, because a pickle may set attributes of what it names: these must not be those of a class in use.
    """

    def call(*values: Any, **named: Any) -> Any:
        if not all(isinstance(value, kinds) for value in (*values, *named.values())):
            raise pickle.UnpicklingError(f"it calls {function.__name__} with {', '.join(type(v).__name__ for v in values)}, which no weights need")
        return function(*values, **named)

    return call


def _range(*values: Any) -> range:
    found = range(*values)
    if len(found) > MOST_RANGE:
        raise pickle.UnpicklingError("it counts further than any weights need")
    return found


def _storage(name: str) -> Any:
    """Return what stands for a storage class, of which only the type of its numbers is asked."""
    return torch.serialization.StorageType(name)


ALLOWED: dict[tuple[str, str], Any] = (
    {("collections", "OrderedDict"): _only(OrderedDict, SEQUENCES), ("torch", "Size"): _only(torch.Size, (list, tuple))}
    | {("torch", "device"): _only(torch.device, (str, int))}
    | {("torch._utils", name): _only(getattr(_utils, name), (object,)) for name in REBUILD}
    | {("torch.nn.parameter", "Parameter"): _only(torch.nn.Parameter, (torch.Tensor, bool))}
    | {("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
    | {("builtins", kind.__name__): _only(kind, PLAIN) for kind in (bool, int, float, str, complex, slice)}
    | {("builtins", kind.__name__): _only(kind, (str, bytes, bytearray, list, tuple)) for kind in (bytes, bytearray)}
    | {("builtins", kind.__name__): _only(kind, (*SEQUENCES, range)) for kind in (list, tuple, set, frozenset, dict)}
    | {("builtins", "range"): _range}
)
"""All that a checkpoint may really build."""

INERT = {"_codecs", "argparse", "collections", "copyreg", "datetime", "decimal", "enum", "fractions", "pathlib", "types", "uuid"}
"""Modules of the standard library whose plain data classes turn up in honest training state; never imported either."""


class Placeholder:
    """Stands for an object of a class that is not imported: takes whatever a pickle does to it, and keeps nothing."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def _ignore(self, *args):
        pass

    append = extend = add = update = __setitem__ = _ignore


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Old protocols write Python 2's names, which say less plainly what they are.
        if (module, name) in NAME_MAPPING:
            module, name = NAME_MAPPING[(module, name)]
        module = IMPORT_MAPPING.get(module, module)
        found = ALLOWED.get((module, name))
        if found is not None:
            return found
        if module == "torch" and name.endswith("Storage") and not name.startswith("_"):
            return _storage(name)
        root = module.partition(".")[0]
        standard = root in sys.stdlib_module_names or root in ("nt", "posix")  # each is known on its own system only
        if standard and not (module in INERT and "." not in name):
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no weights need")
        return type(name.rpartition(".")[2] or "Placeholder", (Placeholder,), {"__module__": f"not_imported.{module}"})


def _load(file: Any, **_: Any) -> Any:
    return _Unpickler(file).load()


# What torch.load asks of its pickle_module.
_restricted = SimpleNamespace(__name__="restricted", Unpickler=_Unpickler, load=_load, UnpicklingError=pickle.UnpicklingError)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint's dictionary, on the CPU. No class that the file names is imported and no code of it runs.

    Args:
        path: `.ckpt`, `.pth` or `.pt`, as `torch.save` writes it (either of its formats).

    Raises:
        FlashdiffError: it cannot be read, is damaged, is no dictionary, or names something that could do harm.
    """
    path = Path(path)
    if path.is_dir():
        raise FlashdiffError(f"{path} is a folder; give the checkpoint file in it")
    try:
        with open_regular(path) as file:
            check_checkpoint(file, os.fstat(file.fileno()).st_size)
        if zipfile.is_zipfile(path) and any(n.endswith("/constants.pkl") for n in zipfile.ZipFile(path).namelist()):
            raise FlashdiffError(f"{path}: a TorchScript program, not a checkpoint; give the file of its weights")
        found = torch.load(path, map_location="cpu", pickle_module=_restricted, weights_only=False)
    except FlashdiffError:
        raise
    except OSError as error:
        raise FlashdiffError(f"{path}: cannot read ({error.strerror or error}); give a checkpoint file") from error
    except pickle.UnpicklingError as error:
        raise FlashdiffError(f"{path}: refused, nothing was run ({error}); get the checkpoint from a source you trust") from error
    except Exception as error:  # a damaged pickle fails in as many ways as there are opcodes
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise FlashdiffError(f"{path}: no checkpoint, or a damaged one ({reason}); download it again") from error
    if not isinstance(found, dict):
        raise FlashdiffError(f"{path}: holds {type(found).__name__} where a dictionary of weights belongs; is it a checkpoint?")
    return found


def state_dict(checkpoint: dict[str, Any], path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint: under `state_dict` (or `params`), or at its top.

    Raises:
        FlashdiffError: there are none.
    """
    for key in ("state_dict", "params"):
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    tensors = {key: value.detach() for key, value in checkpoint.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if not tensors:
        raise FlashdiffError(f"{path}: no tensors in it; is it a checkpoint?")
    _check_tensors(tensors, Path(path))
    return tensors


def _check_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Raise a FlashdiffError if a tensor is no plain array, or shows the same numbers again and again: a copy would be huge."""
    seen, claimed = {}, 0
    for name, tensor in tensors.items():
        with in_one_line(path, "get the checkpoint from a source you trust"):
            if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.device.type != "cpu":
                raise FlashdiffError(f"{path}: {short(name)} is no plain array of numbers; get the checkpoint from a source you trust")
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
            claimed += tensor.numel() * tensor.element_size()
            if tensor.numel() * tensor.element_size() > storage.nbytes():
                raise FlashdiffError(
                    f"{path}: {short(name)} repeats its numbers to {tuple(tensor.shape)}; get the checkpoint from a source you trust"
                )
    if claimed > MOST_SHARED * sum(seen.values()) + (1 << 20):
        raise FlashdiffError(f"{path}: its tensors claim {claimed:,} bytes of {sum(seen.values()):,}; get the checkpoint from a source you trust")
