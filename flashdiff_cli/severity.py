"""The severity encoder: a measurement in, an estimate of its clean latent and of that estimate's error out.

Paper section 3.1. The module path is part of every saved model; it must not move.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_dc import Encoder as DCEncoder
from diffusers.models.autoencoders.autoencoder_dc import ResBlock
from diffusers.models.autoencoders.vae import Encoder
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from flashdiff_cli.deviation import DeviationHead
from flashdiff_cli.first_stage import FirstStage, LatentScaling
from flashdiff_cli.grey import with_colour_noise
from flashdiff_cli.last_step import LastStep

AS_IN_COLOUR = 1.5
"""Of `with_colour_noise`: channels with independent noise have a luma with two thirds of it."""

START_DEVIATION = 0.3
"""Deviation of the error, in units of the latent, that a new encoder of a KL first stage says."""


class SeverityEstimate(NamedTuple):
    """What is known of a measurement before any diffusion step."""

    latent: torch.Tensor
    """(B, C, h, w): the estimated clean latent, in the scaled units that the diffusion model sees."""
    variance: torch.Tensor
    """(B,): estimated variance per dimension of the error of `latent`, in the same units squared."""

    @property
    def severity(self) -> torch.Tensor:
        """(B,): the standard deviation, sqrt(variance)."""
        return self.variance.sqrt()


class SeverityEncoder(ModelMixin, ConfigMixin):
    """A copy of a first stage's encoder, fully fine-tuned, with one more output: the error's standard deviation.

    Args:
        kind: of the first stage: "kl" (the second half of quant_conv's output is the deviation), "vq" (a 1x1
            convolution of the code gives it) or "dc" (a `DeviationHead` gives it).
        encoder_config: arguments of the encoder network.
        latent_channels: C.
        scaling_factor, shift_factor, latents_mean, latents_std: of the first stage; see `first_stage.LatentScaling`.
        code_channels: input channels of quant_conv (`kl`, `vq`); None where there is no quant_conv.
        extra_layers: residual blocks appended to a `dc` encoder, the identity before training.
        degradations: what it was trained on, for people and reports.
        pixel_network: arguments of a `LastStep` that a measurement passes before a `dc` encoder: a U shape sees farther than blocks at one
            resolution. It is told which pixels are missing; None: there is none.
    """

    config_name = "config.json"
    _supports_gradient_checkpointing = True

    config: Any
    """Entries by name, made at run time from the arguments."""
    encoder: Any
    refine: Any
    ahead: LastStep | None

    @register_to_config
    def __init__(
        self,
        kind: str,
        encoder_config: dict,
        latent_channels: int,
        scaling_factor: float = 1.0,
        code_channels: int | None = None,
        extra_layers: int = 0,
        degradations: list[dict] | None = None,
        shift_factor: float | None = None,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
        pixel_network: dict | None = None,
    ):
        super().__init__()
        # Not by the argument's name, by which diffusers' models return the entry of the configuration.
        self.ahead = None if pixel_network is None else LastStep(**pixel_network)
        if kind not in ("kl", "vq", "dc"):
            raise ValueError(f"kind must be kl, vq or dc, not {kind!r}")
        if pixel_network is not None and kind != "dc":
            raise ValueError("a network ahead of the encoder needs a first stage of AutoencoderDC")
        self.scaling = LatentScaling(self.config)
        if kind == "dc":
            self.encoder = DCEncoder(**encoder_config)
            width = encoder_config["block_out_channels"][-1]
            self.refine = nn.Sequential(*(ResBlock(width, width, "rms_norm", "silu") for _ in range(extra_layers)))
            factor = 2 ** (len(encoder_config["block_out_channels"]) - 1)
            self.deviation = DeviationHead(width, factor, latent_channels)
        else:
            self.encoder = Encoder(**encoder_config)
            out = 2 * latent_channels if kind == "kl" else latent_channels
            self.quant_conv = nn.Conv2d(code_channels, out, 1) if code_channels else None
            if kind == "vq":
                self.std_conv = nn.Conv2d(latent_channels, latent_channels, 1)

    def _halves(self, image: torch.Tensor, missing: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the unscaled code estimate and deviation map, (B, C, h, w) each."""
        if self.config.kind == "dc":
            if self.ahead is None:
                image = clean = with_colour_noise(image, AS_IN_COLOUR)
            else:
                holes = torch.zeros_like(image[:, :2])
                if missing is not None:
                    holes[:, 0] = missing.to(holes)
                clean = self.ahead.with_maps(image, holes)
            features = self.encoder.conv_in(clean)
            for block in self.encoder.down_blocks:
                features = block(features)
            features = self.refine(features)
            code = self.encoder.conv_out(features)
            if self.encoder.out_shortcut:
                code = code + features.unflatten(1, (-1, self.encoder.out_shortcut_average_group_size)).mean(2)
            # What the deviation learns must not bend the estimate whose error it describes.
            return code, self.deviation(features.detach(), image)
        code = self.encoder(image)
        if self.quant_conv is not None:
            code = self.quant_conv(code)
        if self.config.kind == "kl":
            estimate, deviation = code.chunk(2, dim=1)
            return estimate, deviation
        return code, self.std_conv(code)

    def forward(self, measurement: torch.Tensor, where: torch.Tensor | None = None) -> SeverityEstimate:
        """Estimate the clean latent of each measurement and the variance of that estimate's error.

        Args:
            measurement: (B, 3, H, W), nominally in [-1, 1] (noise may leave it); sides multiples of the size_multiple.
            where: (B, H, W) or (1, H, W), bool: the missing pixels, which the variance is to be of; None, or nowhere: all.

        Returns:
            latent (B, C, h, w) and variance (B,) = mean over C, h, w of the squared deviation map, both scaled.
        """
        latent, variance = self.local(measurement, where)
        if where is None:
            return SeverityEstimate(latent, variance.mean((1, 2, 3)))
        # A latent position counts where any of its pixels does.
        weight = F.adaptive_max_pool2d(where.to(variance)[:, None], variance.shape[2:]).expand(len(variance), -1, -1, -1)
        weight = torch.where(weight.sum((1, 2, 3), keepdim=True) > 0, weight, 1.0)
        return SeverityEstimate(latent, (variance * weight).sum((1, 2, 3)) / (weight.sum((1, 2, 3)) * variance.shape[1]))

    def local(self, measurement: torch.Tensor, missing: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the latent estimate and the variance of each of its numbers, (B, C, h, w) both, scaled.

        Args:
            measurement: (B, 3, H, W), its missing pixels filled.
            missing: (B, H, W) or (1, H, W), bool: which they are, for a network that can be told; None: none.
        """
        code, deviation = self._halves(measurement, missing)
        return self.scaling.to_latent(code), self.scaling.spread(deviation).float().square()

    def variance_map(self, measurement: torch.Tensor) -> torch.Tensor:
        """Return the variance before it is averaged over positions: (B, h, w), scaled units squared."""
        return self.local(measurement)[1].mean(1)

    def trained_noise(self, operator: str) -> float | None:
        """Return the strongest noise that training on an operator dwelt on: two of its spreads above its middle, on intensities in [0, 1].

        Infinite where the configuration does not say; None if it was not trained on this operator.
        """
        own = [d for d in self.config.degradations or [] if d.get("operator") == operator]
        most = [d["noise_std"] * math.exp(2 * d.get("noise_spread", 0.0)) if "noise_std" in d else math.inf for d in own]
        return max(most, default=None)

    @classmethod
    def from_first_stage(
        cls, stage: FirstStage, extra_layers: int = 0, degradations: list[dict] | None = None, pixel_network: LastStep | None = None
    ) -> SeverityEncoder:
        """Return a severity encoder with the first stage's encoder weights, and those of a network ahead of it, ready for training.

        Raises:
            ValueError: a network is given for a first stage other than `dc`.
        """
        model: Any = stage.model
        c = model.config
        encoder = _arguments(stage)
        quant_conv = None if stage.kind == "dc" else model.quant_conv
        code_channels = None if quant_conv is None else quant_conv.in_channels
        more = {name: c[name] for name in ("shift_factor", "latents_mean", "latents_std") if c.get(name) is not None}
        ahead = None if pixel_network is None else {name: pixel_network.config[name] for name in ("channels", "blocks")}
        new = cls(stage.kind, encoder, stage.channels, stage.scale, code_channels, extra_layers, degradations, pixel_network=ahead, **more)
        if new.ahead is not None and pixel_network is not None:
            new.ahead.load_state_dict(pixel_network.state_dict())
        new.encoder.load_state_dict(model.encoder.state_dict())
        if stage.kind == "dc":
            for block in new.refine:
                for tensor in block.norm.parameters():
                    nn.init.zeros_(tensor)
        elif new.quant_conv is not None and model.quant_conv is not None:
            new.quant_conv.load_state_dict(model.quant_conv.state_dict())
        if stage.kind == "kl":
            # The first stage's half says log variances of its code, far below any error: begin with one that errors have.
            last = new.encoder.conv_out if new.quant_conv is None else new.quant_conv
            with torch.no_grad():
                last.weight[stage.channels :] = 0
                assert last.bias is not None
                last.bias[stage.channels :] = START_DEVIATION / torch.as_tensor(new.scaling.factor).flatten()
        return new


def _arguments(stage: FirstStage) -> dict[str, Any]:
    """Return the arguments of a first stage's encoder."""
    c = stage.model.config
    if stage.kind == "dc":
        return {
            "in_channels": c.in_channels,
            "latent_channels": c.latent_channels,
            "attention_head_dim": c.attention_head_dim,
            "block_type": c.encoder_block_types,
            "block_out_channels": list(c.encoder_block_out_channels),
            "layers_per_block": list(c.encoder_layers_per_block),
            "qkv_multiscales": [list(scales) for scales in c.encoder_qkv_multiscales],
            "downsample_block_type": c.downsample_block_type,
            "out_shortcut": c.encoder_out_shortcut,
        }
    return {
        "in_channels": c.in_channels,
        "out_channels": c.latent_channels,
        "down_block_types": list(c.down_block_types),
        "block_out_channels": list(c.block_out_channels),
        "layers_per_block": c.layers_per_block,
        "act_fn": c.act_fn,
        "norm_num_groups": c.norm_num_groups,
        "double_z": stage.kind == "kl",
        "mid_block_add_attention": c.mid_block_add_attention,
    }


def trained_for(encoders: Mapping[str, SeverityEncoder], operators: Sequence[str], noise_std: float | None = None) -> str | None:
    """Return the name of the encoder that was trained on the first of these operators that any was trained on; None if none was.

    Of several, the first whose training reached the noise (intensities in [0, 1]; None: the first), else the one that came nearest:
    beyond its training an encoder takes noise for detail.
    """
    for operator in operators:
        found = {name: encoder.trained_noise(operator) for name, encoder in encoders.items()}
        reach = {name: most for name, most in found.items() if most is not None}
        if reach:
            return next((name for name, most in reach.items() if noise_std is None or noise_std <= most), max(reach, key=lambda name: reach[name]))
    return None
