"""A whole model with random weights, small enough for a unit test."""

from pathlib import Path

import torch
from diffusers import AutoencoderDC, AutoencoderKL, DDIMScheduler, UNet2DModel, VQModel

from flashdiff_cli.first_stage import FirstStage
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.severity import SeverityEncoder

KL = {
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [8, 8, 16],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
}


def tiny_first_stage(kind: str = "dc") -> torch.nn.Module:
    """An autoencoder of factor 4 with four latent channels."""
    if kind == "kl":
        return AutoencoderKL(**KL, scaling_factor=0.7).eval()
    if kind == "vq":
        return VQModel(**KL, num_vq_embeddings=32, scaling_factor=1.3).eval()
    shape = {"block_types": "ResBlock", "block_out_channels": [8, 16, 32], "layers_per_block": [0, 1, 1]}
    parts = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in shape.items()}
    scales = {"encoder_qkv_multiscales": [[], [], []], "decoder_qkv_multiscales": [[], [], []]}
    return AutoencoderDC(**parts, **scales, latent_channels=4, encoder_out_shortcut=False, decoder_in_shortcut=False).eval()


def tiny_pipeline(kind: str = "dc", seed: int = 0, defaults: dict | None = None) -> FlashDiffusionPipeline:
    """All components, random weights fixed by `seed`; its size_multiple is 8."""
    torch.manual_seed(seed)
    first_stage = tiny_first_stage(kind)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=[8, 16],
        down_block_types=["DownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "UpBlock2D"],
        layers_per_block=1,
        norm_num_groups=4,
        add_attention=False,
    ).eval()
    scheduler = DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False)
    severity = SeverityEncoder.from_first_stage(FirstStage(first_stage)).eval()
    return FlashDiffusionPipeline(first_stage, unet, scheduler, severity, defaults=defaults)


def save_tiny_model(folder: Path, **kwargs) -> Path:
    """Write a tiny model in the diffusers layout and return its folder."""
    tiny_pipeline(**kwargs).save_pretrained(folder, safe_serialization=True)
    return Path(folder)
