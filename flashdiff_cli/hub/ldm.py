"""Original latent diffusion configurations (CompVis `config.yaml`) as diffusers components.

Only what diffusers can represent exactly is taken over; anything else is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel, VQModel

from flashdiff_cli.bounded import check_depth, read_text, short
from flashdiff_cli.errors import FlashdiffError

YAML_BYTES, REFERENCES = 128 << 10, 20
UNCONDITIONAL = ("__is_unconditional__", None)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of plain values.

    Raises:
        FlashdiffError: it cannot be read or is no mapping.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Plain values only, and few references: each of them can multiply what stands behind it."""

        references = 0

        def compose_node(self, parent, index):
            self.references += self.check_event(yaml.AliasEvent)
            if self.references > REFERENCES:
                raise ValueError(f"more than {REFERENCES} references (*)")
            return super().compose_node(parent, index)

    try:
        text = read_text(path, YAML_BYTES)
    except OSError as error:
        raise FlashdiffError(f"{path}: cannot read ({error.strerror or error}); give the model's config.yaml with --config") from error
    try:
        found = yaml.load(text, Loader)  # a SafeLoader: nothing is built but plain values
        check_depth(found)
    except FlashdiffError:
        raise
    except Exception as error:  # PyYAML lets through what its values raise: dates that are none, numbers too long
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise FlashdiffError(f"{path}: not valid YAML ({reason}); get config.yaml again") from error
    if not isinstance(found, dict):
        raise FlashdiffError(f"{path}: not a configuration; give the model's config.yaml")
    return found


class Section:
    """One mapping of a configuration, whose errors say where in which file they are."""

    def __init__(self, values: Any, where: str):
        if not isinstance(values, Mapping):
            raise FlashdiffError(f"{where} is missing or no mapping; is this an original latent diffusion configuration?")
        self.values, self.where = values, where

    def section(self, *path: str) -> Section:
        here = self
        for name in path:
            here = Section(here.values.get(name), f"{here.where}: {name}")
        return here

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)

    def need(self, name: str) -> Any:
        if name not in self.values:
            raise FlashdiffError(f"{self.where}: {name} is missing; is this an original latent diffusion configuration?")
        return self.values[name]

    def only(self, name: str, allowed: tuple, default: Any = None) -> None:
        """Check that an entry has one of the values that can be represented.

        Raises:
            FlashdiffError: it has another.
        """
        value = self.values.get(name, default)
        if not any(value is known or (type(value) is type(known) and value == known) for known in allowed):
            raise FlashdiffError(f"{self.where}: {name} = {short(value)} cannot be converted; flashdiff takes {' or '.join(map(repr, allowed))}")


def first_stage_kind(target: str, where: str) -> str:
    """Return "vq" or "kl", from the class that a configuration names."""
    for part, kind in (("VQModel", "vq"), ("AutoencoderKL", "kl"), ("VQGAN", "vq")):
        if part in str(target):
            return kind
    raise FlashdiffError(f"{where}: first stage {short(target)} cannot be converted; flashdiff takes VQModel and AutoencoderKL")


