"""How near an image is to the clean one: fidelity, structure, and perceptual measures that need no weights.

All take (B, 3, H, W) intensities in [0, 1] and give (B,). Settings are in docs/bench.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F

from flashdiff_cli.errors import UsageError

MEASURES = ("psnr", "ssim", "ms_ssim", "gmsd", "haarpsi", "gradient")
"""Always taken."""
EXTRA = ("lpips_vgg", "lpips_alex")
"""Taken where they are asked for and their weights can be had."""
FOLDER = ("fid", "kid")
"""Of all pictures of an arm together."""
LOWER_IS_BETTER = {"gmsd", "lpips_vgg", "lpips_alex", "fid", "kid"}

LUMA = (0.299, 0.587, 0.114)
CHROMA = ((0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
MS_SSIM_SCALES = 5
SSIM_WINDOW, SSIM_STD = 11, 1.5


def psnr(image: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Return the PSNR in decibels, range 1; infinite for equal images."""
    return -10 * (image - clean).square().mean((1, 2, 3)).log10()


def ssim(image: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Return the structural similarity (torchmetrics: Gaussian window of 11, standard deviation 1.5)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    found = structural_similarity_index_measure(image, clean, data_range=1.0, reduction="none")
    return cast(torch.Tensor, found).reshape(-1)  # no map is asked for


def ms_ssim_window(side: int) -> int | None:
    """Return the window of MS-SSIM for images of this shorter side: the usual 11 from 176 pixels on, below the largest odd one
    that fits the coarsest of five scales (7 at 128 pixels); None below 48 pixels, where none does."""
    window = min(SSIM_WINDOW, (side // 2 ** (MS_SSIM_SCALES - 1) - 1) // 2 * 2 + 1)
    return window if window >= 3 else None


def ms_ssim(image: torch.Tensor, clean: torch.Tensor) -> torch.Tensor | None:
    """Return the multi-scale structural similarity (torchmetrics, five scales); None where the images are too small for it."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    window = ms_ssim_window(min(image.shape[-2:]))
    if window is None:
        return None
    std = SSIM_STD * window / SSIM_WINDOW
    found = multiscale_structural_similarity_index_measure(
        image, clean, data_range=1.0, sigma=std, kernel_size=window, reduction="none", normalize="relu"
    )
    return found.reshape(-1)


def _planes(image: torch.Tensor) -> torch.Tensor:
    """Return Y, I and Q of (B, 3, H, W), averaged over blocks of 2 x 2, an odd side filled up with zeros."""
    weights = torch.tensor([LUMA, *CHROMA], dtype=image.dtype, device=image.device)
    planes = torch.einsum("ij,bjhw->bihw", weights, image)
    odd = max(side % 2 for side in image.shape[-2:])
    return F.avg_pool2d(F.pad(planes, (0, odd, 0, odd)), 2)


def _similarity(a: torch.Tensor, b: torch.Tensor, constant: float) -> torch.Tensor:
    return (2 * a * b + constant) / (a.square() + b.square() + constant)


def gmsd(image: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Return the gradient magnitude similarity deviation (Xue et al. 2014), 0 for equal images; lower is better.

    Prewitt gradients of the luma at half size; constant 170 on intensities up to 255.
    """
    prewitt = torch.tensor([[-1.0, 0.0, 1.0]] * 3, dtype=image.dtype, device=image.device) / 3
    kernels = torch.stack([prewitt, prewitt.T])[:, None]
    one, other = (F.conv2d(_planes(x)[:, :1], kernels, padding=1).square().sum(1).sqrt() for x in (image, clean))
    similarity = _similarity(one, other, 170 / 255**2)
    return similarity.flatten(1).std(1, correction=0)


def haarpsi(image: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Return the Haar wavelet-based perceptual similarity index (Reisenhofer et al. 2018), 1 for equal images.

    C = 30, alpha = 4.2, on intensities up to 255 at half size.
    """
    constant, alpha = 30.0, 4.2
    planes = [_planes(255 * x) for x in (image, clean)]
    coefficients = []
    for scale in (1, 2, 3):
        size = 2**scale
        kernel = torch.full((size, size), 1 / size, dtype=image.dtype, device=image.device)
        kernel[size // 2 :] *= -1
        kernels = torch.stack([kernel, kernel.T])[:, None]
        margins = (size // 2 - 1, size // 2) * 2
        coefficients.append([F.conv2d(F.pad(p[:, :1], margins), kernels).abs() for p in planes])
    # The coarsest scale weighs, the two finer ones are compared; once for each orientation, and chroma once.
    weights = torch.maximum(*coefficients[2])
    finer = torch.stack([_similarity(one, other, constant) for one, other in coefficients[:2]]).mean(0)
    one, other = (F.avg_pool2d(F.pad(p[:, 1:], (0, 1, 0, 1)), 2, stride=1).abs() for p in planes)
    similar = torch.cat([finer, _similarity(one, other, constant).mean(1, keepdim=True)], 1)
    weights = torch.cat([weights, weights.mean(1, keepdim=True)], 1)
    tiny = torch.finfo(image.dtype).eps
    score = ((alpha * similar).sigmoid() * weights).sum((1, 2, 3)) + tiny
    score = score / (weights.sum((1, 2, 3)) + tiny)
    return (score.logit() / alpha).square()


def gradient_magnitude(image: torch.Tensor) -> torch.Tensor:
    """Return (B,): mean magnitude of forward differences."""
    down, across = image[..., 1:, :-1] - image[..., :-1, :-1], image[..., :-1, 1:] - image[..., :-1, :-1]
    return (down.square() + across.square()).sqrt().mean((1, 2, 3))


def gradient(image: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Return the mean gradient magnitude as a share of the clean image's: below 1 is smoother, above 1 rougher."""
    return gradient_magnitude(image) / gradient_magnitude(clean).clamp(min=1e-8)


FUNCTIONS = {"psnr": psnr, "ssim": ssim, "ms_ssim": ms_ssim, "gmsd": gmsd, "haarpsi": haarpsi, "gradient": gradient}


class Measures:
    """All measures that a bench takes.

    Args:
        extra: those of EXTRA and FOLDER that are asked for.
        device: where learned measures run.

    Attributes:
        usable: those of them that can be had here.
        missing: a line for each of the others, for people.

    Raises:
        UsageError: torchmetrics is not installed, or a name is unknown.
    """

    def __init__(self, extra: Sequence[str] = (), device: torch.device | str = "cpu"):
        try:
            import torchmetrics  # noqa: F401
        except ImportError:
            raise UsageError('measures need the extra packages of pip install "flashdiff[bench]"') from None
        self.device, self.missing = device, []
        self._learned: dict[str, Callable] = {}
        self.usable: tuple[str, ...] = ()
        for name in extra:
            try:
                if name in EXTRA:
                    self._learned[name] = _lpips(name.removeprefix("lpips_"), device)
                elif name in FOLDER:
                    _distribution(name)
                else:
                    continue
            except Exception as error:
                reason = " ".join(str(error).split())[:100] or type(error).__name__
                self.missing.append(f'{name} is left out: it needs pip install "flashdiff[learned]" and downloads its weights ({reason})')
                continue
            self.usable += (name,)

    @torch.no_grad()
    def __call__(self, image: torch.Tensor, clean: torch.Tensor) -> list[dict[str, float | None]]:
        """Measure images (B, 3, H, W) in [-1, 1], clipped by this; one dictionary a sample, None where one cannot be taken."""
        image, clean = ((x.float().cpu().clamp(-1, 1) + 1) / 2 for x in (image, clean))
        columns = {name: function(image, clean) for name, function in FUNCTIONS.items()}
        columns |= {name: function(image, clean) for name, function in self._learned.items()}
        rows = {k: [None] * len(image) if v is None else v.tolist() for k, v in columns.items()}
        return [{k: v[i] for k, v in rows.items()} for i in range(len(image))]

    def of_folder(self, name: str, pairs: Sequence[tuple[Path, Path]]) -> float:
        """Return FID or KID of the PNG files of an arm against the clean ones.

        Args:
            name: one of FOLDER that is usable.
            pairs: (restored, clean) files.
        """
        from flashdiff_cli.pictures.files import read_picture

        metric = _distribution(name, len(pairs)).to(self.device)
        for restored, clean in pairs:
            for path, real in ((restored, False), (clean, True)):
                metric.update((read_picture(path).image.to(self.device) + 1) / 2, real=real)
        value = metric.compute()
        return float(value[0] if isinstance(value, tuple) else value)


def _lpips(network: str, device: torch.device | str) -> Callable:
    """Return LPIPS with the weights of torchmetrics and torchvision; its own weights are downloaded by torchvision."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    metric = LearnedPerceptualImagePatchSimilarity(net_type=cast(Any, network), normalize=True).to(device)

    def measure(image: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        return torch.stack([metric(a[None].to(device), b[None].to(device)).cpu() for a, b in zip(image, clean, strict=True)])

    return measure


def _distribution(name: str, count: int = 100):
    if name == "fid":
        from torchmetrics.image.fid import FrechetInceptionDistance

        return FrechetInceptionDistance(normalize=True)
    from torchmetrics.image.kid import KernelInceptionDistance

    return KernelInceptionDistance(subset_size=max(2, min(count, 100)), normalize=True)
