"""A world in which everything is known: a Gaussian prior, its exact noise predictor, and posteriors in closed form.

Images are 3 x N x N; every channel of the latent is N(0, Sigma) with a smooth Sigma of mean variance 1 (diagonal in the
cosine basis). The first stage turns the three channels into one another, so decoding is linear and loses nothing.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from diffusers import DDIMScheduler

from flashdiff_cli.operators.base import Operator
from flashdiff_cli.priors import Epsilon
from flashdiff_cli.priors.base import as_network
from flashdiff_cli.schedule import Schedule
from flashdiff_cli.solvers import Problem

SIZE = 8
TABLE = DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear").alphas_cumprod


def cosine_basis(n: int = SIZE) -> torch.Tensor:
    """Rows: the orthonormal cosine functions of an n x n picture, (n^2, n^2) float64."""
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)[None]
    one = torch.cos(math.pi * k * (2 * i + 1) / (2 * n)) * math.sqrt(2 / n)
    one[0] /= math.sqrt(2)
    return torch.kron(one, one)


def smooth_variances(n: int = SIZE) -> torch.Tensor:
    """(n^2,) variances in the cosine basis, falling with frequency, of mean 1."""
    k = torch.arange(n, dtype=torch.float64)
    values = 1 / (1 + k[:, None] ** 2 + k[None] ** 2)
    return (values / values.mean()).flatten()


class Mask(Operator):
    """Keep some pixels; the rest is 0."""

    name = "toy-mask"
    help = "keep some pixels"

    def __init__(self, mask: torch.Tensor):
        self.mask = mask

    def forward(self, x):
        return x * self.mask.to(x)

    def adjoint(self, y):
        return y * self.mask.to(y)

    def describe(self, index=0):
        return {}

    def subset(self, active):
        return self


def half_mask(n: int = SIZE) -> Mask:
    """Half of the pixels, drawn once."""
    order = torch.randperm(n * n, generator=torch.Generator().manual_seed(5))
    return Mask((order < n * n // 2).float().view(1, 1, n, n))


class RotatedStage:
    """A first stage that mixes the three channels orthogonally: latent = R image."""

    kind, size_multiple, channels, scale = "toy", 1, 3, 1.0

    def __init__(self):
        generator = torch.Generator().manual_seed(3)
        self.matrix = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q

    def encode(self, image):
        return torch.einsum("kc,bchw->bkhw", self.matrix.to(image), image)

    def decode(self, latent, quantise=True):
        return torch.einsum("kc,bkhw->bchw", self.matrix.to(latent), latent)


class ExactNoise:
    """E[eps | z_t] for z_0 ~ N(0, Sigma): sqrt(1 - abar) (abar Sigma + (1 - abar) I)^-1 z_t; called like a UNet."""

    def __init__(self, variances: torch.Tensor, table: torch.Tensor = TABLE):
        self.variances, self.table, self.basis = variances, table.double(), cosine_basis(math.isqrt(len(variances)))

    def __call__(self, z, timesteps):
        a = self.table[timesteps.cpu()].view(-1, 1, 1)
        gain = ((1 - a).sqrt() / (a * self.variances + 1 - a)).to(z)
        basis = self.basis.to(z)
        eps = ((z.flatten(2) @ basis.T) * gain) @ basis
        return SimpleNamespace(sample=eps.view_as(z))


class GaussianWorld:
    """A measurement of one picture from the prior, with its posterior.

    Args:
        operator: linear.
        noise_std: of the measurement on intensities in [0, 1].
        variances: of the prior in the cosine basis.
        seed: of picture and noise.
    """

    def __init__(self, operator: Operator, noise_std: float = 0.1, variances: torch.Tensor | None = None, seed: int = 0):
        self.operator, self.noise_std, self.stage = operator, noise_std, RotatedStage()
        self.variances = smooth_variances() if variances is None else variances
        self.n = math.isqrt(len(self.variances))
        self.unet = ExactNoise(self.variances)
        generator = torch.Generator().manual_seed(seed)
        basis = self.unet.basis
        white = torch.randn(3, self.n**2, generator=generator, dtype=torch.float64)
        truth = (white * self.variances.sqrt()) @ basis
        self.truth = truth.view(1, 3, self.n, self.n).float()
        self.measurement = operator.measure(self.stage.decode(self.truth), noise_std, [generator])
        self._posterior(basis)

    def _posterior(self, basis: torch.Tensor) -> None:
        """Mean and variances of every image channel: Sigma A' (A Sigma A' + s^2 I)^-1 (y - b), for A(x) = A x + b."""
        pictures = torch.eye(self.n**2).view(-1, 1, self.n, self.n).expand(-1, 3, -1, -1)
        signed = lambda x: self.operator.on_signed(x)[:, 0].flatten(1).double()
        offset = signed(torch.zeros_like(pictures[:1]))
        matrix = (signed(pictures) - offset).T
        prior = basis.T @ torch.diag(self.variances) @ basis
        gain = prior @ matrix.T @ torch.linalg.inv(matrix @ prior @ matrix.T + (2 * self.noise_std) ** 2 * torch.eye(len(matrix)))
        mean = (self.measurement[0].flatten(1).double() - offset) @ gain.T
        self.mean = self.stage.encode(mean.view(1, 3, self.n, self.n)).float()
        self.covariance = prior - gain @ matrix @ prior
        self.variance = self.covariance.diagonal().mean()

    def problem(self, schedule: Schedule, chains: int) -> Problem:
        """The same measurement `chains` times."""
        measurement = self.measurement.expand(chains, -1, -1, -1)
        return Problem(measurement, self.operator, self.stage, Epsilon(as_network(self.unet), TABLE), schedule, torch.full((chains,), self.noise_std))

    def error(self, latents: torch.Tensor) -> float:
        """||sample mean - posterior mean|| / ||posterior mean||."""
        return float((latents.mean(0) - self.mean[0]).norm() / self.mean.norm())

    def sampling_error(self, chains: int) -> float:
        """What `error` is expected to be for that many exact posterior samples."""
        return float((3 * self.covariance.trace() / chains).sqrt() / self.mean.norm())
