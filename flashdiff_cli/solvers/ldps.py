"""Latent-DPS: diffusion posterior sampling through the decoder (Chung et al. 2023; paper section 4, LDPS)."""

from __future__ import annotations

from flashdiff_cli.solvers.base import SOLVERS
from flashdiff_cli.solvers.guidance import GuidedSolver


@SOLVERS.add
class LDPS(GuidedSolver):
    """z_{t-1} = z'_{t-1} - dc_step grad_z || y - A(Dec(z0)) ||."""

    name = "ldps"
    help = "Latent-DPS: gradient of the measurement error through UNet and decoder"

    def penalty(self, z0, image, difference, problem):
        return 0.0
