"""A first stage that starts from the best linear code instead of from random weights.

Blocks of `factor` x `factor` pixels have a principal component basis that already keeps most of a photograph. An
AutoencoderDC can hold that linear encoder and its transpose exactly (up to its last normalisation) while every
residual block starts as the identity, so training starts where random weights arrive after an hour. The gains of the
components are chosen so that the error that an estimate from a blurred, noisy picture makes is nearly isotropic: the
method models it with one variance (paper section 3.1), and this is where that is decided.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC

from flashdiff_cli.errors import UsageError

CARRIED = 12
"""Values of a 2 x 2 RGB block, the content of one half-resolution position."""


def blocks(images: torch.Tensor, factor: int = 4) -> torch.Tensor:
    """Unshuffle (B, 3, H, W) to (B, 3 * factor**2, H / factor, W / factor), ordered as two nested pixel_unshuffle by 2."""
    for _ in range(factor.bit_length() - 1):
        images = F.pixel_unshuffle(images, 2)
    return images


def block_basis(images: torch.Tensor, channels: int, factor: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the principal components of the blocks of `images`.

    Returns:
        mean (D,), basis (D, channels) with orthonormal columns, variances (channels,), for D = 3 * factor**2.
    """
    flat = blocks(images, factor).movedim(1, -1).flatten(0, -2).double()
    mean = flat.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((flat - mean).T))
    return mean.float(), vectors.flip(1)[:, :channels].float(), values.flip(0)[:channels].float()


def estimation_error(clean: torch.Tensor, degraded: torch.Tensor, reach: int = 2) -> torch.Tensor:
    """Return the variance of the best linear estimate's error of each code channel.

    Args:
        clean: (B, C, h, w) codes of clean images.
        degraded: (B, C', h, w) codes of their measurements, from which they are estimated over a window of
            2 * reach + 1 positions.

    Returns:
        (C,) error variances.
    """
    window = 2 * reach + 1
    x = F.unfold(degraded, window).transpose(1, 2).flatten(0, 1).double()
    y = clean[..., reach:-reach, reach:-reach].flatten(2).transpose(1, 2).flatten(0, 1).double()
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    gram = x.T @ x + 1e-5 * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    return ((y - x @ torch.linalg.solve(gram, x.T @ y)) ** 2).mean(0).float()


def code_gains(error: torch.Tensor, variance: torch.Tensor, whitening: float) -> torch.Tensor:
    """Return the gain of each component: `whitening` 0 makes the error isotropic, larger values also even out the variances.

    Scaled so that the code's mean square is one.
    """
    gains = (error * variance**whitening) ** -0.5
    return gains / (gains**2 * variance).mean().sqrt()


@torch.no_grad()
def start_linearly(model: AutoencoderDC, mean: torch.Tensor, encode: torch.Tensor, decode: torch.Tensor) -> None:
    """Set an AutoencoderDC to the linear code z = encode^T (blocks - mean), x = decode z + mean.

    Args:
        model: three levels, no layers at full size, no outer shortcuts (`encoder_out_shortcut=False`,
            `decoder_in_shortcut=False`); at least 64 channels at half and 96 at quarter size, the latter at most twice the former and a
            divisor of four times it, since the blocks' own shortcuts average or repeat whole groups of channels.
        mean, encode, decode: (48,), (48, C), (48, C).

    Raises:
        UsageError: the model does not have that shape.
    """
    network: Any = model
    c = network.config
    widths = (c.encoder_block_out_channels, c.decoder_block_out_channels)
    fits = (
        all(len(width) == 3 and width[1] >= 64 and 96 <= width[2] <= 2 * width[1] and 4 * width[1] % width[2] == 0 for width in widths)
        and c.encoder_layers_per_block[0] == c.decoder_layers_per_block[0] == 0
        and not c.encoder_out_shortcut
        and not c.decoder_in_shortcut
    )
    if not fits:
        raise UsageError(
            "the recipe's autoencoder must have three levels, no layers at full size, at least 64 and 96 channels at the "
            "second and the third, the third at most twice the second and a divisor of four times it (64 and 128, 96 and 192), "
            "and no outer shortcuts: training starts from a linear code"
        )
    for module in network.modules():
        if type(module).__name__ == "ResBlock":
            module.norm.weight.zero_()
            module.norm.bias.zero_()
    _start_encoder(network.encoder, mean, encode)
    _start_decoder(network.decoder, mean, decode)


