"""What a start of the console program leaves out: modules that diffusers imports on sight and that no restoration uses.

`diffusers.models.autoencoders`, `.transformers` and `.unets` import every network that diffusers has as soon as one of them is wanted, and two
schedulers import parts of scipy. Here such a package is found as usual and executed when something in it is first asked for, which its
submodules never do. The standard library's `importlib.util.LazyLoader` executes it for its `__path__` already, which every import of a
submodule asks for.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any

DEFERRED = (
    "diffusers.hooks",
    "diffusers.models.autoencoders",
    "diffusers.models.transformers",
    "diffusers.models.unets",
    "scipy.integrate",
    "scipy.stats",
)
"""Executed when an attribute of theirs is asked for; their submodules can be imported before that."""

_LOCK = threading.RLock()
"""One for all, since the code of one such package may ask for what is in another."""


class _Deferred(ModuleType):
    """A module that is found and not yet executed."""

    def __getattr__(self, name: str) -> Any:
        """Execute the module for the first name that it is asked for; other threads wait, and after a failure the next that asks tries again."""
        if not name.startswith("__"):
            with _LOCK:
                # Its own code finds what is there so far, as in any module that is being executed.
                if type(self) is _Deferred and not self.__dict__.get("_executing"):
                    self._execute()
                if name in self.__dict__:
                    return self.__dict__[name]
                own = self.__dict__.get("__getattr__")
            if own is not None:
                return own(name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def _execute(self) -> None:
        spec = self.__spec__
        if spec is None or spec.loader is None:
            raise ImportError(f"module {self.__name__!r} has no loader")
        before = dict(self.__dict__)
        self.__dict__["_executing"] = True
        try:
            spec.loader.exec_module(self)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        del self.__dict__["_executing"]
        # From now on an ordinary module.
        self.__class__ = ModuleType  # type: ignore[assignment]


class _DeferringLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader):
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Deferred(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self.loader


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if name not in DEFERRED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        spec.loader = _DeferringLoader(spec.loader)
        return spec


def install() -> None:
    """Import leanly from now on in this process; what is imported already stays as it is."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
