"""A small latent diffusion model as the original code saves it: names, fused attention and pickled training state.

The names are made from the original's side (walking its blocks in order), so that the converter, which asks for them from
the other side, meets an independent account.
"""

from pathlib import Path

import torch
import yaml
from diffusers import AutoencoderKL, UNet2DModel, VQModel

CH, MULT, BLOCKS, HEAD = 32, [1, 2], 2, 16
RES = (("in_layers.0", "norm1"), ("in_layers.2", "conv1"), ("emb_layers.1", "time_emb_proj"), ("out_layers.0", "norm2"), ("out_layers.3", "conv2"))


def config(kind: str, **unet) -> dict:
    dd = {"double_z": kind == "kl", "z_channels": 4, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2]}
    dd |= {"num_res_blocks": 1, "attn_resolutions": [8], "dropout": 0.0}
    stage = {"embed_dim": 4, "ddconfig": dd} | ({"n_embed": 16} if kind == "vq" else {})
    target = {"vq": "ldm.models.autoencoder.VQModelInterface", "kl": "ldm.models.autoencoder.AutoencoderKL"}[kind]
    shape = {"image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": CH, "attention_resolutions": [2]}
    shape |= {"num_res_blocks": BLOCKS, "channel_mult": MULT, "num_head_channels": HEAD} | unet
    params = {"linear_start": 0.0015, "linear_end": 0.0195, "timesteps": 1000, "cond_stage_config": "__is_unconditional__"}
    params |= {"unet_config": {"params": shape}, "first_stage_config": {"target": target, "params": stage}}
    return {"model": {"params": params}}


def networks(kind: str):
    """(UNet, autoencoder) with random weights, of the shape that `config` describes."""
    torch.manual_seed(3)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=[CH * m for m in MULT],
        layers_per_block=BLOCKS,
        down_block_types=["DownBlock2D", "AttnDownBlock2D"],
        up_block_types=["AttnUpBlock2D", "UpBlock2D"],
        attention_head_dim=HEAD,
    )
    shape = {
        "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
        "block_out_channels": [32, 64],
        "layers_per_block": 1,
        "latent_channels": 4,
        "scaling_factor": 1.0,
    }
    stage = AutoencoderKL(**shape) if kind == "kl" else VQModel(**shape, num_vq_embeddings=16, vq_embed_dim=4)
    for model in (unet, stage):
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.05)
    return unet.eval(), stage.eval()