def _centre(conv: torch.nn.Conv2d, rows, columns, weights: torch.Tensor) -> None:
    """Write `weights` (len(rows), len(columns)) into the centre tap and clear whatever else reaches these rows."""
    conv.weight[rows] = 0
    if conv.bias is not None:
        conv.bias[rows] = 0
    conv.weight[rows.unsqueeze(1), columns.unsqueeze(0), 1, 1] = weights


def _start_encoder(encoder, mean: torch.Tensor, encode: torch.Tensor) -> None:
    # The shortcut of a down block averages neighbouring channels into the first 2 * CARRIED outputs; the carried
    # values are put behind them.
    _centre(encoder.conv_in.conv, torch.arange(3), torch.arange(3), torch.eye(3))
    down = encoder.down_blocks[1][-1]
    # The next rows would reach the same outputs through that shortcut: they start at zero.
    others = torch.arange(3, min(len(encoder.conv_in.conv.weight), math.ceil(6 * CARRIED * down.group_size / 16)))
    _centre(encoder.conv_in.conv, others, torch.arange(0), torch.zeros(len(others), 0))
    first = 2 * CARRIED // 4
    _centre(down.conv, first + torch.arange(CARRIED), torch.arange(CARRIED), torch.eye(CARRIED))
    carried = 4 * first + torch.arange(4 * CARRIED)
    encoder.conv_out.weight.mul_(0.1)
    encoder.conv_out.bias.zero_()
    _centre(encoder.conv_out, torch.arange(encode.shape[1]), carried, encode.T)
    encoder.conv_out.bias.copy_(-(encode.T @ mean))


def _start_decoder(decoder, mean: torch.Tensor, decode: torch.Tensor) -> None:
    _centre(decoder.conv_in, torch.arange(4 * CARRIED), torch.arange(decode.shape[1]), decode)
    decoder.conv_in.bias[: 4 * CARRIED] = mean
    # All other channels start at zero: the shortcut of the up block would add them to the carried ones.
    rest = torch.arange(4 * CARRIED, decoder.conv_in.weight.shape[0])
    _centre(decoder.conv_in, rest, torch.arange(0), torch.zeros(len(rest), 0))
    up = decoder.up_blocks[1][0]
    # 48 carried inputs spread over `48 * repeats / 4` outputs through the up block's shortcut: go behind those.
    first = 4 * CARRIED * up.repeats // 4
    _centre(up.conv, 4 * first + torch.arange(4 * CARRIED), torch.arange(4 * CARRIED), torch.eye(4 * CARRIED))
    carried = first + torch.arange(CARRIED)
    # The last RMSNorm divides by the norm of all channels; a large constant channel makes that divisor constant,
    # and a bias keeps the carried values on the linear side of the ReLU.
    width, constant, shift = decoder.norm_out.weight.numel(), 16.0, 1.5
    last = width - 1
    _centre(up.conv, 4 * last + torch.arange(4), torch.arange(0), torch.zeros(4, 0))
    up.conv.bias[4 * last + torch.arange(4)] = constant
    divisor = ((constant**2 + CARRIED * 0.3) / width) ** 0.5
    decoder.norm_out.weight[carried] = divisor
    decoder.norm_out.bias[carried] = shift
    out = decoder.conv_out.conv
    out.weight.mul_(0.1)
    _centre(out, torch.arange(CARRIED), carried, torch.eye(CARRIED))
    out.bias.copy_(torch.full_like(out.bias, -shift))
