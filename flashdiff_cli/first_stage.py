"""The autoencoder behind one face: images in [-1, 1] on one side, scaled latents on the other.

Three kinds of diffusers autoencoders are known: `kl` (AutoencoderKL), `vq` (VQModel, decoding through the nearest
codebook entry with a straight-through gradient) and `dc` (AutoencoderDC, deterministic).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderDC, AutoencoderKL, VQModel

from flashdiff_cli.errors import FlashdiffError

KINDS = {AutoencoderKL: "kl", VQModel: "vq", AutoencoderDC: "dc"}


class LatentScaling:
    """Codes of an autoencoder to the latents that a diffusion model sees, and back: latent = (code - shift) factor.

    Args:
        config: of the autoencoder, or of an encoder that was made of it: `scaling_factor`; where there is one, `shift_factor`
            (Stable Diffusion 3, Flux), or `latents_mean` and `latents_std`, one number a channel.
    """

    def __init__(self, config: Mapping[str, Any]):
        self.factor: float | torch.Tensor = float(config["scaling_factor"])
        self.shift: float | torch.Tensor = float(config.get("shift_factor") or 0.0)
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is not None and std is not None:
            self.factor = (self.factor / torch.tensor(std, dtype=torch.float64)).view(1, -1, 1, 1)
            self.shift = torch.tensor(mean, dtype=torch.float64).view(1, -1, 1, 1)

    def spread(self, deviation: torch.Tensor) -> torch.Tensor:
        """Return deviations of codes (B, C, h, w) in units of latents."""
        return deviation * _like(self.factor, deviation)

    def to_latent(self, code: torch.Tensor) -> torch.Tensor:
        """Return the latent of a code (B, C, h, w)."""
        return self.spread(code - _like(self.shift, code) if self._shifts else code)

    def to_code(self, latent: torch.Tensor) -> torch.Tensor:
        """Return the code of a latent (B, C, h, w)."""
        code = latent / _like(self.factor, latent)
        return code + _like(self.shift, code) if self._shifts else code

    @property
    def _shifts(self) -> bool:
        return torch.is_tensor(self.shift) or self.shift != 0


def _like(value: float | torch.Tensor, like: torch.Tensor) -> float | torch.Tensor:
    return value.to(like.dtype).to(like.device) if isinstance(value, torch.Tensor) else value


class FirstStage:
    """Encoder and decoder of a latent diffusion model, with its scale and shift factors applied.

    Attributes:
        kind: "kl", "vq" or "dc".
        size_multiple: the sides of an image must be multiples of this.
        channels: of the latent.
        scale: the scale factor alone.
        scaling: of codes to latents, which are what the diffusion model was trained on.

    Raises:
        FlashdiffError: the model is no autoencoder of a known kind.
    """

    def __init__(self, model: torch.nn.Module):
        kind = next((name for cls, name in KINDS.items() if isinstance(model, cls)), None)
        if kind is None:
            known = ", ".join(cls.__name__ for cls in KINDS)
            raise FlashdiffError(f"first stage {type(model).__name__} is not supported; known are {known}")
        self.model: Any = model
        self.kind = kind
        config = self.model.config
        widths = config.encoder_block_out_channels if kind == "dc" else config.block_out_channels
        self.size_multiple: int = 2 ** (len(widths) - 1)
        self.channels: int = (config.vq_embed_dim if kind == "vq" else None) or config.latent_channels
        self.scale = float(config.scaling_factor)
        self.scaling = LatentScaling(config)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Encode images (B, 3, H, W) in [-1, 1] as latents (B, C, H / size_multiple, W / size_multiple); differentiable.

        The posterior's mode for `kl`, the code before quantisation for `vq` (paper section 3.1).
        """
        seen = image.to(self.model.dtype)
        if self.kind == "kl":
            code = self.model.encode(seen).latent_dist.mode()
        elif self.kind == "vq":
            code = self.model.encode(seen).latents
        else:
            code = self.model.encode(seen).latent
        return self.scaling.to_latent(code).to(image.dtype)

    def decode(self, latent: torch.Tensor, quantise: bool = True) -> torch.Tensor:
        """Decode latents to images (B, 3, H, W), nominally in [-1, 1], not clipped; differentiable.

        Args:
            latent: (B, C, h, w), scaled.
            quantise: `vq` only; False decodes the code as it is.
        """
        code = self.scaling.to_code(latent).to(self.model.dtype)
        more = {"force_not_quantize": not quantise} if self.kind == "vq" else {}
        return self.model.decode(code, **more).sample.to(latent.dtype)
