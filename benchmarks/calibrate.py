"""Fit what a model folder needs to read blur and severity off a reconstruction, and store it there.

    python benchmarks/calibrate.py weights/photos faces=128:FOLDER_OR_TAR natural=256:FOLDER_OR_TAR [--count 100]

Crops of clean pictures are degraded with known widths and noise. What the reconstructions show (`calibration.terms`) is
fitted to the logarithm of the true error variance of the latent, by least squares, and to that of the true width, by its
quantile. Each group weighs the same. Use pictures that no result is reported on.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import QuantileRegressor

from flashdiff_cli.calibration import BlurFeatures, calibrated_variance, calibrated_width, logarithms, mean_gradient, terms
from flashdiff_cli.operators import GaussianBlur
from flashdiff_cli.operators.estimate import fit_blur, noise_level
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.training.data import Crops, Source, entries

NOISE_STD, NOISE_SPREAD, LOW, HIGH, LEVELS = 0.05, 0.3, 0.3, 3.0, 6
FAINT, SHARP = 0.002, 0.2
WIDTH_QUANTILE = 0.12
RIDGE = 1e-3


@torch.no_grad()
def observe(pipe, crops, count):
    """The four parts of the features, true widths, true error variances and noise of count * LEVELS measurements."""
    rows = []
    _, encoder = pipe.encoder_for("gaussian-blur")
    for i in range(count):
        image = crops[i][None]
        latent = pipe.stage.encode(image)
        generator = torch.Generator().manual_seed(i)
        u, v = torch.rand(2, LEVELS, generator=generator)
        # Half as the figures are taken, evenly in pixels and with noise around 0.05; half wherever real pictures may be.
        real = torch.arange(LEVELS) % 2 == 1
        std = torch.where(real, SHARP * (HIGH / SHARP) ** u, LOW + (HIGH - LOW) * u)
        around = NOISE_STD * torch.exp(NOISE_SPREAD * torch.randn(LEVELS, generator=generator))
        noise = torch.where(real, FAINT * (2 * NOISE_STD / FAINT) ** v, around)
        generators = [torch.Generator().manual_seed(i * LEVELS + k) for k in range(LEVELS)]
        measured = GaussianBlur(std).measure(image.expand(LEVELS, -1, -1, -1), noise, generators)
        estimate = encoder(measured)
        decoded = pipe.stage.decode(estimate.latent).clamp(-1, 1)
        true = (estimate.latent - latent).square().mean((1, 2, 3))
        shown = (fit_blur(measured, decoded), noise_level(measured), mean_gradient(decoded), estimate.variance)
        rows.append((*shown, std, true, noise))
    return [torch.cat(column) for column in zip(*rows, strict=True)]


def fit(features, std, true, weights):
    """The calibration that a model folder keeps."""
    ends = torch.quantile(logarithms(features), torch.tensor([0.005, 0.995], dtype=torch.float64), 0)
    bounds = [[round(v, 4) for v in pair] for pair in ends.T.tolist()]
    design = terms(features, bounds)[:, 1:].numpy()
    middle, spread = design.mean(0), design.std(0)
    scaled = np.column_stack([np.ones(len(design)), (design - middle) / spread])
    penalty = RIDGE * weights.sum() * np.diag([0.0] + [1.0] * design.shape[1])
    variance = np.linalg.solve(scaled.T @ (weights[:, None] * scaled) + penalty, scaled.T @ (weights * true.log().numpy()))
    model = QuantileRegressor(quantile=WIDTH_QUANTILE, alpha=1e-4).fit(scaled[:, 1:], std.log().numpy(), sample_weight=weights)
    width = np.concatenate([[model.intercept_], model.coef_])
    found = {}
    for name, c in (("variance", variance), ("width", width)):
        slopes = c[1:] / spread
        found[name] = [round(float(v), 6) for v in (c[0] - slopes @ middle, *slopes)]
    return found | {"bounds": bounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("groups", nargs="+", metavar="NAME=SIZE:PATH")
    parser.add_argument("--count", type=int, default=100, help="crops of each group")
    parser.add_argument("--keep", help="save all observations there (.npz)")
    options = parser.parse_args()
    pipe = FlashDiffusionPipeline.from_pretrained(options.model)
    columns, names = [], []
    for group in options.groups:
        name, _, rest = group.partition("=")
        size, _, path = rest.partition(":")
        columns.append(observe(pipe, Crops([Source(entries(path))], int(size), seed=11), options.count))
        names += [name] * len(columns[-1][0])
    *shown, std, true, noise = (torch.cat(column) for column in zip(*columns, strict=True))
    if options.keep:
        np.savez(options.keep, names=names, **{f"column{i}": c.numpy() for i, c in enumerate((*shown, std, true, noise))})
    features, names = BlurFeatures(*shown), np.array(names)
    calibration = fit(features, std, true, np.array([len(names) / np.sum(names == name) for name in names]))
    found, blur = calibrated_variance(features, calibration), calibrated_width(features, calibration)
    usual = (noise > NOISE_STD / 2).numpy()
    for name, here in [(n, (names == n) & usual) for n in dict.fromkeys(names)] + [("faint", ~usual)]:
        for label, values in (("encoder", features.variance), ("calibrated", found)):
            off = (values.log() - true.log())[here]
            print(f"{name:8} {label:10} log variance: bias {off.mean():+.2f}, residual {off.std():.2f}")
        off = (blur - std)[here]
        print(f"{name:8} blur width: mean absolute error {off.abs().mean():.3f} pixels, too large in {(off > 0).float().mean():.0%}")
    path = options.model / "model_index.json"
    index = json.loads(path.read_text())
    index.setdefault("defaults", {})["calibration"] = {pipe.encoder_for("gaussian-blur")[0]: calibration}
    path.write_text(json.dumps(index, indent=2) + "\n")


if __name__ == "__main__":
    main()
