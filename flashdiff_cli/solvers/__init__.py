"""Latent solvers: one file each, against the interface in `base`."""

from flashdiff_cli.solvers.base import SOLVERS, Problem, Solver, load_entry_points, sample
from flashdiff_cli.solvers.gml_dps import GMLDPS
from flashdiff_cli.solvers.ldps import LDPS
from flashdiff_cli.solvers.proximal import Proximal
from flashdiff_cli.solvers.psld import PSLD
from flashdiff_cli.solvers.resample import ReSample
from flashdiff_cli.solvers.unguided import Unguided

__all__ = [
    "GMLDPS",
    "LDPS",
    "PSLD",
    "SOLVERS",
    "Problem",
    "Proximal",
    "ReSample",
    "Solver",
    "Unguided",
    "load_entry_points",
    "sample",
]
