"""Measure restorations of every kind of degradation, of files as people have them: blind and told, in colour and grey.

    python benchmarks/kinds.py faces=FOLDER photographs=FOLDER [--kinds blur shake ...] [--limit N] [--side 192] [--pictures FOLDER] [--json FILE]

Each clean picture is cropped to a square of at most SIDE pixels, made grey where asked, degraded with its own seed, and stored as a file (PNG, or
JPEG where the kind says so); what is restored is the file. PSNR, range 1, is the mean of per-picture decibels; "worse" counts results more
than 0.1 dB below their file. Told rows are given the operator and the noise, blind ones nothing. Gains of two models or versions may be
compared on the same folders, since every draw depends on the picture's number alone.
"""

import argparse
import io
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from flashdiff_cli.grey import luma_of
from flashdiff_cli.operators import Enlargement, GaussianBlur, MotionBlur
from flashdiff_cli.operators.motion_blur import path_kernels
from flashdiff_cli.pictures.files import from_pil
from flashdiff_cli.runs.restorer import Restorer
from flashdiff_cli.runs.settings import Settings
from flashdiff_cli.training.data import entries, to_tensor
from flashdiff_cli.training.mixtures import stored

WORSE = 0.1


class Draws:
    """Random numbers of one picture; its noise is the same in all channels of a grey one."""

    def __init__(self, seed, grey):
        self.generator, self.grey = torch.Generator().manual_seed(seed), grey

    def uniform(self, low, high):
        return low + (high - low) * torch.rand((), generator=self.generator).item()

    def noisy(self, x, std):
        shape = (1, 1, *x.shape[2:]) if self.grey else x.shape
        return x + 2 * std * torch.randn(shape, generator=self.generator)


