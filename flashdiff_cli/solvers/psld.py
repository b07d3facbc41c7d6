"""PSLD: posterior sampling with latent diffusion (Rout et al. 2023; paper section 4). Linear operators only."""

from __future__ import annotations

from flashdiff_cli.parameters import SOLVER_OPTIONS
from flashdiff_cli.solvers.base import SOLVERS, norm
from flashdiff_cli.solvers.guidance import GuidedSolver


@SOLVERS.add
class PSLD(GuidedSolver):
    """z_{t-1} = z'_{t-1} - grad_z (dc_step ||y - A x0|| + ae_weight ||z0 - Enc(x0 + A'y - A'A x0)||), x0 = Dec(z0)."""

    name = "psld"
    help = "PSLD: Latent-DPS with a latent that agrees with the image glued to the measurement; linear operators"
    needs_adjoint = True
    options = SOLVER_OPTIONS["psld"]
    ae_weight: float

    def penalty(self, z0, image, difference, problem):
        # `difference` is y - A x0 in the [-1, 1] range, where the offsets of A have cancelled.
        glued = image + problem.operator.adjoint(difference)
        return self.ae_weight * norm(z0 - problem.first_stage.encode(glued))
