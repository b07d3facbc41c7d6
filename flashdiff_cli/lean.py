"""What a start of the console program leaves out: modules that diffusers imports on sight and that no restoration uses.

`diffusers.models.autoencoders`, `.transformers` and `.unets` import every network that diffusers has as soon as one of them is wanted, and two
schedulers import parts of scipy. Here such a package is found as usual and executed when something in it is first asked for, which its
submodules never do. The standard library's `importlib.util.LazyLoader` executes it for its `__path__` already, which every import of a
submodule asks for.

Other modules import all of torch's compiler for a decorator, or all of transformers for the name of a class. They are executed with a stand-in for
that package: decorators that do nothing, and classes that ask the package only when they are used. Whoever imports it afterwards gets it.
"""

from __future__ import annotations

import gc
import importlib
import importlib.abc
import importlib.machinery
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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

STOOD_IN = {
    "diffusers.hooks.group_offloading": ("torch._dynamo",),
    "diffusers.utils.torch_utils": ("torch._dynamo",),
    "diffusers.loaders.lora_base": ("transformers",),
    "diffusers.loaders.single_file_utils": ("transformers",),
    "diffusers.pipelines.pipeline_loading_utils": ("transformers", "transformers.utils"),
    "diffusers.pipelines.pipeline_utils": ("torch._dynamo",),
    "diffusers.quantizers.pipe_quant_config": ("transformers", "transformers.utils", "transformers.utils.quantization_config"),
}
"""Modules that are executed with a stand-in for what they import."""

FILES = {"SAFE_WEIGHTS_NAME": "model.safetensors", "WEIGHTS_NAME": "pytorch_model.bin"}
"""Names of files that `transformers.utils` tells; the same for all models on the Hub."""

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


def _uncompiled(function: Any = None, *given: Any, **more: Any) -> Any:
    """Decorate as torch's compiler does, where nothing is compiled: not at all."""
    return (lambda decorated: decorated) if function is None else function


def _only_if_compiled(is_compiled: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a test for compiled modules that does not import the compiler: what it has made is there only if it was imported."""
    return lambda module: "torch._dynamo" in sys.modules and is_compiled(module)


class _Promise(type):
    """The type of classes that stand for others, which are imported when they are used."""

    module: str

    def real(cls) -> Any:
        return getattr(importlib.import_module(cls.module), cls.__name__)

    def __instancecheck__(cls, one: Any) -> bool:
        return isinstance(one, cls.real())

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, cls.real())

    def __call__(cls, *given: Any, **more: Any) -> Any:
        return cls.real()(*given, **more)

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.real(), name)


class _StandIn(ModuleType):
    """A package that promises the classes it is asked for; once it is no longer in the package's place, it hands on what the package has."""

    __path__: list[str] = []

    def __init__(self, name: str):
        super().__init__(name)
        # Who asks whether the package is installed finds that it is.
        self.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is not self:
            return getattr(importlib.import_module(self.__name__), name)
        if name in FILES:
            return FILES[name]
        if name.startswith("_"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return _Promise(name, (), {"module": self.__name__})


class _StandInLoader(importlib.abc.Loader):
    """Executes a module with stand-ins for what it imports, unless that is imported already."""

    def __init__(self, loader: importlib.abc.Loader, packages: Sequence[str]):
        self.loader, self.packages = loader, packages

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self.loader
        with _LOCK:
            package = self.packages[0]
            needless = package in sys.modules or importlib.machinery.PathFinder.find_spec(package.split(".")[0]) is None
            instead = {} if needless else {name: _StandIn(name) for name in self.packages}
            for name, one in instead.items():
                if name == "torch._dynamo":
                    vars(one).update(disable=_uncompiled, allow_in_graph=_uncompiled)
                sys.modules[name] = one
            try:
                self.loader.exec_module(module)
            finally:
                for name, one in instead.items():
                    if sys.modules.get(name) is one:
                        del sys.modules[name]
            if "is_compiled_module" in vars(module):
                vars(module)["is_compiled_module"] = _only_if_compiled(vars(module)["is_compiled_module"])


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if name not in DEFERRED and name not in STOOD_IN:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        spec.loader = _StandInLoader(spec.loader, STOOD_IN[name]) if name in STOOD_IN else _DeferringLoader(spec.loader)
        return spec


def install() -> None:
    """Import leanly from now on in this process; what is imported already stays as it is."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


@contextmanager
def start() -> Iterator[None]:
    """Import what computes, all of it, and leanly; where it is imported already nothing is done.

    The million objects that come with torch stay until the end: they are not searched for garbage, neither meanwhile nor later.
    """
    install()
    first = "torch" not in sys.modules and gc.isenabled()
    if first:
        gc.disable()
    try:
        yield
    finally:
        if first:
            gc.freeze()
            gc.enable()
