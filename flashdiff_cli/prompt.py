"""Embeddings of a prompt, computed once and kept as a component of a model, so that its text encoders need not be loaded again.

The module path is part of every saved model; it must not move.
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn


class PromptEmbeddings(ModelMixin, ConfigMixin):
    """What a network is told of the wanted picture, the same for all pictures.

    Args:
        length, width: of `prompt_embeds` (1, length, width).
        pooled_width: of `pooled_prompt_embeds` (1, pooled_width); None: there are none.
        text: the prompt; "" is the unconditional one.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(self, length: int, width: int, pooled_width: int | None = None, text: str = ""):
        super().__init__()
        # Parameters, so that they have the type and go to the device of the model.
        self.prompt_embeds = nn.Parameter(torch.zeros(1, length, width), requires_grad=False)
        self.pooled_prompt_embeds = None if pooled_width is None else nn.Parameter(torch.zeros(1, pooled_width), requires_grad=False)

    @classmethod
    def of(cls, prompt_embeds: torch.Tensor, pooled_prompt_embeds: torch.Tensor | None = None, text: str = "") -> PromptEmbeddings:
        """Keep embeddings (1, L, D) and, where a model has them, pooled ones (1, P)."""
        pooled_width = None if pooled_prompt_embeds is None else pooled_prompt_embeds.shape[-1]
        made = cls(prompt_embeds.shape[1], prompt_embeds.shape[2], pooled_width, text)
        made.prompt_embeds.data.copy_(prompt_embeds.detach())
        if made.pooled_prompt_embeds is not None and pooled_prompt_embeds is not None:
            made.pooled_prompt_embeds.data.copy_(pooled_prompt_embeds.detach())
        return made.eval()

    @property
    def pooled_width(self) -> int:
        """Numbers of the pooled embeddings; 0 where there are none."""
        return 0 if self.pooled_prompt_embeds is None else self.pooled_prompt_embeds.shape[-1]

    @property
    def width(self) -> int:
        """Numbers of the embedding of one word."""
        return self.prompt_embeds.shape[-1]
