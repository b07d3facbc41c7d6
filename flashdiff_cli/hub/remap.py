"""Names of the original latent diffusion code's tensors, asked for by the names that diffusers gives them.

The mapping runs from the target to the source: a tensor that the file lacks is named as the file would name it, and
what no target asked for is left over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import torch

from flashdiff_cli.errors import FlashdiffError

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ATTENTION = {"group_norm": "norm", "to_out.0": "proj_out"}
WHOLE = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
}
QKV = re.compile(r"(.*)\.to_([qkv])")


def unet_name(layer: str, layers: int, attends: Callable[[str, int], bool]) -> str:
    """Return the original name of a UNet2DModel layer (a tensor's name without its `.weight` or `.bias`).

    `to_q`, `to_k` and `to_v` all give the fused `qkv`.

    Args:
        layer: e.g. `down_blocks.1.resnets.0.conv1`.
        layers: residual blocks in each level of the way down.
        attends: whether ("up", i), the i-th block of the way up, has attention.
    """
    if layer in WHOLE:
        return WHOLE[layer]
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", layer):
        kind, j, inner = found.groups()
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(j)}.{_inner(kind, inner)}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", layer)
    if found is None:
        raise KeyError(layer)
    side, b, kind, j, inner = found.groups()
    b, j = int(b), int(j)
    per_level = layers + 1
    if side == "down":
        if kind == "downsamplers":
            return f"input_blocks.{(b + 1) * per_level}.0.op"
        return f"input_blocks.{1 + b * per_level + j}.{int(kind == 'attentions')}.{_inner(kind, inner)}"
    if kind == "upsamplers":
        return f"output_blocks.{b * per_level + layers}.{2 if attends('up', b) else 1}.conv"
    return f"output_blocks.{b * per_level + j}.{int(kind == 'attentions')}.{_inner(kind, inner)}"


def _inner(kind: str, inner: str) -> str:
    if kind == "resnets":
        return RESNET[inner]
    return "qkv" if re.fullmatch(r"to_[qkv]", inner) else ATTENTION[inner]


VAE_RULES = (
    (r"(encoder|decoder)\.mid_block\.resnets\.(\d)", lambda m: f"{m[1]}.mid.block_{int(m[2]) + 1}"),
    (r"(encoder|decoder)\.mid_block\.attentions\.0", lambda m: f"{m[1]}.mid.attn_1"),
    (r"encoder\.down_blocks\.(\d+)\.resnets", lambda m: f"encoder.down.{m[1]}.block"),
    (r"encoder\.down_blocks\.(\d+)\.attentions", lambda m: f"encoder.down.{m[1]}.attn"),
    (r"encoder\.down_blocks\.(\d+)\.downsamplers\.0", lambda m: f"encoder.down.{m[1]}.downsample"),
    (r"(encoder|decoder)\.conv_norm_out", lambda m: f"{m[1]}.norm_out"),
    (r"\.conv_shortcut", lambda m: ".nin_shortcut"),
    (r"\.group_norm$", lambda m: ".norm"),
    (r"\.to_([qkv])$", lambda m: f".{m[1]}"),
    (r"\.to_out\.0$", lambda m: ".proj_out"),
)


def autoencoder_name(layer: str, levels: int) -> str:
    """Return the original name of a layer of AutoencoderKL, VQModel or the severity encoder.

    Args:
        layer: a tensor's name without its `.weight` or `.bias`.
        levels: resolutions of the decoder, which the original counts from the finest.
    """
    up = r"decoder\.up_blocks\.(\d+)\.(resnets|attentions|upsamplers\.0)"
    kinds = {"resnets": "block", "attentions": "attn", "upsamplers.0": "upsample"}
    layer = re.sub(up, lambda m: f"decoder.up.{levels - 1 - int(m[1])}.{kinds[m[2]]}", layer)
    for pattern, name in VAE_RULES:
        layer = re.sub(pattern, name, layer)
    return layer


class Source:
    """Tensors of a checkpoint, which remembers those that were asked for.

    Args:
        tensors: by name.
        where: the file, for errors.
    """

    def __init__(self, tensors: dict[str, torch.Tensor], where: str):
        self.tensors, self.where, self.used = tensors, where, set()

    def take(self, name: str) -> torch.Tensor:
        """Return a tensor, and count it as used.

        Raises:
            FlashdiffError: there is none of this name.
        """
        if name not in self.tensors:
            raise FlashdiffError(f"{self.where}: tensor {name} is missing; is this checkpoint complete, and of this configuration?")
        self.used.add(name)
        return self.tensors[name]

    def leave(self, pattern: str) -> list[str]:
        """Count names that match a pattern as used, and return them: what has no place in the target and need not have one."""
        found = [name for name in self.tensors if re.fullmatch(pattern, name)]
        self.used.update(found)
        return found

    def left(self) -> list[str]:
        return [name for name in self.tensors if name not in self.used]

    def check_left(self) -> None:
        """Check that every tensor has found its place.

        Raises:
            FlashdiffError: one was not used.
        """
        if extra := self.left():
            raise FlashdiffError(
                f"{self.where}: tensor {extra[0]} has no place in the model ({len(extra)} in all); is the configuration this file's?"
            )


def fill(
    model: torch.nn.Module,
    source: Source,
    name: Callable[[str], str],
    prefix: Callable[[str], str],
    heads: Callable[[int], int] = lambda channels: 1,
    interleaved: bool = True,
) -> None:
    """Give every tensor of a model its value from a checkpoint.

    Args:
        model: as diffusers builds it.
        source: the checkpoint.
        name: original name of a layer.
        prefix: from the name of an original tensor to its key in the file.
        heads: of an attention layer with this many channels, where q, k and v are fused.
        interleaved: each head has its q, k and v together; else all q come first.

    Raises:
        FlashdiffError: a tensor is missing or misshapen; the message names it as the file does.
    """
    with torch.no_grad():
        for key, value in _tensors(model):
            layer, _, kind = key.rpartition(".")
            original = f"{name(layer)}.{kind}"
            found = source.take(prefix(original))
            if (part := QKV.fullmatch(layer)) and original.endswith(f"qkv.{kind}"):
                found = _part(found, "qkv".index(part[2]), value, heads, interleaved, f"{source.where}: tensor {prefix(original)}")
            # Attention was written with 1x1 convolutions where diffusers has matrices.
            squeezed = found.reshape(found.shape[:2]) if found.ndim > value.ndim == 2 and found.shape[2:].numel() == 1 else found
            if squeezed.shape != value.shape:
                raise FlashdiffError(
                    f"{source.where}: tensor {prefix(original)} has the shape {tuple(found.shape)}, not {tuple(value.shape)}; "
                    "is the configuration this file's?"
                )
            value.copy_(squeezed)


def _tensors(model: torch.nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    return model.state_dict().items()


def _part(fused: torch.Tensor, index: int, value: torch.Tensor, heads, interleaved: bool, where: str) -> torch.Tensor:
    channels = value.shape[0]
    if fused.shape[0] != 3 * channels:
        raise FlashdiffError(f"{where} has the shape {tuple(fused.shape)}, not ({3 * channels}, ...); is the configuration this file's?")
    if not interleaved:
        return fused[index * channels : (index + 1) * channels]
    count = heads(channels)
    return fused.reshape(count, 3, channels // count, *fused.shape[1:])[:, index].reshape(channels, *fused.shape[1:])
