"""What a restored image still owes to its measurement: data consistency in pixels, of which only what stands out of the noise is taken.

The first stage loses detail, and a solver's guidance stops short of the measurement. Around a restored image x the data term has an
exact solution (`Operator.proximal`), whose difference d from x holds the missing detail and, everywhere, noise that the solution let
through. Detail is sparse in cosines and noise is not (transform-domain shrinkage, as in the two stages of BM3D, Dabov et al. 2007): in
overlapping blocks of d, each cosine is kept where it is well above the noise of its own frequency, and then weighed against it. How much
noise each frequency has is not assumed: white noise of the measurement's level is sent through the same solution. In smooth skin
nothing is left of d; along a fence or a strand of hair nearly all of it.

And what a restored image must not do: end up further from the truth than its measurement was. A severity encoder's estimate m is
close to the posterior mean E[x | y], so the error x - m is uncorrelated with whatever is computed from y, and with draws of a sampler:

    E|y - x|^2 = |y - m|^2 + V,    E|m + w (x' - m) - x|^2 = w^2 |x' - m|^2 + V

with the same unknown V. The restored image is no worse than its measurement where w |x' - m| <= |y - m|, and `limit_deviation` holds it
to a share of that. Most images pass untouched (w = 1); what is drawn in is detail that a sampler made up in excess.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from flashdiff_cli.broadcast import select, shaped
from flashdiff_cli.cosines import cosine_basis
from flashdiff_cli.operators import Identity, Jpeg, Operator
from flashdiff_cli.operators.estimate import common_noise
from flashdiff_cli.operators.padding import Margins, pad

BLOCK, STRIDE = 8, 2
"""Side of the blocks that are looked at, and their distance, in pixels."""

TRUSTED, LEAST = 12.0, 1.5
"""Variance of the error that the data term is solved for, as a multiple of the mean that the residual shows, since errors gather in detail; and
at the least of the noise variance. Chosen with the two below on training pictures under blur, shake and noise."""

STANDS_OUT, WEIGHED = 2.7, 0.7
"""Of the noise's standard deviation a cosine must have to be kept at first; and of its variance that the second stage weighs against."""

GROUND = 17
"""Pixels along a side over which a noisy picture is averaged before its own detail is looked for."""

SHARPENED = (3.3, 1.0)
"""The same two where the solution sharpens: noise that is read too low is amplified there, and shows as lumps."""

COMPRESSED = 3.0
"""As STANDS_OUT, for what rounding in a JPEG adds."""

MARGIN = 0.7
"""Of |y - m|^2 that |x' - m|^2 may reach: below 1 because m is not quite the posterior mean."""

COLOURS = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
"""Grey and two differences, not yet of length 1: noise is as strong in each as in the channels, detail mostly in the first."""


def _mean(x: torch.Tensor) -> torch.Tensor:
    """Return (B,) means over all but the samples."""
    return x.flatten(1).mean(1)


def mean_gain(operator: Operator, like: torch.Tensor) -> torch.Tensor:
    """Return the mean square gain (B,) of a linear operator: what white noise of variance 1 becomes, for images shaped as `like`."""
    return _mean(operator.forward(_white(like)).square())


def _white(like: torch.Tensor, common: torch.Tensor | None = None) -> torch.Tensor:
    """Return standard normal noise, the same at every call and for every sample; a share `common` (B,) of it alike in all channels."""
    noise = torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(0)).to(like).expand_as(like)
    if common is None:
        return noise
    return shaped(common.sqrt(), like) * noise[:, :1].flip(-1) + shaped((1 - common).sqrt(), like) * noise


def data_consistency(image: torch.Tensor, measurement: torch.Tensor, operator: Operator, noise_std: torch.Tensor) -> torch.Tensor:
    """Return the image with the detail that its measurement shows beyond the noise.

    Args:
        image: (B, 3, H, W) in [-1, 1].
        measurement: y, in [-1, 1] units.
        operator: A; for JPEG the image is also brought to what compresses to y; another that is not linear changes nothing.
        noise_std: (B,) on intensities in [0, 1].

    Returns:
        (B, 3, H, W) in [-1, 1].
    """
    y = measurement.to(image)
    if isinstance(operator, Jpeg):
        # What compression does to this very image is a sample of what it did to the picture.
        rounding = operator.on_signed(image) - image
        found = image + shrink(y - image, rounding, COMPRESSED, 0.0)
        return 2 * operator.project((found.clamp(-1, 1) + 1) / 2, (y + 1) / 2).clamp(0, 1) - 1
    if not operator.linear:
        return image
    noise = (2 * noise_std).square().to(image).expand(len(image))
    found = _with_detail(image, y, operator, noise)
    if isinstance(operator, Identity):
        # A picture that is only noisy tells of itself as well as a network does; two estimates that err apart err less together.
        found = (found + _with_detail(_ground(y), y, operator, noise)) / 2
    return found.clamp(-1, 1)


def _ground(y: torch.Tensor) -> torch.Tensor:
    """Return means around each pixel, of a measurement (B, 3, H, W): an estimate that knows no detail."""
    side = GROUND // 2
    return F.avg_pool2d(pad(y, Margins.all(side)), GROUND, 1)


