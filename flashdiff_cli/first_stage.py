"""The autoencoder behind one face: images in [-1, 1] on one side, scaled latents on the other.

Three kinds of diffusers autoencoders are known: `kl` (AutoencoderKL), `vq` (VQModel, decoding through the nearest
codebook entry with a straight-through gradient) and `dc` (AutoencoderDC, deterministic).
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderDC, AutoencoderKL, VQModel

from flashdiff_cli.errors import FlashdiffError

KINDS = {AutoencoderKL: "kl", VQModel: "vq", AutoencoderDC: "dc"}


class FirstStage:
    """Encoder and decoder of a latent diffusion model, with its scale factor applied.

    Attributes:
        kind: "kl", "vq" or "dc".
        size_multiple: the sides of an image must be multiples of this.
        channels: of the latent.
        scale: latent = code * scale; the latent is what the diffusion model was trained on.

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

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] -> latent (B, C, H / size_multiple, W / size_multiple); differentiable.

        The posterior's mode for `kl`, the code before quantisation for `vq` (paper section 3.1).
        """
        if self.kind == "kl":
            code = self.model.encode(image).latent_dist.mode()
        elif self.kind == "vq":
            code = self.model.encode(image).latents
        else:
            code = self.model.encode(image).latent
        return code * self.scale

    def decode(self, latent: torch.Tensor, quantise: bool = True) -> torch.Tensor:
        """Latent -> image (B, 3, H, W), nominally in [-1, 1], not clipped; differentiable.

        Args:
            latent: (B, C, h, w), scaled.
            quantise: `vq` only; False decodes the code as it is.
        """
        code = latent / self.scale
        if self.kind == "vq":
            return self.model.decode(code, force_not_quantize=not quantise).sample
        return self.model.decode(code).sample