def original_unet(unet: UNet2DModel, interleaved: bool = True) -> dict[str, torch.Tensor]:
    sd, out = unet.state_dict(), {}

    def layer(new: str, old: str) -> None:
        for kind in ("weight", "bias"):
            out[f"{new}.{kind}"] = sd[f"{old}.{kind}"]

    def res(new: str, old: str) -> None:
        for a, b in RES:
            layer(f"{new}.{a}", f"{old}.{b}")
        if f"{old}.conv_shortcut.weight" in sd:
            layer(f"{new}.skip_connection", f"{old}.conv_shortcut")

    def attention(new: str, old: str) -> None:
        layer(f"{new}.norm", f"{old}.group_norm")
        for kind in ("weight", "bias"):
            parts = [sd[f"{old}.to_{p}.{kind}"] for p in "qkv"]
            if interleaved:
                parts = [torch.stack([p.unflatten(0, (-1, HEAD)) for p in parts], 1).flatten(0, 2)]
            whole = torch.cat(parts)
            out[f"{new}.qkv.{kind}"] = whole[..., None] if kind == "weight" else whole
            proj = sd[f"{old}.to_out.0.{kind}"]
            out[f"{new}.proj_out.{kind}"] = proj[..., None] if kind == "weight" else proj

    layer("time_embed.0", "time_embedding.linear_1")
    layer("time_embed.2", "time_embedding.linear_2")
    layer("input_blocks.0.0", "conv_in")
    number, levels = 1, len(MULT)
    for level in range(levels):
        for j in range(BLOCKS):
            res(f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{j}")
            if level == 1:
                attention(f"input_blocks.{number}.1", f"down_blocks.{level}.attentions.{j}")
            number += 1
        if level < levels - 1:
            layer(f"input_blocks.{number}.0.op", f"down_blocks.{level}.downsamplers.0.conv")
            number += 1
    res("middle_block.0", "mid_block.resnets.0")
    attention("middle_block.1", "mid_block.attentions.0")
    res("middle_block.2", "mid_block.resnets.1")
    number = 0
    for step, level in enumerate(reversed(range(levels))):
        for j in range(BLOCKS + 1):
            res(f"output_blocks.{number}.0", f"up_blocks.{step}.resnets.{j}")
            if level == 1:
                attention(f"output_blocks.{number}.1", f"up_blocks.{step}.attentions.{j}")
            if level and j == BLOCKS:
                layer(f"output_blocks.{number}.{2 if level == 1 else 1}.conv", f"up_blocks.{step}.upsamplers.0.conv")
            number += 1
    layer("out.0", "conv_norm_out")
    layer("out.2", "conv_out")
    return out


def original_stage(stage) -> dict[str, torch.Tensor]:
    sd, out, taken = stage.state_dict(), {}, set()

    def layer(new: str, old: str) -> None:
        for kind in ("weight", "bias"):
            value = sd[f"{old}.{kind}"]
            out[f"{new}.{kind}"] = value[..., None, None] if value.ndim == 2 else value
            taken.add(f"{old}.{kind}")

    def res(new: str, old: str) -> None:
        for name in ("norm1", "conv1", "norm2", "conv2"):
            layer(f"{new}.{name}", f"{old}.{name}")
        if f"{old}.conv_shortcut.weight" in sd:
            layer(f"{new}.nin_shortcut", f"{old}.conv_shortcut")

    def attention(new: str, old: str) -> None:
        for a, b in (("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
            layer(f"{new}.{a}", f"{old}.{b}")

    for side, word, blocks in (("encoder", "down", 1), ("decoder", "up", 2)):
        layer(f"{side}.conv_in", f"{side}.conv_in")
        for i in range(2):
            # The decoder's levels are numbered from the finest in one code, from the coarsest in the other.
            place = f"{side}.{word}_blocks.{i if word == 'down' else 1 - i}"
            for j in range(blocks):
                res(f"{side}.{word}.{i}.block.{j}", f"{place}.resnets.{j}")
                if i == 1:
                    attention(f"{side}.{word}.{i}.attn.{j}", f"{place}.attentions.{j}")
            if i == (0 if word == "down" else 1):
                layer(f"{side}.{word}.{i}.{word}sample.conv", f"{place}.{word}samplers.0.conv")
        for j in (0, 1):
            res(f"{side}.mid.block_{j + 1}", f"{side}.mid_block.resnets.{j}")
        attention(f"{side}.mid.attn_1", f"{side}.mid_block.attentions.0")
        layer(f"{side}.norm_out", f"{side}.conv_norm_out")
        layer(f"{side}.conv_out", f"{side}.conv_out")
    layer("quant_conv", "quant_conv")
    layer("post_quant_conv", "post_quant_conv")
    if "quantize.embedding.weight" in sd:
        out["quantize.embedding.weight"] = sd["quantize.embedding.weight"]
        taken.add("quantize.embedding.weight")
    assert taken == set(sd)
    return out


def checkpoint(kind: str, interleaved: bool = True) -> dict[str, torch.Tensor]:
    """The original state dict; its raw UNet weights are the EMA ones plus 1."""
    unet, stage = networks(kind)
    names = original_unet(unet, interleaved)
    state = {f"model.diffusion_model.{k}": v + 1 for k, v in names.items()}
    state |= {"model_ema." + f"diffusion_model.{k}".replace(".", ""): v for k, v in names.items()}
    state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    state |= {f"first_stage_model.{k}": v for k, v in original_stage(stage).items()}
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2
    state |= {"betas": betas.float(), "alphas_cumprod": (1 - betas).cumprod(0).float(), "logvar": torch.zeros(1000)}
    return state


def write(folder: Path, kind: str, state: dict | None = None, settings: dict | None = None, **more) -> Path:
    """`model.ckpt` with `config.yaml` beside it; returns the checkpoint's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings or config(kind)))
    torch.save({"state_dict": checkpoint(kind) if state is None else state, "epoch": 3} | more, folder / "model.ckpt")
    return folder / "model.ckpt"


def severity_checkpoint(kind, whole=False):
    """A severity encoder's file as the paper's code writes it, and the tensors that it should become."""
    _, stage = networks(kind)
    state = {k: v for k, v in original_stage(stage).items() if k.startswith(("encoder.", "quant_conv."))}
    if kind == "vq":
        state |= {"std_conv.weight": torch.randn(4, 4, 1, 1), "std_conv.bias": torch.randn(4)}
    if whole:
        state = {f"encoder.{k}": v for k, v in state.items()} | {"pretrained_autoencoder.x.weight": torch.ones(1)}
    hyper = {
        "model_config": config(kind)["model"]["params"]["first_stage_config"],
        "operator_config": {"type": "gaussian_blur", "max_std": 3.0},
        "noise_config": {"sigma_min": 0.05, "sigma_max": 0.05},
    }
    return {"state_dict": state, "hyper_parameters": hyper}, stage
