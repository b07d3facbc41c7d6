"""Measure blind restorations of mixtures (blur, resizing, noise and JPEG in chains), of one model or of several side by side.

    python benchmarks/mixtures.py photographs=FOLDER portraits=FOLDER [--model NEW OLD ...] [--limit N] [--side 160] [--json FILE]

Each clean picture is cropped to a square of at most SIDE pixels and degraded with its own seed as `training.mixtures` does: kinds "phone" and
"chain" in turn. Figures are means over pictures with 95 % bootstrap intervals: of models over the input, and of the first over the others, paired.
A picture that was soft by itself and stays soft is among them; "worse" counts results more than 0.1 dB below their input.
"""

import argparse
import json
from pathlib import Path

import torch

from flashdiff_cli.bench.metrics import gmsd, haarpsi, psnr, ssim
from flashdiff_cli.pictures.files import Picture
from flashdiff_cli.runs.restorer import Restorer
from flashdiff_cli.runs.settings import Settings
from flashdiff_cli.stats import mean_interval
from flashdiff_cli.training.data import entries, to_tensor
from flashdiff_cli.training.mixtures import degrade, stored

MEASURES = {"psnr": psnr, "ssim": ssim, "gmsd": gmsd, "haarpsi": haarpsi}
KINDS = "phone", "chain"
WORSE = 0.1


def figures(image, clean):
    """Every measure of one picture, both (1, 3, H, W) in [-1, 1]."""
    return {name: float(measure((image + 1) / 2, (clean + 1) / 2)) for name, measure in MEASURES.items()}


def lessons(folder, limit, side):
    """Clean picture and mixture, both (1, 3, H, W), as 8-bit files hold them."""
    for number, entry in enumerate(entries(folder)[:limit]):
        x = stored(to_tensor(entry.read())[:, :side, :side])
        x = x[:, : x.shape[1] // 16 * 16, : x.shape[2] // 16 * 16]
        made = degrade(x, torch.Generator().manual_seed(number), KINDS[number % len(KINDS)])
        yield number, made.clean[None], made.measured[None]


def shown(values):
    found = mean_interval(values)
    return f"{found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--model", nargs="+", default=["photos"])
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    restorers = {model: Restorer(model) for model in options.model}
    rows = []
    for name, folder in (group.split("=", 1) for group in options.folders):
        own = []
        for number, clean, measured in lessons(folder, options.limit, options.side):
            row = {"set": name, "number": number, "input": figures(measured, clean)}
            for model, restorer in restorers.items():
                picture = Picture(measured)
                picture.digest = bytes([number % 256]) * 32
                result, record = restorer.restore(picture, Settings())
                row[model] = figures(stored(result.image), clean)
                row[f"{model} found"] = (record.degradation or {}).get("kind")
            own.append(row)
        rows += own
        for model in options.model:
            worse = sum(row[model]["psnr"] < row["input"]["psnr"] - WORSE for row in own)
            gains = ", ".join(f"{m} {shown([row[model][m] - row['input'][m] for row in own])}" for m in MEASURES)
            print(f"{name}, {len(own)} pictures, {model} over input: {gains}; worse {worse}", flush=True)
        first = options.model[0]
        for other in options.model[1:]:
            ahead = ", ".join(f"{m} {shown([row[first][m] - row[other][m] for row in own])}" for m in MEASURES)
            print(f"{name}, {first} over {other}: {ahead}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
