"""Fit what a model folder needs to read blur and severity off a reconstruction, and store it there.

    python benchmarks/calibrate.py weights/photos faces=128:FOLDER_OR_TAR natural=256:FOLDER_OR_TAR [--count 100]

Crops of clean pictures are degraded with known widths and noise. The widths that `fit_blur` finds are mapped to the true
ones by a cubic in the logarithm; the true error variance of the latent is fitted by `calibration.terms`. Use pictures
that no result is reported on.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from flashdiff_cli.calibration import calibrated_variance, terms
from flashdiff_cli.operators import GaussianBlur
from flashdiff_cli.operators.estimate import fit_blur, noise_level
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.training.data import Crops, Source, entries

NOISE_STD, NOISE_SPREAD, LOW, HIGH, LEVELS = 0.05, 0.5, 0.3, 3.0, 6


@torch.no_grad()
def observe(pipe, crops, count):
    """Fitted and true widths, noise, reconstructions' terms and true log variances of count * LEVELS measurements."""
    rows = []
    for i in range(count):
        image = crops[i][None]
        latent = pipe.stage.encode(image)
        generator = torch.Generator().manual_seed(i)
        u = torch.rand(LEVELS, generator=generator)
        # Half evenly in pixels, as the figures are taken, and half evenly in the logarithm, for light blurs.
        std = torch.where(torch.arange(LEVELS) % 2 == 0, LOW + (HIGH - LOW) * u, LOW * (HIGH / LOW) ** u)
        noise = NOISE_STD * torch.exp(NOISE_SPREAD * torch.randn(LEVELS, generator=generator))
        generators = [torch.Generator().manual_seed(i * LEVELS + k) for k in range(LEVELS)]
        measured = GaussianBlur(std).measure(image.expand(LEVELS, -1, -1, -1), noise, generators)
        name, encoder = pipe.encoder_for("gaussian-blur")
        estimate = encoder(measured)
        decoded = pipe.stage.decode(estimate.latent).clamp(-1, 1)
        true = (estimate.latent - latent).square().mean((1, 2, 3)).double().log()
        rows.append((fit_blur(measured, decoded), std, noise_level(measured), decoded, true, estimate.variance.double().log()))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("groups", nargs="+", metavar="NAME=SIZE:PATH")
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    pipe = FlashDiffusionPipeline.from_pretrained(options.model)
    rows, weights, names = [], [], []
    for group in options.groups:
        name, _, rest = group.partition("=")
        size, _, path = rest.partition(":")
        found = observe(pipe, Crops([Source(entries(path))], int(size), seed=11), options.count)
        rows += found
        names += [name] * len(found) * LEVELS
    fitted, true = (torch.cat([r[k] for r in rows]) for k in (0, 1))
    x, y = fitted.log().numpy(), true.log().numpy()
    blur = np.polyfit(x, y, 3)
    bounds = [round(float(np.quantile(x, q)), 4) for q in (0.005, 0.995)]
    design = torch.cat([terms(r[0], r[2], r[3], tuple(bounds)) for r in rows]).numpy()
    target = torch.cat([r[4] for r in rows]).numpy()
    coefficients = np.linalg.lstsq(design, target, rcond=None)[0]
    calibration = {"coefficients": [round(float(c), 5) for c in coefficients], "log_width": bounds}
    names = np.array(names)
    own = torch.cat([r[5] for r in rows]).numpy()
    found = torch.cat([calibrated_variance(r[0], r[2], r[3], calibration) for r in rows]).log().numpy()
    for name in dict.fromkeys(names):
        here = names == name
        for label, values in (("encoder", own), ("calibrated", found)):
            difference = (values - target)[here]
            print(f"{name:8} {label:10} log variance: bias {difference.mean():+.2f}, residual {difference.std():.2f}")
        error = np.abs(np.exp(np.polyval(blur, x)) - np.exp(y))[here].mean()
        print(f"{name:8} blur width: mean absolute error {error:.3f} pixels")
    path = options.model / "model_index.json"
    index = json.loads(path.read_text())
    defaults = index.setdefault("defaults", {})
    defaults["blur_calibration"] = [round(float(c), 5) for c in blur]
    defaults["severity_calibration"] = {pipe.encoder_for("gaussian-blur")[0]: calibration}
    path.write_text(json.dumps(index, indent=2) + "\n")


if __name__ == "__main__":
    main()
