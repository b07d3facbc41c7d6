"""Components of a model folder, loaded strictly from safetensors and of listed classes only, with errors that name the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch

from flashdiff_cli.blur_estimator import BlurEstimator
from flashdiff_cli.bounded import in_one_line, short
from flashdiff_cli.classifier import DegradationClassifier
from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.hub.checksums import check_file
from flashdiff_cli.hub.configs import check_config, read_config
from flashdiff_cli.hub.paths import within
from flashdiff_cli.hub.weights import REMEDY, check_table, load_module
from flashdiff_cli.last_step import LastStep
from flashdiff_cli.priors import flow_times, support
from flashdiff_cli.priors.flow import alphas_of
from flashdiff_cli.prompt import PromptEmbeddings
from flashdiff_cli.schedule import SPACINGS
from flashdiff_cli.severity import SeverityEncoder

LDM_NAMES = {"first_stage": ("first_stage", "vqvae", "vae"), "unet": ("unet", "transformer")}
"""Folder names by role, ours first, then those of other latent diffusion models."""

OWN_CLASSES = {
    "SeverityEncoder": SeverityEncoder,
    "DegradationClassifier": DegradationClassifier,
    "BlurEstimator": BlurEstimator,
    "LastStep": LastStep,
    "PromptEmbeddings": PromptEmbeddings,
}
NETWORKS = (*support.FIRST_STAGES, *support.NETWORKS)
SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "HeunDiscreteScheduler",
    "DEISMultistepScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "FlowMatchEulerDiscreteScheduler",
)
"""Classes of diffusers that a model folder may name, each imported when one names it; of a scheduler only its training table is used."""


def _allowed(role: str) -> tuple[str, ...]:
    """Return the names of the classes that a role may have."""
    if role.startswith("severity"):
        return ("SeverityEncoder",)
    return {
        "first_stage": support.FIRST_STAGES,
        "unet": support.NETWORKS,
        "prompt": ("PromptEmbeddings",),
        "classifier": ("DegradationClassifier",),
        "blur_estimator": ("BlurEstimator",),
        "last_step": ("LastStep",),
        "last_step_mixed": ("LastStep",),
        "scheduler": SCHEDULERS,
    }.get(role, (*OWN_CLASSES, *NETWORKS))


def component_folder(model: str | Path, role: str) -> Path | None:
    """Return the subfolder of a model that holds a role ("first_stage", "unet", "scheduler", "severity", ...), if any."""
    for name in LDM_NAMES.get(role, (role,)):
        if (Path(model) / name).is_dir():
            return Path(model) / name
    return None


def read_index(model: str | Path) -> dict[str, Any]:
    """Return a model folder's model_index.json, with `defaults`, whose numbers and lists are of bounded size.

    Raises:
        FlashdiffError: it is missing, damaged, or not the published one.
    """
    root = Path(model)
    path = within(root, root / "model_index.json")
    index = read_config(path)
    check_file(root, path)
    check_config(index.setdefault("defaults", {}), path, "defaults")
    return index


def check_supported(model: str | Path, pipeline: Any = None) -> None:
    """Refuse a model that cannot be a prior, by its configurations alone; what is damaged or missing is left to `load_component`.

    Args:
        model: a folder in the diffusers layout.
        pipeline: name of the pipeline's class in its `model_index.json`, if any.

    Raises:
        FlashdiffError: with the reason.
    """
    found: dict[str, dict[str, Any] | None] = {}
    for role, file in (("unet", "config.json"), ("first_stage", "config.json"), ("scheduler", "scheduler_config.json")):
        folder = component_folder(model, role)
        path = None if folder is None else within(Path(model), folder / file)
        found[role] = read_config(path) if path is not None and path.exists() else None
    support.check_parts(str(model), pipeline, found["unet"], found["first_stage"], found["scheduler"])


def load_component(model: str | Path, role: str, dtype: torch.dtype = torch.float32, variant: str | None = None) -> Any:
    """Load one component of a model folder, in evaluation mode.

    Args:
        model: a folder in the diffusers layout.
        role: name of the component; the first stage is also found under the names that others use.
        dtype: of the weights.
        variant: of the weights' files, e.g. "fp16", where they have it.

    Returns:
        A diffusers model, scheduler, or SeverityEncoder.

    Raises:
        FlashdiffError: it is missing, of a class that is not on the list, its weights are damaged, do not fit or are none, or it lies
            outside the model's folder.
    """
    folder = component_folder(model, role)
    if folder is None:
        raise FlashdiffError(f"{model}: no {role}/ in this model folder; give a folder in the diffusers layout")
    root = Path(model)
    # A folder that is a link may lead out of the model, whatever the files behind it are.
    within(root, folder)
    is_scheduler = (folder / "scheduler_config.json").exists()
    path = within(root, folder / ("scheduler_config.json" if is_scheduler else "config.json"))
    config = read_config(path)
    name = config.get("_class_name", "")
    allowed = _allowed(role)
    if name not in allowed or is_scheduler != (name in SCHEDULERS):
        raise FlashdiffError(f"{path}: unknown class {short(name)} for {role}; flashdiff takes {', '.join(sorted(allowed))}")
    cls = OWN_CLASSES[name] if name in OWN_CLASSES else getattr(diffusers, name)
    if is_scheduler:
        check_file(root, path)
        return _scheduler(cls, config, path)
    overrides = {}
    if name == "VQModel" and "scaling_factor" not in config:
        # The class defaults to 0.18215, but VQ models without the entry were trained with 1.0 (CompVis/ldm-celebahq-256).
        overrides["scaling_factor"] = 1.0
    large = config.get("force_upcast", True) if name == "AutoencoderKL" else name == "SeverityEncoder" and config.get("kind") == "kl"
    if dtype == torch.float16 and large:
        # The numbers of large KL encoders grow beyond what half precision holds.
        dtype = torch.float32
    if role in ("classifier", "blur_estimator"):
        # They tell apart what differs by a hundredth, and take no time.
        dtype = torch.float32
    return load_module(cls, root, folder, dtype, variant, **overrides)


def _scheduler(cls: type, config: dict[str, Any], path: Path) -> Any:
    """Return a scheduler whose training table makes sense: finite, falling, between 0 and 1."""
    check_config(config, path)
    with in_one_line(path, f"this configuration makes no {cls.__name__}; {REMEDY}"):
        scheduler = cls.from_config(config)
        times = flow_times(scheduler)
        table = scheduler.alphas_cumprod if times is None else alphas_of(times)
        check_table(table)
        steps_offset = scheduler.config.get("steps_offset", 0)
        if type(steps_offset) is not int or not 0 <= steps_offset < len(table):
            raise ValueError(f"steps_offset {short(steps_offset)} is none")
        spacing = scheduler.config.get("timestep_spacing", SPACINGS[0])
        if spacing not in SPACINGS:
            raise ValueError(f"timestep_spacing {short(spacing)} is none of {', '.join(SPACINGS)}")
    return scheduler
