"""Fit the correction of the blind blur estimate on clean pictures and store it in a model folder.

    python benchmarks/calibrate_blur.py weights/photos PICTURES... [--count 200]

Clean crops are degraded with known widths; the widths that `fit_blur` finds from the severity encoder's
reconstruction are mapped to the true ones by a cubic in the logarithm. Use pictures that no result is reported on.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from flashdiff_cli.operators import GaussianBlur
from flashdiff_cli.operators.estimate import fit_blur
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.training.data import Crops, Source, entries

NOISE_STD, LOW, HIGH, BATCH, SIZE = 0.05, 0.3, 3.0, 8, 128


@torch.no_grad()
def widths(pipe, crops, count):
    """Fitted and true blur widths (count,) each."""
    fitted, true = [], []
    for first in range(0, count, BATCH):
        images = torch.stack([crops[i] for i in range(first, first + BATCH)])
        generator = torch.Generator().manual_seed(first)
        std = torch.exp(torch.empty(BATCH).uniform_(np.log(LOW), np.log(HIGH), generator=generator))
        generators = [torch.Generator().manual_seed(first + i) for i in range(BATCH)]
        measured = GaussianBlur(std).measure(images, NOISE_STD, generators)
        fitted.append(fit_blur(measured, pipe.analyse(measured, "gaussian-blur").decoded))
        true.append(std)
    return torch.cat(fitted).numpy(), torch.cat(true).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    pipe = FlashDiffusionPipeline.from_pretrained(options.model)
    groups = [Source(entries(path)) for path in options.pictures]
    fitted, true = widths(pipe, Crops(groups, SIZE, seed=11), options.count)
    x, y = np.log(fitted), np.log(true)
    coefficients = np.polyfit(x, y, 3)
    corrected = np.exp(np.polyval(coefficients, x))
    for name, values in (("fitted", fitted), ("corrected", corrected)):
        print(f"{name:10} mean absolute error {np.abs(values - true).mean():.3f} pixels, correlation {np.corrcoef(values, true)[0, 1]:.3f}")
    path = options.model / "model_index.json"
    index = json.loads(path.read_text())
    index.setdefault("defaults", {})["blur_calibration"] = [round(float(c), 5) for c in coefficients]
    path.write_text(json.dumps(index, indent=2) + "\n")


if __name__ == "__main__":
    main()
