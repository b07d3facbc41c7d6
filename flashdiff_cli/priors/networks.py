"""How the networks of diffusers are called: each small class turns one kind into (latent, time) -> prediction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.prompt import PromptEmbeddings

TIME_IDS = 6
"""Numbers that Stable Diffusion XL is told of a picture: its size, where it was cropped, and the size wanted. Its refiner takes others."""


class Unconditional:
    """A `UNet2DModel`.

    Attributes:
        latent_multiple: sides of a latent must be multiples of this.
    """

    def __init__(self, network: Any):
        self.network = network
        self.latent_multiple: int = 2 ** (len(network.config.block_out_channels) - 1)

    def __call__(self, latent: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Predict for latents (B, C, h, w) at times (B,)."""
        return self.network(latent, time).sample


class Prompted(ABC):
    """What networks with a prompt share.

    Args:
        network: of diffusers.
        prompt: its embeddings, one for all pictures.
        pixels: side in pixels of one position of the latent.
    """

    latent_multiple: int

    def __init__(self, network: Any, prompt: PromptEmbeddings, pixels: int):
        self.network, self.prompt, self.pixels = network, prompt, pixels

    @abstractmethod
    def __call__(self, latent: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Predict for latents (B, C, h, w) at times (B,)."""

    def words(self, latent: torch.Tensor) -> torch.Tensor:
        """Return the embeddings (B, L, D) for latents (B, ...)."""
        return self.prompt.prompt_embeds.to(latent).expand(len(latent), -1, -1)

    def pooled(self, latent: torch.Tensor) -> torch.Tensor:
        """Return the pooled embeddings (B, P)."""
        assert self.prompt.pooled_prompt_embeds is not None  # looked at by `as_called`
        return self.prompt.pooled_prompt_embeds.to(latent).expand(len(latent), -1)


class PromptedUNet(Prompted):
    """A `UNet2DConditionModel`: Stable Diffusion 1.x, 2.x and XL, and what was distilled from them."""

    def __init__(self, network: Any, prompt: PromptEmbeddings, pixels: int):
        super().__init__(network, prompt, pixels)
        self.latent_multiple = 2 ** (len(network.config.block_out_channels) - 1)

    def __call__(self, latent: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Predict for latents (B, C, h, w) at times (B,)."""
        config, more = self.network.config, {}
        if config.addition_embed_type == "text_time":
            size = [side * self.pixels for side in latent.shape[2:]]
            ids = torch.tensor([*size, 0, 0, *size], dtype=latent.dtype, device=latent.device)
            more["added_cond_kwargs"] = {"text_embeds": self.pooled(latent), "time_ids": ids.expand(len(latent), -1)}
        if config.time_cond_proj_dim is not None:
            # Of a consistency model that was told the guidance of its teacher: the embedding of guidance scale 1, w = 0, sines then cosines.
            half = config.time_cond_proj_dim // 2
            zero = torch.cat([latent.new_zeros(half), latent.new_ones(half), latent.new_zeros(config.time_cond_proj_dim % 2)])
            more["timestep_cond"] = zero.expand(len(latent), -1)
        return self.network(latent, time, encoder_hidden_states=self.words(latent), **more).sample


class SD3Transformer(Prompted):
    """A `SD3Transformer2DModel`."""

    def __init__(self, network: Any, prompt: PromptEmbeddings, pixels: int):
        super().__init__(network, prompt, pixels)
        self.latent_multiple = network.config.patch_size

    def __call__(self, latent: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Predict for latents (B, C, h, w) at times (B,), in thousandths."""
        words, pooled = self.words(latent), self.pooled(latent)
        return self.network(hidden_states=latent, timestep=time, encoder_hidden_states=words, pooled_projections=pooled).sample


class FluxTransformer(Prompted):
    """A `FluxTransformer2DModel`, which works on a sequence of patches of two by two positions."""

    latent_multiple = 2

    def __call__(self, latent: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Predict for latents (B, C, h, w) at times (B,), in thousandths."""
        words, patches = self.words(latent), F.pixel_unshuffle(latent, 2)
        rows, columns = (torch.arange(side, device=latent.device) for side in patches.shape[2:])
        places = torch.cartesian_prod(torch.zeros_like(rows[:1]), rows, columns).view(-1, 3)
        guidance = latent.new_ones(len(latent)) if self.network.config.guidance_embeds else None
        found = self.network(
            hidden_states=patches.flatten(2).transpose(1, 2),
            timestep=(time / 1000).to(latent.dtype),
            guidance=guidance,
            pooled_projections=self.pooled(latent),
            encoder_hidden_states=words,
            txt_ids=latent.new_zeros(words.shape[1], 3),
            img_ids=places.to(latent.dtype),
        ).sample
        return F.pixel_shuffle(found.transpose(1, 2).unflatten(2, patches.shape[2:]), 2)


def as_called(network: Any, prompt: PromptEmbeddings | None, pixels: int) -> Unconditional | Prompted:
    """Return a network of diffusers, called in the one way that priors call.

    Args:
        network: one of the classes of this module.
        prompt: embeddings, of a network that takes them.
        pixels: side in pixels of one position of its latent.

    Raises:
        FlashdiffError: it needs a prompt's embeddings and there are none, or they are not what it takes.
    """
    names = [cls.__name__ for cls in type(network).__mro__]
    if "UNet2DModel" in names:
        return Unconditional(network)
    name = next((name for name in names if name in CALLS), None)
    if name is None:
        raise FlashdiffError(f"network {names[0]} is not supported; known are {', '.join(['UNet2DModel', *CALLS])}")
    if prompt is None:
        raise FlashdiffError(f"{name} takes a prompt; give its embeddings as `prompt` (see flashdiff_cli.prompt)")
    _check_prompt(network.config, prompt, name == "UNet2DConditionModel")
    return CALLS[name](network, prompt, pixels)


def _check_prompt(config: Any, prompt: PromptEmbeddings, is_unet: bool) -> None:
    """Raise a FlashdiffError if a network cannot take a prompt's embeddings."""
    if config.get("addition_embed_type") == "text_time":
        told = prompt.pooled_width + TIME_IDS * config.addition_time_embed_dim
        if told != config.projection_class_embeddings_input_dim:
            raise FlashdiffError(
                f"a network that is told {config.projection_class_embeddings_input_dim} numbers of a picture and its prompt, not the {told} of "
                "Stable Diffusion XL, is not supported; if it is a refiner, use the base model"
            )
    elif not is_unet and prompt.pooled_width != config.pooled_projection_dim:
        raise FlashdiffError(f"pooled embeddings of {prompt.pooled_width} numbers do not fit a network that takes {config.pooled_projection_dim}")
    width = config.cross_attention_dim if is_unet else config.joint_attention_dim
    if prompt.width != width:
        raise FlashdiffError(f"embeddings {prompt.width} numbers wide do not fit a network that takes {width}")


CALLS: dict[str, type[Prompted]] = {
    "UNet2DConditionModel": PromptedUNet,
    "SD3Transformer2DModel": SD3Transformer,
    "FluxTransformer2DModel": FluxTransformer,
}
"""By the name of a network's class in diffusers, of which only those are imported that a model has."""
