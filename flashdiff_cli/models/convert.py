"""Original checkpoints (`.ckpt`, `.pth`) as folders in the diffusers layout, with safetensors.

Every tensor of the source must find its place; nothing that it pickles is run (`unpickle`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch

from flashdiff_cli.bounded import check_depth, in_one_line
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.hub import ldm
from flashdiff_cli.hub.checksums import add_sums
from flashdiff_cli.hub.configs import check_config, read_config
from flashdiff_cli.hub.paths import new_folder, within
from flashdiff_cli.hub.remap import Source, autoencoder_name, fill, unet_name
from flashdiff_cli.hub.unpickle import load_checkpoint, state_dict
from flashdiff_cli.hub.weights import check_table, check_values
from flashdiff_cli.models.kernel_wizard import convert_state_dict
from flashdiff_cli.models.loading import component_folder
from flashdiff_cli.operators.blur_network import BlurNetwork
from flashdiff_cli.severity import SeverityEncoder

SCHEDULE = r"(betas|alphas_cumprod(_prev)?|(sqrt|log)_.*|posterior_.*|lvlb_weights|logvar|scale_factor)"
"""Buffers that follow from the schedule, and the scale factor, which goes into the configuration."""
UNUSED_FIRST_STAGE = r"first_stage_model\.(loss|model_ema)\..*"
UNET = "model.diffusion_model."
Network = TypeVar("Network", bound=torch.nn.Module)


@dataclass
class Conversion:
    """What a conversion did."""

    target: str
    tensors: int
    """Tensors of the source that were written."""
    left_out: int
    """Tensors that the target needs no room for: buffers, training state, raw weights beside EMA ones."""
    ema: bool | None = None
    """Whether EMA weights were taken; None where the question makes no sense."""
    scaling_factor: float | None = None


@contextmanager
def _folder(target: str | Path) -> Iterator[Path]:
    """Make a folder that takes its name only when it is complete.

    Raises:
        UsageError: the name is taken.
    """
    target = Path(target)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise UsageError(f"TARGET {target} exists already; give a new folder")
    with new_folder(target, "choose another TARGET") as part:
        yield part


def convert_ldm(source: str | Path, target: str | Path, config: str | Path | None = None, raw: bool = False) -> Conversion:
    """Return a latent diffusion model of the original code, as a folder that `FlashDiffusionPipeline` and diffusers load.

    Args:
        source: the checkpoint.
        target: a new folder: first_stage/, unet/, scheduler/, model_index.json.
        config: its `config.yaml`; None looks beside the source.
        raw: take the raw UNet weights although, or where, there are no EMA ones.

    Raises:
        UsageError: no configuration is found, or the target exists.
        FlashdiffError: a tensor is missing, left over or misshapen; the file lacks EMA weights; the configuration is
            of a model that cannot be represented.
    """
    source = Path(source)
    config = Path(config) if config else next((p for p in (source.with_name("config.yaml"), source.with_suffix(".yaml")) if p.exists()), None)
    if config is None:
        raise UsageError(f"--config: no config.yaml beside {source}; give the model's configuration")
    params = ldm.Section(ldm.read_yaml(config), str(config)).section("model", "params")
    check_config(params.values, config)
    params.only("cond_stage_config", ldm.UNCONDITIONAL)
    tensors = Source(state_dict(load_checkpoint(source), source), str(source))
    with in_one_line(source, f"is {config} this checkpoint's configuration?"):
        return _convert_ldm(params, tensors, target, raw)


def _convert_ldm(params: ldm.Section, tensors: Source, target: str | Path, raw: bool) -> Conversion:
    scale = float(tensors.tensors["scale_factor"]) if "scale_factor" in tensors.tensors else float(params.get("scale_factor", 1.0))
    stage = params.section("first_stage_config")
    kind = ldm.first_stage_kind(stage.need("target"), stage.where)
    check_scale(scale, tensors.where)
    first_stage: Any = _fitting(lambda: ldm.make_first_stage(stage.section("params"), kind, scale), tensors)
    levels = len(first_stage.config.block_out_channels)
    fill(first_stage, tensors, lambda layer: autoencoder_name(layer, levels), "first_stage_model.{}".format)

    unet = _unet(params.section("unet_config", "params"), tensors, raw)
    scheduler = ldm.make_scheduler(params, tensors.tensors.get("alphas_cumprod"))
    check_table(scheduler.alphas_cumprod)
    written = len(tensors.used)
    dropped = sum(len(tensors.leave(pattern)) for pattern in (SCHEDULE, UNUSED_FIRST_STAGE, r"model_ema\.(decay|num_updates)"))
    dropped += len(tensors.leave(re.escape(UNET) + ".*" if not raw else r"model_ema\..*"))
    tensors.check_left()
    for network in (first_stage, unet):
        check_values(network.state_dict(), tensors.where)
    with _folder(target) as folder:
        _save_model(folder, first_stage=first_stage, unet=unet, scheduler=scheduler)
    return Conversion(str(target), written, dropped, not raw, scale)


def _fitting(make: Callable[[], Network], source: Source) -> Network:
    """Return a new network that has no more numbers than a checkpoint; counted before any memory is taken."""
    with torch.device("meta"):
        wanted = sum(p.numel() for p in make().parameters())
    if wanted > (held := sum(t.numel() for t in source.tensors.values())):
        raise FlashdiffError(f"{source.where}: {held:,} numbers, where the configuration asks for {wanted:,}; is the configuration this file's?")
    return make()


def check_scale(scale: float, where: str | Path) -> None:
    """Raise a FlashdiffError if the scaling factor of a first stage is none."""
    if not 1e-6 <= scale <= 1e6:
        raise FlashdiffError(f"{where}: a scaling factor of {scale:g} makes no sense; it is about 0.1 to 10")


def _save_model(folder: Path, **components: Any) -> None:
    """Save components and the index that names them, as a pipeline of them would be; no pipeline is needed to do so."""
    index = {"_class_name": "FlashDiffusionPipeline", "_diffusers_version": diffusers.__version__, "defaults": {}}
    for role, component in components.items():
        component.save_pretrained(folder / role)
        index[role] = ["diffusers", type(component).__name__]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _unet(params: ldm.Section, source: Source, raw: bool):
    unet: Any = _fitting(lambda: ldm.make_unet(params), source)
    up = unet.config.up_block_types
    ema = any(key.startswith("model_ema.diffusion_model") for key in source.tensors)
    if not ema and not raw:
        raise FlashdiffError(f"{source.where}: no EMA weights in it, which sampling needs; pass --raw-weights to take the raw ones")

    def prefix(name: str) -> str:
        return UNET + name if raw else "model_ema." + (UNET.removeprefix("model.") + name).replace(".", "")

    head = unet.config.attention_head_dim
    layers = unet.config.layers_per_block
    fill(
        unet,
        source,
        lambda layer: unet_name(layer, layers, lambda _, i: up[i].startswith("Attn")),
        prefix,
        lambda channels: channels // head,
        interleaved=not params.get("use_new_attention_order", False),
    )
    return unet


def convert_severity(source: str | Path, target: str | Path, scaling_factor: float | None = None) -> Conversion:
    """Return a severity encoder of the paper's code, as one component folder.

    Args:
        source: the checkpoint: state_dict and hyper_parameters.
        target: a new folder, e.g. `MODEL/severity`.
        scaling_factor: of the first stage that it belongs to; None reads it from the model folder that `target` lies
            in, and is 1 where there is none.

    Raises:
        UsageError: the target exists.
        FlashdiffError: a tensor is missing, left over or misshapen, or the hyper-parameters are not there.
    """
    source, target = Path(source), Path(target)
    checkpoint = load_checkpoint(source)
    with in_one_line(source, "is it a severity encoder of the paper's code?"):
        return _convert_severity(checkpoint, source, target, scaling_factor)


def _convert_severity(checkpoint: dict[str, Any], source: Path, target: Path, scaling_factor: float | None) -> Conversion:
    tensors = state_dict(checkpoint, source)
    if any(key.startswith("encoder.encoder.") for key in tensors):
        # The whole training module: the severity encoder is its `encoder`, and a frozen autoencoder stands beside it.
        tensors = {key.removeprefix("encoder."): v for key, v in tensors.items() if not key.startswith("pretrained_autoencoder.")}
    hyper = ldm.Section(checkpoint.get("hyper_parameters"), f"{source}: hyper_parameters")
    check_depth(hyper.values)
    model = hyper.section("model_config")
    model = model if model.get("params") is not None else ldm.Section(model.section("model").values, model.where)
    params = model.section("params")
    stage = params.section("first_stage_config") if params.get("first_stage_config") else model
    kind = ldm.first_stage_kind(stage.need("target"), stage.where)
    params = stage.section("params")
    dd = params.section("ddconfig")
    ldm.check_autoencoder(dd, kind)
    down, _, widths = ldm.block_types(dd)
    check_config(params.values, params.where)
    scale = _scale_of(target.parent) if scaling_factor is None else scaling_factor
    check_scale(scale, source)
    make = partial(
        SeverityEncoder,
        kind,
        {
            "in_channels": dd.need("in_channels"),
            "out_channels": dd.need("z_channels"),
            "down_block_types": down,
            "block_out_channels": widths,
            "layers_per_block": dd.need("num_res_blocks"),
            "double_z": kind == "kl",
        },
        latent_channels=params.need("embed_dim"),
        scaling_factor=scale,
        code_channels=dd.need("z_channels") * (2 if kind == "kl" else 1),
        degradations=_degradation(hyper),
    )
    pool = Source(tensors, str(source))
    encoder = _fitting(make, pool)
    fill(encoder, pool, lambda layer: autoencoder_name(layer, len(widths)), str)
    pool.check_left()
    check_values(encoder.state_dict(), source)
    with _folder(target) as folder:
        encoder.save_pretrained(folder, safe_serialization=True)
    add_sums(target.parent, target)
    return Conversion(str(target), len(pool.used), 0, None, scale)


def _scale_of(model: Path) -> float:
    folder = component_folder(model, "first_stage")
    if folder is None:
        return 1.0
    config = read_config(within(model, folder / "config.json"))
    return float(config.get("scaling_factor", 1.0 if config.get("_class_name") == "VQModel" else 0.18215))


def _degradation(hyper: ldm.Section) -> list[dict[str, Any]]:
    """Return what it was trained on, in this project's words where they exist."""
    operator = hyper.get("operator_config")
    noise = hyper.get("noise_config")
    found: dict[str, Any] = {}
    if isinstance(operator, dict) and isinstance(operator.get("type"), str):
        found["operator"] = {"inpainting": "random-inpainting"}.get(operator["type"], operator["type"].replace("_", "-"))
        if isinstance(operator.get("max_std"), (int, float)):
            found["blur_std"] = [float(operator.get("min_std", 0.3)), float(operator["max_std"])]
    if isinstance(noise, dict) and isinstance(noise.get("sigma_max"), (int, float)):
        found["noise_std"] = float(noise["sigma_max"])
    return [found] if found else []


def convert_nonlinear_blur(source: str | Path, target: str | Path) -> Conversion:
    """Return the paper's nonlinear blur network (KernelWizard), as a folder for `--operator nonlinear-blur --weights`.

    Raises:
        UsageError: the target exists.
        FlashdiffError: a tensor is missing, left over or misshapen.
    """
    tensors = state_dict(load_checkpoint(source), source)
    with in_one_line(source, "is it a KernelWizard checkpoint?"):
        return _convert_nonlinear_blur(tensors, source, target)


def _convert_nonlinear_blur(tensors: dict[str, torch.Tensor], source: str | Path, target: str | Path) -> Conversion:
    # Weights of a data-parallel training carry one more prefix.
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    try:
        config, converted = convert_state_dict(tensors)
    except FlashdiffError as error:
        raise FlashdiffError(f"{source}: {error}") from error
    network = BlurNetwork(**config)
    network.load_state_dict({key: value.float() for key, value in converted.items()})
    check_values(network.state_dict(), source)
    with _folder(target) as folder:
        network.save_pretrained(folder, safe_serialization=True)
    return Conversion(str(target), len(converted), len(tensors) - len(converted))


__all__ = ["Conversion", "convert_ldm", "convert_nonlinear_blur", "convert_severity"]
