"""Components of a model folder, loaded strictly from safetensors, with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import torch

from flashdiff_cli.classifier import DegradationClassifier
from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.last_step import LastStep
from flashdiff_cli.severity import SeverityEncoder

LDM_NAMES = {"first_stage": ("first_stage", "vqvae", "vae")}
"""Folder names by role, ours first, then those of other latent diffusion models."""

OWN_CLASSES = {"SeverityEncoder": SeverityEncoder, "DegradationClassifier": DegradationClassifier, "LastStep": LastStep}


def component_folder(model: str | Path, role: str) -> Path | None:
    """The subfolder of a model that holds a role ("first_stage", "unet", "scheduler", "severity", ...), if any."""
    for name in LDM_NAMES.get(role, (role,)):
        if (Path(model) / name).is_dir():
            return Path(model) / name
    return None


def read_config(path: Path) -> dict:
    """A component's JSON configuration.

    Raises:
        FlashdiffError: it is missing or no JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FlashdiffError(f"{path}: cannot read ({error.strerror}); is the model folder complete?") from error
    except ValueError as error:
        raise FlashdiffError(f"{path}: not valid JSON ({error}); download or convert the model again") from error
    if not isinstance(config, dict):
        raise FlashdiffError(f"{path}: not a configuration; download or convert the model again")
    return config


def load_component(model: str | Path, role: str, dtype: torch.dtype = torch.float32):
    """Load one component of a model folder, in evaluation mode.

    Args:
        model: a folder in the diffusers layout.
        role: name of the component; the first stage is also found under the names that others use.
        dtype: of the weights.

    Returns:
        A diffusers model, scheduler, or SeverityEncoder.

    Raises:
        FlashdiffError: it is missing, of an unknown class, or its weights are damaged or do not fit.
    """
    folder = component_folder(model, role)
    if folder is None:
        raise FlashdiffError(f"{model}: no {role}/ in this model folder; give a folder in the diffusers layout")
    is_scheduler = (folder / "scheduler_config.json").exists()
    path = folder / ("scheduler_config.json" if is_scheduler else "config.json")
    config = read_config(path)
    name = config.get("_class_name", "")
    cls = OWN_CLASSES.get(name) or getattr(diffusers, name, None) if isinstance(name, str) and name else None
    if cls is None:
        raise FlashdiffError(f"{path}: unknown class {name!r}; this version of flashdiff or diffusers does not have it")
    if is_scheduler:
        return cls.from_config(config)
    overrides = {}
    if name == "VQModel" and "scaling_factor" not in config:
        # The class defaults to 0.18215, but VQ models without the entry were trained with 1.0 (CompVis/ldm-celebahq-256).
        overrides["scaling_factor"] = 1.0
    try:
        component, info = cls.from_pretrained(
            folder, use_safetensors=True, torch_dtype=dtype, output_loading_info=True, low_cpu_mem_usage=False, **overrides
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise FlashdiffError(f"{folder}: cannot load these weights ({reason}); download or convert the model again") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(problem):
            raise FlashdiffError(f"{folder}: {problem.replace('_', ' ')} in the weights, e.g. {sorted(map(str, info[problem]))[0]}")
    return component.eval()
