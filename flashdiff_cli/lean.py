"""What a start of the console program leaves out: modules that diffusers imports on sight and that no restoration uses.

`diffusers.models.autoencoders`, `.transformers` and `.unets` import every network that diffusers has as soon as one of them is wanted, two
schedulers import parts of scipy, and torch's compiler is imported for two decorators. Together that is more than torch itself. Here such a
package is found as usual and executed when something in it is first asked for, which its submodules never do.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Callable, Sequence
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
UNCOMPILED = ("diffusers.hooks.group_offloading", "diffusers.pipelines.pipeline_utils", "diffusers.utils.torch_utils")
"""Modules that name torch's compiler for the sake of programs that use it."""
COMPILER = "torch._dynamo"

_LOCK = threading.RLock()


class _Deferred(ModuleType):
    """A module that is found and not yet executed."""

    def __getattr__(self, name: str) -> Any:
        """Execute the module for the first name that it is asked for."""
        if name.startswith("__") or self.__dict__.get("_loader") is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        with _LOCK:
            loader = self.__dict__.pop("_loader", None)
            if loader is not None:
                # Other modules that import it from now on find an ordinary module.
                self.__class__ = ModuleType  # type: ignore[assignment]
                loader.exec_module(self)
        return getattr(self, name)


class _DeferringLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader):
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Deferred(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self.loader
        module.__dict__["_loader"] = self.loader


class _UncompiledLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader):
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self.loader
        if COMPILER in sys.modules:
            self.loader.exec_module(module)
            return
        from torch import compiler

        usual = compiler.disable
        sys.modules[COMPILER] = None  # type: ignore[assignment]  # whoever imports it does without it
        compiler.disable = _left_to_the_compiler(usual)
        try:
            self.loader.exec_module(module)
        finally:
            compiler.disable = usual
            del sys.modules[COMPILER]
        if module.__name__ == "diffusers.utils.torch_utils":
            utils: Any = module
            compiled = utils.is_compiled_module
            # Nothing is compiled before the compiler is there; to ask it would bring it.
            utils.is_compiled_module = lambda network: COMPILER in sys.modules and compiled(network)


def _left_to_the_compiler(disable: Callable[..., Any]) -> Callable[..., Any]:
    """Return `torch.compiler.disable` for functions that may never meet the compiler: it is asked for when they are called, if it is there then."""

    def decorate(function: Callable[..., Any] | None = None, *given: Any, **named: Any) -> Callable[..., Any]:
        if function is None:
            return lambda function: decorate(function, *given, **named)

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            chosen = disable(function, *given, **named) if COMPILER in sys.modules else function
            return chosen(*arguments, **options)

        return call

    return decorate


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if name not in DEFERRED and name not in UNCOMPILED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        spec.loader = (_DeferringLoader if name in DEFERRED else _UncompiledLoader)(spec.loader)
        return spec


def install() -> None:
    """Import leanly from now on in this process; what is imported already stays as it is."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
