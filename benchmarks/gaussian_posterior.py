"""How near the solvers come to a posterior mean that is known in closed form, by number of steps.

Usage: python benchmarks/gaussian_posterior.py [--chains 256] [--operator mask|blur] [--steps N ...] [--only NAME]

A Gaussian prior with its exact noise predictor, a linear operator, and many chains on one measurement. The error is
that of the chains' mean, relative to the posterior mean's norm; `floor` is what exact posterior samples would show.
"From noise" runs the whole grid; "matched" starts from the posterior mean and its mean variance, as an ideal severity
encoder would give them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from gaussian_toy import TABLE, GaussianWorld, half_mask

from flashdiff_cli import flash
from flashdiff_cli.operators import GaussianBlur
from flashdiff_cli.schedule import Schedule
from flashdiff_cli.severity import SeverityEstimate
from flashdiff_cli.solvers import SOLVERS, Solver, sample

STEPS = (10, 50, 250, 1000)

VARIANTS: dict[str, tuple[str, dict]] = {
    "unguided": ("unguided", {}),
    "ldps": ("ldps", {}),
    "ldps, bayes": ("ldps", {"guidance": "bayes"}),
    "gml-dps": ("gml-dps", {}),
    "gml-dps, bayes": ("gml-dps", {"guidance": "bayes"}),
    "psld": ("psld", {}),
    "psld, bayes": ("psld", {"guidance": "bayes"}),
    "proximal": ("proximal", {}),
    "resample": ("resample", {}),
    "resample, every step": ("resample", {"every": 1}),
    "resample, solved": ("resample", {"every": 1, "inner_stop": 0.0, "inner_steps": 20}),
}


def run(solver: Solver, world: GaussianWorld, steps: int, matched: bool, chains: int) -> tuple[torch.Tensor, int]:
    """Final latents (chains, 3, N, N) and the number of steps run."""
    schedule = Schedule.from_table(TABLE, steps, solver.default_eta, spacing=solver.spacing or "leading")
    problem = world.problem(schedule, chains)
    generators = [torch.Generator().manual_seed(i) for i in range(chains)]
    if matched:
        estimate = SeverityEstimate(world.mean.expand(chains, -1, -1, -1), torch.full((chains,), float(world.variance)))
        start = flash.matched(estimate, schedule, generators)
    else:
        start = flash.from_noise((chains, *world.mean.shape[1:]), schedule, generators, world.mean)
    return sample(solver, problem, start, generators), int(start.level[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chains", type=int, default=256)
    parser.add_argument("--operator", choices=("mask", "blur"), default="mask")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--only", help="variants whose name contains this")
    args = parser.parse_args()
    torch.set_num_threads(1)
    world = GaussianWorld(half_mask() if args.operator == "mask" else GaussianBlur(1.0))
    print(f"operator {args.operator}, {args.chains} chains, floor {world.sampling_error(args.chains):.3f}\n")
    heads = [f"{n} from {where}" for where in ("noise", "matched start") for n in args.steps]
    print("| solver | " + " | ".join(heads) + " |")
    print("|---" * (len(heads) + 1) + "|")
    for label, (name, settings) in VARIANTS.items():
        if args.only and args.only not in label:
            continue
        cells = []
        for matched in (False, True):
            for steps in args.steps:
                latents, ran = run(SOLVERS[name](**settings), world, steps, matched, args.chains)
                cells.append(f"{world.error(latents):.3f}" + (f" ({ran})" if matched else ""))
        print(f"| {label} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
