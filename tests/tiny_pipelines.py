"""Tiny pipelines of diffusers with random weights, saved by diffusers' own `save_pretrained`: what a Hub holds, in small."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LDMPipeline,
    PNDMScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from tiny import KL

SD = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "cross_attention_dim": 16,
}
TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
WORDS, WIDTH, POOLED = 77, 16, 8


def text_parts(folder: Path, number: str = "", pooled: bool = False) -> dict:
    """A text encoder and its tokenizer; the vocabulary is single letters."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    letters = [chr(c) for c in range(97, 123)]
    tokens = [*letters, *(f"{c}</w>" for c in letters), "ab", "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=WORDS)
    end = len(tokens) - 1
    sizes = {"hidden_size": WIDTH // (2 if pooled else 1), "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = CLIPTextConfig(vocab_size=len(tokens), bos_token_id=end - 1, eos_token_id=end, projection_dim=POOLED, **sizes)
    encoder = (CLIPTextModelWithProjection if pooled else CLIPTextModel)(config).eval()
    return {f"text_encoder{number}": encoder, f"tokenizer{number}": tokenizer}


def ldm(kind: str = "vq") -> LDMPipeline:
    stage = VQModel(**KL, num_vq_embeddings=32, scaling_factor=1.3) if kind == "vq" else AutoencoderKL(**KL, scaling_factor=0.7)
    plain = {k: v for k, v in SD.items() if k not in ("cross_attention_dim", "attention_head_dim")}
    unet = UNet2DModel(**plain | {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}, add_attention=False)
    return LDMPipeline(vqvae=stage, unet=unet, scheduler=DDIMScheduler(**TABLE, set_alpha_to_one=False))


def stable_diffusion(folder: Path, prediction: str = "epsilon", **more):
    from diffusers import StableDiffusionPipeline

    scheduler = PNDMScheduler(**TABLE, skip_prk_steps=True, set_alpha_to_one=False)
    if prediction != "epsilon":
        scheduler = DDIMScheduler(**TABLE, prediction_type=prediction, set_alpha_to_one=False)
    parts = {"vae": AutoencoderKL(**KL), "unet": UNet2DConditionModel(**SD | more), "scheduler": scheduler} | text_parts(folder / "tokens")
    return StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def stable_diffusion_xl(folder: Path):
    from diffusers import StableDiffusionXLPipeline

    extra = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 6 * 4 + POOLED}
    unet = UNet2DConditionModel(**SD | extra | {"cross_attention_dim": WIDTH // 2 * 2})
    parts = text_parts(folder / "one", pooled=True) | text_parts(folder / "two", "_2", pooled=True)
    # The first encoder of the real one has no projection of its own.
    from transformers import CLIPTextModel

    parts["text_encoder"] = CLIPTextModel(parts["text_encoder"].config).eval()
    vae = AutoencoderKL(**KL, latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[0.9, 1.1, 1.3, 0.7])
    return StableDiffusionXLPipeline(vae=vae, unet=unet, scheduler=EulerDiscreteScheduler(**TABLE), **parts)


def stable_diffusion_3(folder: Path):
    from diffusers import StableDiffusion3Pipeline

    vae = AutoencoderKL(**KL, scaling_factor=1.5, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False)
    network = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=2 * POOLED,
        pos_embed_max_size=16,
    )
    parts = text_parts(folder / "one", pooled=True) | text_parts(folder / "two", "_2", pooled=True)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return StableDiffusion3Pipeline(transformer=network, vae=vae, scheduler=scheduler, **parts, text_encoder_3=None, tokenizer_3=None)


def t5_parts(width: int = 32) -> dict:
    """A T5 encoder and its tokenizer, also of single letters."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("\u2581", -2.0), *((chr(c), -3.0) for c in range(97, 123))]
    config = T5Config(vocab_size=len(vocabulary), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return {"text_encoder_2": T5EncoderModel(config).eval(), "tokenizer_2": T5Tokenizer(vocab=vocabulary, extra_ids=0)}


def flux(folder: Path):
    from diffusers import FluxPipeline, FluxTransformer2DModel

    vae = AutoencoderKL(**KL, scaling_factor=0.36, shift_factor=0.12, use_quant_conv=False, use_post_quant_conv=False)
    network = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    )
    parts = text_parts(folder / "one") | t5_parts()
    return FluxPipeline(transformer=network, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), **parts)


MADE = {
    "ldm": lambda folder: ldm(),
    "ldm-kl": lambda folder: ldm("kl"),
    "sd1": stable_diffusion,
    "sd2-v": lambda folder: stable_diffusion(folder, "v_prediction"),
    "lcm": lambda folder: stable_diffusion(folder, time_cond_proj_dim=8),
    "sdxl": stable_diffusion_xl,
    "sd3": stable_diffusion_3,
    "flux": flux,
}
"""By name: makes a pipeline, given a folder for what its tokenizers are made of."""


def save_pipeline(name: str, folder: Path) -> Path:
    """Write a tiny pipeline of a kind and return its folder."""
    torch.manual_seed(0)
    MADE[name](folder.parent / f"{folder.name}-parts").save_pretrained(folder, safe_serialization=True)
    return folder
