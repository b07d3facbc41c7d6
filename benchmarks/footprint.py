"""What restoring with networks of a given size takes: counted on torch's meta device, where tensors have shapes but no memory.

A guided step runs network and decoder forwards and, for the gradient, backwards to the latent. Memory is the weights and what the forward pass
keeps for that; time is the multiplications of both passes over what a card does of them in a second.

Run: python benchmarks/footprint.py
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from flashdiff_cli.first_stage import FirstStage
from flashdiff_cli.priors.networks import as_called
from flashdiff_cli.prompt import PromptEmbeddings

SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}
"""Stable Diffusion 1.5's UNet differs from the class's defaults by these."""
SD15_VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
CARDS = {"12 GB": 20e12, "24 GB": 70e12, "80 GB": 150e12}
"""Multiply-adds a second, twice counted, that cards with such memory sustain in bfloat16: 40 to 50 % of what an RTX 3060, an RTX 4090 and an
A100 are sold with."""


def sd15() -> tuple[torch.nn.Module, FirstStage, PromptEmbeddings]:
    """Network, first stage and prompt of Stable Diffusion 1.5, without memory."""
    with torch.device("meta"):
        return UNet2DConditionModel(**SD15), FirstStage(AutoencoderKL(**SD15_VAE)), PromptEmbeddings(77, 768)


def count(unet, stage, prompt, side: int, dtype: torch.dtype = torch.bfloat16, guided: bool = True) -> SimpleNamespace:
    """Count one step for a picture of `side` pixels.

    Args:
        unet, stage, prompt: on any device; on the meta device nothing is computed.
        side: of the picture, in pixels.
        dtype: of weights and activations.
        guided: whether the step's gradient is taken, or only the prediction made.

    Returns:
        `weights` and `kept`, in bytes, and `flops`.
    """
    for module in (unet, prompt, stage.model):
        torch.nn.Module.to(module, dtype).requires_grad_(False)
    device = next(unet.parameters()).device
    network = as_called(unet, prompt, stage.size_multiple)
    parameters = [*unet.parameters(), *stage.model.parameters()]
    own, kept = {p.untyped_storage()._cdata for p in parameters}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that no other one takes its place
        return tensor

    latent = torch.zeros(1, stage.channels, side // stage.size_multiple, side // stage.size_multiple, device=device, dtype=dtype)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(guided):
        latent.requires_grad_(guided)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            image = stage.decode(latent - network(latent, torch.zeros(1, dtype=torch.long, device=device)))
        if guided:
            image.sum().backward()
    weights = sum(p.numel() * p.element_size() for p in parameters)
    return SimpleNamespace(weights=weights, kept=sum(s.nbytes() for s in kept.values()), flops=counter.get_total_flops())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--steps", type=int, default=20, help="steps of a run from a matched start")
    arguments = parser.parse_args()
    print("| side | weights | kept for the gradient | TFLOP a step | " + " | ".join(f"{arguments.steps} steps on {card}" for card in CARDS) + " |")
    print("| --- " * (4 + len(CARDS)) + "|")
    for side in arguments.sides:
        found = count(*sd15(), side)
        need = 1.2 * (found.weights + found.kept)  # gradients of the moment, and workspace
        times = []
        for card, speed in CARDS.items():
            fits = need < float(card.split()[0]) * 1e9
            times.append(f"{arguments.steps * found.flops / speed:.1f} s" if fits else "does not fit: tiles")
        figures = [f"{found.weights / 1e9:.1f} GB", f"{found.kept / 1e9:.1f} GB", f"{found.flops / 1e12:.1f}"]
        print(f"| {side} | " + " | ".join([*figures, *times]) + " |", flush=True)


if __name__ == "__main__":
    main()
