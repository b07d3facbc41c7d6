"""Enlarging against interpolation: clean pictures are made small and enlarged again; PSNR in dB, mean over the pictures.

python benchmarks/enlarge.py FOLDER [--limit 8] [--scale 2 4] [--fast]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from flashdiff_cli.pictures.files import from_pil, read_picture
from flashdiff_cli.runs.inputs import find
from flashdiff_cli.runs.restorer import Restorer
from flashdiff_cli.runs.settings import Settings

LARGEST = 256
"""Pixels of a side: of larger pictures the middle is taken."""


def psnr(a: Image.Image, b: Image.Image) -> float:
    return float(10 * np.log10(255**2 / np.mean((np.asarray(a, float) - np.asarray(b, float)) ** 2)))


def middle(picture: Image.Image, multiple: int) -> Image.Image:
    """At most LARGEST pixels a side, a multiple of what it is to be divided by."""
    width, height = (min(side, LARGEST) // multiple * multiple for side in picture.size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+", help="clean pictures, none of which a training has seen")
    parser.add_argument("--limit", type=int, default=8, help="pictures of each folder")
    parser.add_argument("--scale", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--fast", action="store_true", help="without diffusion steps")
    given = parser.parse_args()
    restorer = Restorer()
    print("| folder | scale | pictures | bicubic | Lanczos | flashdiff | over Lanczos, least to most |\n" + "| --- " * 7 + "|")
    for folder in given.folder:
        pictures = [read_picture(job.source).to_rgb() for job in find([folder], limit=given.limit)]
        for scale in given.scale:
            rows = []
            for picture in pictures:
                truth = middle(picture, 4 * scale)
                small = truth.resize((truth.width // scale, truth.height // scale), Image.Resampling.BICUBIC)
                result, _ = restorer.restore(from_pil(small), Settings(scale=scale, start_step=0 if given.fast else None))
                others = [small.resize(truth.size, way) for way in (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)]
                rows.append([psnr(one, truth) for one in (*others, result.to_rgb())])
                print(f"{folder.name}, {scale} times, {len(rows)} of {len(pictures)}", file=sys.stderr)
            bicubic, lanczos, own = np.mean(rows, 0)
            gains = [row[2] - row[1] for row in rows]
            print(
                f"| {folder.name} | {scale} | {len(rows)} | {bicubic:.2f} | {lanczos:.2f} | {own:.2f} | "
                f"{np.mean(gains):+.2f} ({min(gains):+.2f} to {max(gains):+.2f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
