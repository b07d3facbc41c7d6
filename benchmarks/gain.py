"""Measure how far a model's estimate of the clean latent can be trusted where nearly all is noise, and store it there.

    python benchmarks/gain.py weights/photos FOLDER [FOLDER ...] [--limit 8] [--size 96]

For timesteps of the noisier half: g = E<z0, z0_true> / E<z0, z0> over clean pictures and drawn noise (`flashdiff_cli/denoiser.py`), at
most 1. A network whose estimates need no shrinking gets gains near 1. Use pictures that no result is reported on.
"""

import argparse
import json
from pathlib import Path

import torch

from flashdiff_cli.bench.dataset import centre
from flashdiff_cli.hub.checksums import write_sums
from flashdiff_cli.pictures.files import read_picture
from flashdiff_cli.pipeline import FlashDiffusionPipeline

EVERY = 50
DRAWS = 2


@torch.no_grad()
def gain_at(pipe, latents, timestep):
    """g of one timestep, from (B, C, h, w) clean latents."""
    schedule = pipe.schedule(len(pipe.denoiser.table), 1.0)
    level = torch.full((len(latents),), timestep + 1)
    along = power = 0.0
    for draw in range(DRAWS):
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(DRAWS * timestep + draw))
        z = schedule.add_noise(latents, noise, level)
        estimate = pipe.denoiser.prior.predict(z, schedule.timestep(level)).clean
        along += (estimate * latents).sum().item()
        power += estimate.square().sum().item()
    return max(0.0, min(1.0, along / power))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--limit", type=int, default=8, help="pictures of each folder")
    parser.add_argument("--size", type=int, default=96)
    arguments = parser.parse_args()
    pipe = FlashDiffusionPipeline.from_pretrained(arguments.model)
    files = [f for folder in arguments.folders for f in sorted(folder.iterdir())[: arguments.limit]]
    images = []
    for file in files:
        images.append(centre(read_picture(file).image, arguments.size, pipe.size_multiple))
    with torch.no_grad():
        latents = pipe.stage.encode(torch.cat(images)).float()
    total = len(pipe.denoiser.table)
    # The first entry holds for all timesteps below: a run from a matched start sees the network's own predictions.
    table = [[total // 2, 1.0]]
    for timestep in [*range(total // 2 + EVERY, total, EVERY), total - 1]:
        table.append([timestep, round(gain_at(pipe, latents, timestep), 3)])
        print(f"timestep {table[-1][0]}: gain {table[-1][1]}", flush=True)
    index = arguments.model / "model_index.json"
    content = json.loads(index.read_text())
    content["defaults"]["denoiser_gain"] = table
    index.write_text(json.dumps(content, indent=2) + "\n")
    write_sums(arguments.model)


if __name__ == "__main__":
    main()