def _with_detail(image: torch.Tensor, y: torch.Tensor, operator: Operator, noise: torch.Tensor) -> torch.Tensor:
    """Return images with what stands out of the difference that the data term asks for; `noise` is its variance (B,)."""
    shown = (_mean((y - operator.on_signed(image)).square()) - noise).clamp(min=0) / mean_gain(operator, image).clamp(min=1e-8)
    error = torch.maximum(TRUSTED * shown, LEAST * noise)
    difference = operator.proximal(image, y, noise, error) - image
    black = torch.zeros_like(image)
    seen = operator.on_signed(black)
    passed = operator.proximal(black, seen + shaped(noise.sqrt(), seen) * _white(seen, common_noise(y)), noise, error)
    sharpened = operator.hides_detail().expand(len(image))
    limits = (shaped(torch.where(sharpened, high, low), image) for high, low in zip(SHARPENED, (STANDS_OUT, WEIGHED), strict=True))
    return image + shrink(difference, passed, *limits)


def shrink(difference: torch.Tensor, noise: torch.Tensor, stands_out: float | torch.Tensor, weighed: float | torch.Tensor) -> torch.Tensor:
    """Keep of a difference what stands out of the noise in its cosines.

    Args:
        difference: d, (B, 3, H, W).
        noise: a sample of what d would be without detail, of the same shape.
        stands_out: standard deviations of the noise of its frequency that a cosine must have; a number or (B, 1, 1, 1), as `weighed`.
        weighed: share of the noise variance that the second stage weighs a cosine against, by the power that the first has left; 0: none.

    Returns:
        (B, 3, H, W).
    """
    rotation = torch.tensor(COLOURS, device=difference.device)
    rotation = (rotation / rotation.norm(dim=1, keepdim=True)).to(difference)
    planes, noises = (torch.einsum("ij,bjhw->bihw", rotation, part) for part in (difference, noise))
    kept = [_shrink_plane(*pair, stands_out, weighed) for pair in zip(planes.split(1, 1), noises.split(1, 1), strict=True)]
    return torch.einsum("ij,bihw->bjhw", rotation, torch.cat(kept, 1))


def _shrink_plane(plane: torch.Tensor, noise: torch.Tensor, stands_out: float | torch.Tensor, weighed: float | torch.Tensor) -> torch.Tensor:
    """Return `shrink` of one plane (B, 1, H, W)."""
    basis = cosine_basis(BLOCK).to(plane)
    cosines = _cosines(plane, basis)
    power = _cosines(noise, basis).square().mean((2, 3), keepdim=True)
    found = _image(torch.where(cosines.square() > stands_out**2 * power, cosines, 0.0), basis, plane.shape)
    if isinstance(weighed, float) and not weighed:
        return found
    left = _cosines(found, basis).square()
    return _image(cosines * left / (left + weighed * power).clamp(min=1e-20), basis, plane.shape)


def _cosines(plane: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Return the cosines of the blocks of a plane (B, 1, H, W) with mirrored borders: (B, 64, h, w)."""
    return F.conv2d(pad(plane, _margins(plane.shape)), basis, stride=STRIDE)


def _image(cosines: torch.Tensor, basis: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return the mean of overlapping blocks, (B, 1, H, W)."""
    margins = _margins(shape)
    total = F.conv_transpose2d(cosines, basis, stride=STRIDE)
    count = F.conv_transpose2d(torch.ones_like(cosines[:1, :1]), torch.ones_like(basis[:1]), stride=STRIDE)
    return (total / count)[..., margins.top : margins.top + shape[2], margins.left : margins.left + shape[3]]


def _margins(shape: torch.Size) -> Margins:
    """Return borders that every pixel's blocks fit in."""
    odd = (-shape[2] % STRIDE, -shape[3] % STRIDE)
    return Margins(BLOCK, BLOCK + odd[0], BLOCK, BLOCK + odd[1])


REACH = 7
"""Of `residual_correlation`, in pixels."""


def limit_deviation(image: torch.Tensor, mean: torch.Tensor, measurement: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw restored images towards the estimate where they would be further from the truth than their measurement.

    Args:
        image: x', (B, 3, H, W) in [-1, 1].
        mean: m, the severity encoder's estimate, decoded and corrected as x' was.
        measurement: y at the image's size, in [-1, 1] units.

    Returns:
        (B, 3, H, W), and the share w (B,) of the difference x' - m that was kept, 1 where nothing was changed.
    """
    allowed = MARGIN * _mean((measurement.to(image) - mean).square())
    taken = _mean((image - mean).square()).clamp(min=1e-12)
    share = (allowed / taken).sqrt().clamp(max=1)
    return select(share < 1, mean + shaped(share, image) * (image - mean), image), share.cpu()


def residual_correlation(operator: Operator, image: torch.Tensor, measurement: torch.Tensor) -> torch.Tensor:
    """Return how much structure a restoration leaves unexplained, (B,): 1 / sqrt(pixels) for white noise, more for what has edges.

    The root mean square of the residual's autocorrelation at distances of up to REACH pixels, mean over the channels.

    Args:
        operator: linear.
        image: (B, 3, H, W) in [-1, 1].
        measurement: in [-1, 1] units.
    """
    residual = operator.on_signed(image) - measurement.to(image)
    residual = residual - residual.mean((-2, -1), keepdim=True)
    power = torch.fft.rfft2(residual).abs().square()
    correlation = torch.fft.irfft2(power, s=residual.shape[-2:]).mean(1)
    correlation = correlation / correlation[:, :1, :1].clamp(min=1e-12)
    near = torch.cat([correlation[:, : REACH + 1, : REACH + 1].flatten(1)[:, 1:], correlation[:, -REACH:, : REACH + 1].flatten(1)], 1)
    return near.square().mean(1).sqrt()