def block_types(dd: Section) -> tuple[list[str], list[str], list[int]]:
    """Return the types of the encoder's and the decoder's blocks and their channels, from `ddconfig`."""
    multiples, resolution = list(dd.need("ch_mult")), int(dd.need("resolution"))
    attends = [resolution // 2**i in dd.get("attn_resolutions", []) for i in range(len(multiples))]
    down = ["AttnDownEncoderBlock2D" if a else "DownEncoderBlock2D" for a in attends]
    up = ["AttnUpDecoderBlock2D" if a else "UpDecoderBlock2D" for a in reversed(attends)]
    return down, up, [int(dd.need("ch")) * m for m in multiples]


def check_autoencoder(dd: Section, kind: str) -> None:
    """Check that an autoencoder of this kind, "vq" or "kl", can be represented.

    Raises:
        FlashdiffError: it has a part that diffusers lacks.
    """
    dd.only("double_z", (kind == "kl",), True)
    dd.only("resamp_with_conv", (True,), True)
    dd.only("attn_type", ("vanilla",), "vanilla")
    dd.only("use_linear_attn", (False,), False)
    dd.only("tanh_out", (False,), False)
    dd.only("give_pre_end", (False,), False)


def make_first_stage(params: Section, kind: str, scaling_factor: float) -> AutoencoderKL | VQModel:
    """Return an empty autoencoder of the configured shape.

    Args:
        params: of the first stage: `ddconfig`, `embed_dim` and, for `vq`, `n_embed`.
        kind: "vq" or "kl".
        scaling_factor: what the diffusion model multiplies codes with; written out, because VQModel's own default is
            not 1.
    """
    dd = params.section("ddconfig")
    check_autoencoder(dd, kind)
    down, up, widths = block_types(dd)
    shape = {
        "in_channels": dd.need("in_channels"),
        "out_channels": dd.need("out_ch"),
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": widths,
        "layers_per_block": dd.need("num_res_blocks"),
        "latent_channels": dd.need("z_channels"),
        "sample_size": dd.need("resolution"),
        "scaling_factor": scaling_factor,
    }
    if kind == "kl":
        if params.need("embed_dim") != dd.need("z_channels"):
            raise FlashdiffError(f"{params.where}: embed_dim and z_channels differ, which AutoencoderKL of diffusers cannot represent")
        return AutoencoderKL(**shape)
    params.only("remap", (None,))
    return VQModel(**shape, num_vq_embeddings=params.need("n_embed"), vq_embed_dim=params.need("embed_dim"))


def make_unet(params: Section) -> UNet2DModel:
    """Return an empty noise predictor of the configured shape."""
    for name, allowed, default in (
        ("conv_resample", (True,), True),
        ("dims", (2,), 2),
        ("num_classes", (None,), None),
        ("resblock_updown", (False,), False),
        ("use_spatial_transformer", (False,), False),
        ("context_dim", (None,), None),
    ):
        params.only(name, allowed, default)
    widths = [params.need("model_channels") * m for m in params.need("channel_mult")]
    attends = [2**i in params.need("attention_resolutions") for i in range(len(widths))]
    return UNet2DModel(
        sample_size=params.need("image_size"),
        in_channels=params.need("in_channels"),
        out_channels=params.need("out_channels"),
        block_out_channels=tuple(widths),
        layers_per_block=params.need("num_res_blocks"),
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        attention_head_dim=_head_width(params, [w for w, a in zip(widths, attends, strict=True) if a] + widths[-1:]),
        resnet_time_scale_shift="scale_shift" if params.get("use_scale_shift_norm") else "default",
        dropout=params.get("dropout", 0.0),
    )


def _head_width(params: Section, widths: list[int]) -> int:
    width = params.get("num_head_channels", -1)
    if width not in (-1, None):
        return int(width)
    heads = params.get("num_heads", -1)
    if heads in (-1, None) or len(set(widths)) > 1:
        raise FlashdiffError(
            f"{params.where}: attention needs num_head_channels, or num_heads where all attention has one width "
            f"(here {sorted(set(widths))}); diffusers cannot represent the rest"
        )
    return widths[0] // int(heads)


def make_scheduler(params: Section, table: torch.Tensor | None) -> DDIMScheduler:
    """Return the training schedule, with the original's time offset and last step.

    Args:
        params: of the latent diffusion model.
        table: `alphas_cumprod` as the checkpoint holds it; where it is not what the configuration says, its betas are
            written out.
    """
    params.only("parameterization", ("eps",), "eps")
    timesteps = int(params.get("timesteps", 1000))
    shared: dict[str, Any] = {"num_train_timesteps": timesteps, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    schedule = params.get("beta_schedule", "linear")
    if schedule == "linear":
        # What the original calls linear is linear in the square root.
        scheduler = DDIMScheduler(
            beta_start=params.get("linear_start", 1e-4),
            beta_end=params.get("linear_end", 2e-2),
            beta_schedule="scaled_linear",
            **shared,
        )
        if table is None or (len(table) == timesteps and torch.allclose(table.float(), scheduler.alphas_cumprod, atol=1e-6)):
            return scheduler
    if table is None:
        raise FlashdiffError(f"{params.where}: beta_schedule = {short(schedule)} needs the checkpoint's alphas_cumprod, which it lacks")
    alphas = table.double()
    betas = 1 - alphas / torch.cat([torch.ones(1, dtype=torch.float64), alphas[:-1]])
    return DDIMScheduler(trained_betas=betas.tolist(), **(shared | {"num_train_timesteps": len(table)}))  # type: ignore[arg-type]
