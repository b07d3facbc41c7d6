"""Which files of a repository make a model: one variant of each part's weights, and nothing that is not used."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch

PATTERNS = ["*.json", "*/*.json", "*.safetensors", "*/*.safetensors", "README.md"]
"""What is fetched of a repository: configurations and safe weights. Pickled weights only where there are no others."""
TOKENIZERS = ["tokenizer*/*.txt", "tokenizer*/*.model"]
UNUSED = ("safety_checker/", "feature_extractor/", "image_encoder/")
"""Parts of text-to-image models that restoring does not use."""
WEIGHTS = re.compile(r"(?P<name>diffusion_pytorch_model|model)(?:\.(?P<variant>[A-Za-z][\w-]*?))?(?:-\d{5}-of-\d{5})?\.safetensors", re.ASCII)
INDEX = re.compile(r"(?P<name>diffusion_pytorch_model|model)\.safetensors\.index(?:\.(?P<variant>[A-Za-z][\w-]*))?\.json", re.ASCII)


def variant_of(name: str) -> tuple[bool, str | None]:
    """Return whether a file's name is one of weights (or of their list), and of which variant; None: of the plain ones."""
    match = WEIGHTS.fullmatch(name) or INDEX.fullmatch(name)
    return match is not None, None if match is None else match["variant"]


def choose_variant(names: Iterable[str], variant: str | None = None) -> str | None:
    """Choose among the weights of one folder: the variant that is asked for where it is there, else the plain ones, else what there is."""
    found = {kind for weights, kind in map(variant_of, names) if weights}
    if variant in found or not found:
        return variant if found else None
    return None if None in found else min(kind for kind in found if kind is not None)


def wanted_files(files: Sequence[str], variant: str | None = None) -> list[str]:
    """Choose the files of a repository that make a model.

    Args:
        files: all of them, by their paths.
        variant: of the weights, e.g. "fp16", where a part has it.
    """
    kept = [f for f in files if any(fnmatch(f, p) and f.count("/") == p.count("/") for p in PATTERNS + TOKENIZERS) and not f.startswith(UNUSED)]
    parts: dict[str, list[str]] = {}
    for file in kept:
        folder, _, name = file.rpartition("/")
        parts.setdefault(folder, []).append(name)
    chosen = {folder: choose_variant(names, variant) for folder, names in parts.items()}
    # A whole model in one file beside its parts is the same once more.
    whole = any(folder and any(variant_of(name)[0] for name in names) for folder, names in parts.items())

    def is_wanted(file: str) -> bool:
        folder, _, name = file.rpartition("/")
        weights, kind = variant_of(name)
        if not folder and whole and name.endswith(".safetensors"):
            return False
        return not weights or kind == chosen[folder]

    return [file for file in kept if is_wanted(file)]
