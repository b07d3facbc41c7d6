"""What can be done without learning, for scale: classical restorations of scikit-image around any known operator.

Their defaults did best, in PSNR, on a few training pictures with a Gaussian blur and noise of 0.05.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from flashdiff_cli.bench import peers
from flashdiff_cli.errors import NotApplicable, UsageError
from flashdiff_cli.operators import GaussianBlur, MotionBlur, Operator
from flashdiff_cli.operators.inpainting import Inpainting

PSF_SIDE = 121
"""No kernel of the project's blurs at these settings is wider."""

MIN_WEIGHT = 1e-4
"""The denoiser divides by its weight."""


def _psf(operator: Operator, name: str) -> np.ndarray:
    """Return the kernel (k, k) of a blur, k odd, without its empty borders."""
    if not isinstance(operator, (GaussianBlur, MotionBlur)):
        raise NotApplicable(f"{name} needs a blur, and the operator is {operator.name}")
    point = torch.zeros(1, 3, PSF_SIDE, PSF_SIDE)
    middle = PSF_SIDE // 2
    point[..., middle, middle] = 1
    kernel = operator.forward(point)[0, 0].numpy().astype(np.float64)
    rows, columns = np.nonzero(np.abs(kernel) > 1e-9)
    radius = int(max(np.abs(rows - middle).max(), np.abs(columns - middle).max(), 1))
    kernel = kernel[middle - radius : middle + radius + 1, middle - radius : middle + radius + 1]
    return kernel / kernel.sum()


def _each_channel(y: np.ndarray, margin: int, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return a function of (H, W) on each channel of (3, H, W) with mirrored borders around, which these methods wrap."""
    margin = min(margin, min(y.shape[-2:]) - 1)
    wide = np.pad(y, ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
    done = np.stack([function(channel) for channel in wide])
    return done[:, margin : margin + y.shape[1], margin : margin + y.shape[2]]


def wiener(y: torch.Tensor, operator: Operator, noise_std: float, strength: float = 60.0) -> torch.Tensor:
    """Deblur by Wiener-Hunt deconvolution with a Laplacian prior of weight strength x noise variance."""
    from skimage.restoration import wiener as deconvolve

    psf = _psf(operator, "wiener")
    balance = strength * noise_std**2
    return torch.from_numpy(_each_channel(y.numpy(), 2 * psf.shape[0], lambda c: deconvolve(c, psf, balance, clip=False)))


def richardson_lucy(y: torch.Tensor, operator: Operator, noise_std: float, iterations: int = 4) -> torch.Tensor:
    """Deblur by Richardson-Lucy deconvolution; few iterations, because it fits the noise in the end."""
    from skimage.restoration import richardson_lucy as deconvolve

    psf = _psf(operator, "richardson-lucy")
    positive = y.clamp(min=1e-3).numpy()
    return torch.from_numpy(_each_channel(positive, 2 * psf.shape[0], lambda c: deconvolve(c, psf, iterations, clip=False)))


def tv(y: torch.Tensor, operator: Operator, noise_std: float, strength: float = 0.3, iterations: int = 100, inner: int = 20) -> torch.Tensor:
    """Return argmin |A x - y|^2 / 2 + strength x noise_std x TV(x), by accelerated proximal gradient steps (FISTA), whose
    proximal map is scikit-image's Chambolle denoiser."""
    from skimage.restoration import denoise_tv_chambolle

    if not operator.linear:
        raise NotApplicable(f"tv needs a linear operator, and {operator.name} is not")
    measured = y[None]
    x = operator.resize_to_image(measured)
    bound = _gain_bound(operator, x)
    weight = max(strength * noise_std / bound, MIN_WEIGHT)
    ahead, pace = x, 1.0
    for _ in range(iterations):
        stepped = ahead - operator.adjoint(operator.forward(ahead) - measured) / bound
        smooth = denoise_tv_chambolle(stepped[0].numpy(), weight, eps=0, max_num_iter=inner, channel_axis=0)
        now = torch.from_numpy(smooth).to(x)[None]
        faster = (1 + (1 + 4 * pace**2) ** 0.5) / 2
        ahead, x, pace = now + (pace - 1) / faster * (now - x), now, faster
    return x[0]


def _gain_bound(operator: Operator, like: torch.Tensor) -> float:
    """Return an upper bound of the largest eigenvalue of A'A, by power iteration."""
    x = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like)
    value = 1.0
    for _ in range(10):
        x = operator.adjoint(operator.forward(x / x.norm()))
        value = x.norm().item()
    return 1.1 * value


def biharmonic(y: torch.Tensor, operator: Operator, noise_std: float) -> torch.Tensor:
    """Inpaint biharmonically: missing pixels continue their surroundings smoothly; kept ones stay as they are, noise and all."""
    from skimage.restoration import inpaint_biharmonic

    mask = operator.mask[0, 0] if isinstance(operator, Inpainting) else None
    if mask is None or not bool(((mask == 0) | (mask == 1)).all()):
        raise NotApplicable(f"biharmonic needs missing pixels, and the operator is {operator.name}")
    missing = (mask == 0).numpy()
    if not missing.any():
        return y
    return torch.from_numpy(inpaint_biharmonic(y.numpy().astype(np.float64), missing, channel_axis=0))


METHODS: dict[str, Callable[..., torch.Tensor]] = {
    "splitting": peers.splitting,
    "denoise": peers.denoise,
    "opencv-inpaint": peers.opencv_inpaint,
    "real-esrgan": peers.real_esrgan,
    "wiener": wiener,
    "richardson-lucy": richardson_lucy,
    "tv": tv,
    "biharmonic": biharmonic,
}
CLASSICAL = tuple(METHODS)


def complete(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return all settings of a method: its own under the given ones.

    Raises:
        UsageError: it has no such setting.
    """
    own = {p.name: p.default for p in inspect.signature(METHODS[name]).parameters.values() if p.default is not p.empty}
    if unknown := sorted(set(given) - set(own)):
        raise UsageError(f"baseline {name} has no setting {unknown[0]!r}; it has {', '.join(own) or 'none'}")
    return own | given


def restore(name: str, measurement: torch.Tensor, operator: Operator, noise_std: float, settings: dict[str, Any]) -> torch.Tensor:
    """Restore one measurement.

    Args:
        name: one of CLASSICAL.
        measurement: (1, 3, H', W') in [-1, 1] units.
        operator: of this sample, on the CPU.
        noise_std: on intensities in [0, 1].
        settings: keyword arguments of the method.

    Returns:
        (1, 3, H, W) in [-1, 1], clipped.

    Raises:
        NotApplicable: the method does not go with this operator.
        UsageError: scikit-image is not installed, or it has no such setting.
    """
    try:
        import skimage  # noqa: F401
    except ImportError:
        raise UsageError('classical baselines need the extra packages of pip install "flashdiff[bench]"') from None
    settings = complete(name, settings)
    y = (measurement[0].float().cpu() + 1) / 2
    image = METHODS[name](y, operator, noise_std, **settings)
    return (2 * image.to(torch.float32)[None] - 1).clamp(-1, 1)
