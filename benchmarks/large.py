"""Large photographs: peak memory and time of `flashdiff restore` against pixels, and whether its tiles leave seams.

    python benchmarks/large.py [--megapixels 2 6 12] [--untiled 0.5] [--work out/large] [--json FILE] [-- RESTORE OPTIONS]

What follows `--` is handed to `flashdiff restore`, e.g. `-- --start-step 3` for a quick run. The pictures are mosaics, with
smooth joints, of the public-domain photographs that scikit-image carries (astronaut, chelsea, coffee, rocket) at their own
resolution, blurred with a standard deviation that grows from 0.6 pixels on the left to 2 on the right, so that tiles differ in
severity, and with noise of 0.02. Every restoration is a process of its own,
whose peak memory and processor time the system tells. What is finished in the work folder is not done again.

Seams: the mean absolute difference between neighbouring pixels across the borders of tiles, and in the bands in which tiles
are blended, each as a share of the same elsewhere, and that as a share of the same in the clean picture, so that what it shows
there itself does not count: 1 means that nothing is to be seen. The smallest picture is also restored without tiles and
compared with that. Intervals are 95 % bootstrap intervals over the borders' segments.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from skimage import data

from flashdiff_cli.operators import GaussianBlur
from flashdiff_cli.pictures.files import Picture, read_picture, write_picture
from flashdiff_cli.pictures.tiles import OVERLAP, Canvas, cut

BLUR_STDS, NOISE_STD = (0.6, 1.3, 2.0), 0.02
PATCH, JOINT = 288, 48
"""Side of a piece of the mosaic and the width of its joints, in pixels; no multiple of what restoring uses."""
AWAY = 16
"""Pixels that lie further than this from all borders and their bands are "elsewhere"."""


WATCHER = """
import json, resource, subprocess, sys
with open(sys.argv[1], "w") as out:
    code = subprocess.call(sys.argv[2:], stdout=out)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"code": code, "cpu": used.ru_utime + used.ru_stime, "peak": peak}))
