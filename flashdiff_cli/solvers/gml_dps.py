"""GML-DPS: Latent-DPS that also asks for a fixed point of the autoencoder (Rout et al. 2023; paper section 4)."""

from __future__ import annotations

from flashdiff_cli.parameters import SOLVER_OPTIONS
from flashdiff_cli.solvers.base import SOLVERS, norm
from flashdiff_cli.solvers.guidance import GuidedSolver


@SOLVERS.add
class GMLDPS(GuidedSolver):
    """z_{t-1} = z'_{t-1} - grad_z ( dc_step || y - A(Dec(z0)) || + ae_weight || z0 - Enc(Dec(z0)) || )."""

    name = "gml-dps"
    help = "GML-DPS: Latent-DPS with a latent that the autoencoder leaves as it is"
    options = SOLVER_OPTIONS["gml-dps"]
    ae_weight: float

    def penalty(self, z0, image, difference, problem):
        return self.ae_weight * norm(z0 - problem.first_stage.encode(image))
