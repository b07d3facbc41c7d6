"""Large photographs: peak memory and time of `flashdiff restore` against pixels, and whether its tiles leave seams.

    python benchmarks/large.py [--megapixels 2 6 12] [--untiled 0.5] [--work out/large] [--json FILE] [-- RESTORE OPTIONS]

What follows `--` is handed to `flashdiff restore`, e.g. `-- --start-step 3` for a quick run. The pictures are mosaics, with
smooth joints, of the public-domain photographs that scikit-image carries (astronaut, chelsea, coffee, rocket) at their own
resolution, blurred with a standard deviation that grows from 0.6 pixels on the left to 2 on the right, so that tiles differ in
severity, and with noise of 0.02. Every restoration is a process of its own,
whose peak memory and processor time the system tells. What is finished in the work folder is not done again.

Seams: the mean absolute difference between neighbouring pixels across the borders of tiles, as a share of the same elsewhere,
and the same for the bands in which tiles are blended. 1 means that nothing is to be seen. What the picture itself has there
is seen in the same figures of the clean picture, and of the untiled restoration of the smallest one. Intervals are 95 %
bootstrap intervals over the borders' segments.
"""

import argparse
import json
import math
import os
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
"""Pixels that lie further than this from all borders and bands are "elsewhere"."""


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
    with open(target.with_suffix(".out"), "w+") as out:
        child = subprocess.Popen([*command, "--overwrite", *options], stdout=out)
        _, status, usage = os.wait4(child.pid, 0)
        out.seek(0)
        text = out.read()
    child.returncode = os.waitstatus_to_exitcode(status)
    found = {"wall": time.perf_counter() - begin, "cpu": usage.ru_utime + usage.ru_stime}
    found["peak"] = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    found["record"] = json.loads(text.splitlines()[-1]) if text.strip() else None
    if child.returncode:
        raise SystemExit(f"{source}: restore left with {child.returncode}: {found['record'] and found['record']['error']}")
    log.write_text(json.dumps(found))
    return found


def gradients(image, axis):
    """(H, W) mean over the colours of |x[i] - x[i - 1]| along an axis of (3, H, W); 0 at its first line."""
    step = np.abs(np.diff(image, axis=axis + 1)).mean(0)
    return np.pad(step, ((1, 0), (0, 0)) if axis == 0 else ((0, 0), (1, 0)))


def segments(image, tiles, size):
    """Per segment of a tile's border: mean gradient across it, in the band beside it, and elsewhere in the same tile."""
    found = []
    for axis in (0, 1):
        # Rows and columns are looked at alike: `along` runs across the borders.
        slope = gradients(image, axis)
        slope = slope if axis == 0 else slope.T
        starts = sorted({t["top" if axis == 0 else "left"] for t in tiles})
        side = tiles[0]["height" if axis == 0 else "width"]
        length = size[axis]
        borders = [s for s in starts if s] + [s + side for s in starts if s + side < length]
        near = np.zeros(length, bool)
        bands = np.zeros(length, bool)
        for s in starts[1:]:
            bands[s + 1 : min(s + OVERLAP, length)] = True
        for border in borders:
            bands[border] = False
        for border in np.flatnonzero(bands).tolist() + borders:
            near[max(0, border - AWAY) : border + AWAY] = True
        others = sorted({t["left" if axis == 0 else "top"] for t in tiles})
        across = tiles[0]["width" if axis == 0 else "height"]
        for other in others:
            part = slope[:, other : other + across]
            for border in borders:
                window = slice(max(0, border - side // 2), border + side // 2)
                away = part[window][~near[window]]
                # A band begins or ends at its border: of the first kind are starts of tiles.
                band = slice(border + 1, border + OVERLAP) if border in starts else slice(border - OVERLAP + 1, border)
                found.append((part[border].mean(), part[band].mean(), away.mean()))
    return np.array(found)


def ratio(parts, column, repeats=2000):
    """Sum of a column over that of "elsewhere", and its bootstrap interval."""
    rng = np.random.default_rng(0)
    picks = rng.integers(len(parts), size=(repeats, len(parts)))
    drawn = parts[picks].sum(1)
    low, high = np.quantile(drawn[:, column] / drawn[:, 2], [0.025, 0.975])
    return [float(x) for x in (parts[:, column].sum() / parts[:, 2].sum(), low, high)]


def seams(path, tiles):
    """What `segments` says of a picture file: ratios at borders and in bands."""
    picture = read_picture(path)
    parts = segments(picture.image[0].numpy(), tiles, picture.size)
    return {"border": ratio(parts, 0), "band": ratio(parts, 1)}


def psnr(path, clean):
    error = (read_picture(path).image - read_picture(clean).image) / 2
    return -10 * math.log10(error.square().mean().item())


def show(name, found):
    cells = "  ".join(f"{kind} {v[0]:.3f} [{v[1]:.3f}, {v[2]:.3f}]" for kind, v in found.items())
    print(f"    {name:18} {cells}")


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
        found["seams"] = {"restored": seams(target, tiles), "clean": seams(clean, tiles), "degraded": seams(degraded, tiles)}
        print(
            f"{found['megapixels']:5.2f} MP, {found['tiles']} tiles of severity {severities[0]:.2f} to {severities[-1]:.2f}, {found['steps']:.1f} "
            f"steps each: {found['wall']:.0f} s ({found['cpu']:.0f} s of processor), peak {found['peak'] / 1e9:.2f} GB, "
            f"{found['psnr'][0]:.2f} -> {found['psnr'][1]:.2f} dB"
        )
        for name, values in found["seams"].items():
            show(name, values)
        if megapixels == arguments.untiled:
            whole = arguments.work / f"untiled-{megapixels:g}.png"
            alone = restore(degraded, whole, ["--tile", "0", *options])
            found["untiled"] = {"wall": alone["wall"], "cpu": alone["cpu"], "peak": alone["peak"], "psnr": psnr(whole, clean)}
            found["seams"]["untiled"] = seams(whole, tiles)
            show("untiled", found["seams"]["untiled"])
            print(f"    untiled: {alone['wall']:.0f} s, peak {alone['peak'] / 1e9:.2f} GB, {found['untiled']['psnr']:.2f} dB")
        results["sizes"].append(found)
    sizes = np.array([[f["megapixels"], f["cpu"], f["tiles"]] for f in results["sizes"]])
    if len(sizes) > 2:
        slope, start = np.polyfit(sizes[:, 0], sizes[:, 1], 1)
        left = sizes[:, 1] - (slope * sizes[:, 0] + start)
        power = np.polyfit(np.log(sizes[:, 0]), np.log(sizes[:, 1] - max(start, 0)), 1)[0]
        results["fit"] = {"start": start, "seconds_per_megapixel": slope, "largest_misfit": float(np.abs(left / sizes[:, 1]).max()), "power": power}
        print(
            f"processor seconds = {start:.0f} + {slope:.0f} x megapixels, off by at most {100 * results['fit']['largest_misfit']:.0f} %; "
            f"they grow as pixels to the power {power:.2f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