"""
"""A small process between: what the system calls the peak of a process is no less than that of the one that started it,
and this one has held whole pictures."""


def scene(height, width, seed=0):
    """(1, 3, H, W) in [-1, 1]: pieces of photographs, turned and mirrored by chance, blended."""
    rng = np.random.default_rng(seed)
    sources = [getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")]
    canvas = Canvas(3, (height, width), JOINT)
    for tile in cut((height, width), PATCH, 1, JOINT):
        source = np.rot90(sources[rng.integers(len(sources))], rng.integers(4))
        top, left = (int(rng.integers(full - part + 1)) for full, part in zip(source.shape, (tile.height, tile.width), strict=False))
        piece = source[top : top + tile.height, left : left + tile.width]
        piece = piece[:, ::-1] if rng.integers(2) else piece
        canvas.add(tile, torch.from_numpy(np.ascontiguousarray(piece)).permute(2, 0, 1) / 127.5 - 1)
    return canvas.image()[None]


def make(work, megapixels):
    """Write the clean and the degraded picture of a size; their paths."""
    height = round(math.sqrt(megapixels * 1e6 * 3 / 4))
    width = round(height * 4 / 3)
    clean, degraded = work / f"clean-{megapixels:g}.png", work / f"degraded-{megapixels:g}.png"
    if not degraded.exists():
        image = scene(height, width)
        write_picture(Picture(image), clean)
        measured = torch.zeros_like(image)
        place = torch.linspace(0, len(BLUR_STDS) - 1, width)
        for index, std in enumerate(BLUR_STDS):
            share = (1 - (place - index).abs()).clamp(min=0)
            measured += share * GaussianBlur(std).on_signed(image)
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
        write_picture(Picture(measured + 2 * NOISE_STD * noise), degraded)
    return clean, degraded


def restore(source, target, options):
    """Restore in a process of its own: its record, wall and processor seconds, and peak bytes; kept beside the target."""
    log = target.with_suffix(".json")
    if log.exists() and target.exists():
        return json.loads(log.read_text())
    command = [sys.executable, "-m", "flashdiff_cli.commands.app", "restore", str(source), "-o", str(target), "--json", "--quiet"]
    begin = time.perf_counter()
    out = target.with_suffix(".out")
    watcher = [sys.executable, "-c", WATCHER, str(out), *command, "--overwrite", *options]
    found = json.loads(subprocess.run(watcher, stdout=subprocess.PIPE, check=True).stdout)
    found["wall"] = time.perf_counter() - begin
    text = out.read_text()
    found["record"] = json.loads(text.splitlines()[-1]) if text.strip() else None
    if code := found.pop("code"):
        raise SystemExit(f"{source}: restore left with {code}: {found['record'] and found['record']['error']}")
    log.write_text(json.dumps(found))
    return found


def gradients(image, axis):
    """(H, W) mean over the colours of |x[i] - x[i - 1]| along an axis of (3, H, W); 0 at its first line."""
    step = np.abs(np.diff(image, axis=axis + 1)).mean(0)
    return np.pad(step, ((1, 0), (0, 0)) if axis == 0 else ((0, 0), (1, 0)))


def segments(path, tiles):
    """(N, 3): for each segment of a tile's border in a picture file, the mean gradient across it, in the band inside it over
    which the tile is blended with its neighbour, and elsewhere within half a tile."""
    picture = read_picture(path)
    found = []
    for axis, (first, side), (other, across) in ((0, ("top", "height"), ("left", "width")), (1, ("left", "width"), ("top", "height"))):
        # Borders run along the second axis of `slope`.
        slope = gradients(picture.image[0].numpy(), axis)
        slope = slope if axis == 0 else slope.T
        side, length = tiles[0][side], len(slope)
        begins = sorted({t[first] for t in tiles} - {0})
        ends = sorted({t[first] + side for t in tiles if t[first] + side < length})
        near = np.zeros(length, bool)
        for border in begins + ends:
            near[max(0, border - OVERLAP - AWAY) : border + OVERLAP + AWAY] = True
        bands = [(b, slice(b + 1, b + OVERLAP)) for b in begins] + [(e, slice(e - OVERLAP + 1, e)) for e in ends]
        for begin in sorted({t[other] for t in tiles}):
            part = slope[:, begin : begin + tiles[0][across]]
            for border, band in bands:
                window = slice(max(0, border - side // 2), border + side // 2)
                found.append((part[border].mean(), part[band].mean(), part[window][~near[window]].mean()))
    return np.array(found)


def compare(parts, reference, repeats=2000):
    """Borders and bands against elsewhere, as a share of the same in a reference picture, each with a 95 % bootstrap interval."""
    picks = np.random.default_rng(0).integers(len(parts), size=(repeats, len(parts)))
    found = {}
    for name, column in (("border", 0), ("band", 1)):
        sums = [(x[:, column].sum() / x[:, 2].sum(), x[picks, column].sum(1) / x[picks, 2].sum(1)) for x in (parts, reference)]
        low, high = np.quantile(sums[0][1] / sums[1][1], [0.025, 0.975])
        found[name] = [float(sums[0][0] / sums[1][0]), float(low), float(high)]
    return found


def psnr(path, clean):
    error = (read_picture(path).image - read_picture(clean).image) / 2
    return -10 * math.log10(error.square().mean().item())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[2, 6, 12])
    parser.add_argument("--untiled", type=float, default=0.5, help="megapixels of the picture that is restored with and without tiles; 0: none")
    parser.add_argument("--work", type=Path, default=Path("out/large"))
    parser.add_argument("--json", type=Path)
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments, options = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]
    arguments.work.mkdir(parents=True, exist_ok=True)
    results = {"options": options, "blur_stds": BLUR_STDS, "noise_std": NOISE_STD, "sizes": []}
    for megapixels in sorted({*arguments.megapixels, *([arguments.untiled] if arguments.untiled else [])}):
        clean, degraded = make(arguments.work, megapixels)
        target = arguments.work / f"restored-{megapixels:g}.png"
        found = restore(degraded, target, options)
        record = found.pop("record")
        tiles = record["tiles"]
        severities = sorted(t["severity"] for t in tiles)
        found |= {"megapixels": record["width"] * record["height"] / 1e6, "tiles": len(tiles), "severity": severities[:: len(severities) - 1]}
        found |= {"steps": sum(t["steps"] for t in tiles) / len(tiles), "psnr": [psnr(p, clean) for p in (degraded, target)]}
        parts = {name: segments(path, tiles) for name, path in (("clean", clean), ("degraded", degraded), ("restored", target))}
        found["seams"] = {f"{name} / clean": compare(parts[name], parts["clean"]) for name in ("degraded", "restored")}
        print(
            f"{found['megapixels']:5.2f} MP, {found['tiles']} tiles of severity {severities[0]:.2f} to {severities[-1]:.2f}, {found['steps']:.1f} "
            f"steps each: {found['wall']:.0f} s ({found['cpu']:.0f} s of processor), peak {found['peak'] / 1e9:.2f} GB, "
            f"{found['psnr'][0]:.2f} -> {found['psnr'][1]:.2f} dB"
        )
        if megapixels == arguments.untiled:
            whole = arguments.work / f"untiled-{megapixels:g}.png"
            alone = restore(degraded, whole, ["--tile", "0", *options])
            found["untiled"] = {"wall": alone["wall"], "cpu": alone["cpu"], "peak": alone["peak"], "psnr": psnr(whole, clean)}
            found["seams"]["restored / untiled"] = compare(parts["restored"], segments(whole, tiles))
            print(f"    untiled: {alone['wall']:.0f} s, peak {alone['peak'] / 1e9:.2f} GB, {found['untiled']['psnr']:.2f} dB")
        for name, values in found["seams"].items():
            print(f"    seams, {name:20}" + "  ".join(f"{kind} {v[0]:.3f} [{v[1]:.3f}, {v[2]:.3f}]" for kind, v in values.items()), flush=True)
        results["sizes"].append(found)
    pixels, seconds = (np.array([f[key] for f in results["sizes"] if "untiled" not in f]) for key in ("megapixels", "cpu"))
    if len(pixels) > 2:
        # Each size counts by its share that is off, not by its seconds.
        slope, start = np.polyfit(pixels, seconds, 1, w=1 / seconds)
        misfit = float(np.abs((slope * pixels + start) / seconds - 1).max())
        results["fit"] = {"start": start, "seconds_per_megapixel": slope, "largest_misfit": misfit}
        print(f"processor seconds = {start:.0f} + {slope:.1f} x megapixels, off by at most {100 * misfit:.0f} %")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