def to_pil(x, grey):
    pixels = ((x[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return picture.convert("L") if grey else picture


def as_jpeg(picture, quality):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=round(quality), subsampling=2)
    return Image.open(file)


def half_size(x, d):
    """Blur, half size, noise, JPEG, and back to the former size: a picture at second hand."""
    y = GaussianBlur(d.uniform(0.5, 1.5)).on_signed(x)
    y = d.noisy(F.interpolate(y, scale_factor=0.5, mode="bicubic", antialias=True), d.uniform(0.01, 0.03))
    y = to_tensor(as_jpeg(to_pil(y, d.grey), d.uniform(60, 90)).convert("RGB"))[None]
    return to_pil(F.interpolate(y, size=x.shape[2:], mode="bicubic"), d.grey)


def noisy_enlarged(x, d):
    """Noise that was enlarged with its picture, so that neighbours share theirs."""
    small = d.noisy(F.interpolate(x, scale_factor=0.5, mode="bicubic", antialias=True), d.uniform(0.01, 0.06))
    return to_pil(F.interpolate(stored(small), size=x.shape[2:], mode="bicubic"), d.grey)


def phone(x, d):
    """Blur, noise and JPEG, the stronger the lower the quality."""
    share = d.uniform(0, 1)
    y = d.noisy(GaussianBlur(0.6 + 2.2 * share).on_signed(x), 0.004 + 0.016 * share)
    return as_jpeg(to_pil(y, d.grey), 95 - 15 * share)


def shaken(x, d):
    kernel = path_kernels(torch.tensor([d.uniform(5, 18)]), torch.tensor([0.3]), d.generator)
    return to_pil(d.noisy(MotionBlur(kernel).on_signed(x), 0.01), d.grey)


def told_blur(width, noise):
    settings = Settings(operator="gaussian-blur", operator_options={"blur_std": width}, noise_std=noise)
    return lambda x, d: (to_pil(d.noisy(GaussianBlur(width).on_signed(x), noise), d.grey), settings)


KINDS = {
    "none": lambda x, d: to_pil(x, d.grey),
    "blur": lambda x, d: to_pil(d.noisy(GaussianBlur(d.uniform(0.8, 3)).on_signed(x), 0.01), d.grey),
    "shake": shaken,
    "noise": lambda x, d: to_pil(d.noisy(x, d.uniform(0.03, 0.12)), d.grey),
    "jpeg": lambda x, d: as_jpeg(to_pil(x, d.grey), d.uniform(10, 50)),
    "enlarged": lambda x, d: to_pil(Enlargement(d.uniform(1.5, 4)).on_signed(x), d.grey),
    "noisy-enlarged": noisy_enlarged,
    "phone": phone,
    "sharp-phone": lambda x, d: as_jpeg(to_pil(d.noisy(x, d.uniform(0.004, 0.02)), d.grey), d.uniform(80, 95)),
    "chain": half_size,
    "told-blur-1.5": told_blur(1.5, 0.02),
    "told-blur-2.5": told_blur(2.5, 0.05),
    "blind-blur-1.5": lambda x, d: told_blur(1.5, 0.02)(x, d)[0],
    "blind-blur-2.5": lambda x, d: told_blur(2.5, 0.05)(x, d)[0],
    "noise-0.05": lambda x, d: to_pil(d.noisy(x, 0.05), d.grey),
    "noise-0.10": lambda x, d: to_pil(d.noisy(x, 0.1), d.grey),
    "jpeg-20": lambda x, d: as_jpeg(to_pil(x, d.grey), 20),
}


def psnr(image, truth):
    return -10 * math.log10(((image.clamp(-1, 1) - truth) / 2).square().mean().item() + 1e-10)


def load(folder, limit, side, skip):
    pictures = [to_tensor(entry.read())[None][..., :side, :side] for entry in entries(folder)[skip : skip + limit]]
    return [stored(x) for x in pictures]


def measure(restorer, x, kind, number, grey, pictures=None):
    """Figures of one picture."""
    if grey:
        x = stored(luma_of(x)[:, None].expand(-1, 3, -1, -1))
    made = KINDS[kind](x, Draws(number, grey))
    file, settings = made if isinstance(made, tuple) else (made, Settings())
    picture = from_pil(file)
    picture.digest = bytes([number % 256]) * 32
    begin = time.process_time()
    result, record = restorer.restore(picture, settings)
    seconds = time.process_time() - begin
    restored = stored(result.image)
    if pictures:
        to_pil(torch.cat([x, picture.image, restored], 3), False).save(pictures)
    before, after = psnr(picture.image, x), psnr(restored, x)
    found = (record.degradation or {}).get("kind", "told")
    return {"input": before, "output": after, "gain": after - before, "found": found, "steps": record.steps, "seconds": seconds}


def summary(rows):
    gains = [row["gain"] for row in rows]
    found = {kind: sum(row["found"] == kind for row in rows) for kind in sorted({row["found"] for row in rows})}
    means = {name: sum(row[name] for row in rows) / len(rows) for name in ("input", "output", "gain", "steps", "seconds")}
    return means | {"least": min(gains), "worse": sum(gain < -WORSE for gain in gains), "pictures": len(rows), "found": found}


def arguments(description, rows, choices):
    """Return a parser of what a comparison over folders of clean pictures is asked; `rows` is the flag that selects among `choices`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--model", default="photos")
    parser.add_argument(rows, nargs="+", choices=choices, default=list(choices))
    parser.add_argument("--limit", type=int, default=30)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--pictures", type=Path, help="folder that gets clean picture, input and results side by side")
    parser.add_argument("--json", type=Path)
    return parser


def load_sets(args):
    """Return the clean pictures of each folder by its name."""
    return {name: load(folder, args.limit, args.side, args.skip) for name, folder in (pair.split("=", 1) for pair in args.folders)}


def main():
    parser = arguments(__doc__, "--kinds", KINDS)
    parser.add_argument("--colour-only", action="store_true")
    args = parser.parse_args()
    restorer, table, sets = Restorer(args.model), [], load_sets(args)
    for kind in args.kinds:
        for name, pictures in sets.items():
            for grey in (False,) if args.colour_only else (False, True):
                rows = []
                for number, x in enumerate(pictures):
                    where = args.pictures and args.pictures / f"{kind}-{name}{'-grey' if grey else ''}-{number}.png"
                    rows.append(measure(restorer, x, kind, number, grey, where))
                row = {"kind": kind, "set": name, "grey": grey} | summary(rows)
                table.append(row | {"rows": rows})
                label = f"{kind:15}{name:12}{'grey' if grey else '':5}"
                figures = f"{row['input']:6.2f} -> {row['output']:6.2f} {row['gain']:+6.2f} least {row['least']:+6.2f} worse {row['worse']:2}"
                print(f"{label}{figures} of {len(rows)}  {row['steps']:4.1f} steps {row['seconds']:5.1f} s  {row['found']}", flush=True)
                if args.json:
                    args.json.write_text(json.dumps(table, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
